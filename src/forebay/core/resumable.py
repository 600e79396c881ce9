"""Resumable Uploads for HTTP (draft-ietf-httpbis-resumable-upload): what a message says, and what an answer says.

The drafts differ in what they call things and in what they ask of a server; each difference is a column of
`VERSIONS`, and nothing else asks which version it is.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass, replace

from forebay.core.digests import hex_length
from forebay.core.fields import Fields
from forebay.core.structured import (
    format_boolean,
    format_integer,
    parse_boolean,
    parse_dictionary,
    parse_integer,
    parse_item,
)
from forebay.errors import ForebayError, LengthMismatch, OffsetMismatch, UploadFieldInvalid, UploadFinished

Pairs = tuple[tuple[str, str], ...]

PARTIAL_UPLOAD = "application/partial-upload"
"""The media type of bytes that go on with an upload."""

CURRENT = 8
"""The interop version that counts when a message names none that is known."""


@dataclass(frozen=True, slots=True)
class Interop:
    """One interop version: how it differs from the others.

    *drafts*: which of draft-ietf-httpbis-resumable-upload-NN have it. *completeness*: the field that says whether
    the message ends its upload; *is_inverted*: by being false. *silence*: what an append means that does not say;
    None: it must. *append_type*: the media type that an append must have; *appended*: the status of one that does
    not end its upload. *asks_bare*: HEAD and DELETE must not carry fields of the upload's state. *age_limit*: what
    the lifetime is called in Upload-Limit; None: there is no such field. *gone*: the status of what has expired.
    *ends_overlong*: an upload that got more bytes than its length is void. *get_tells*: GET tells the offset of an
    upload that is not complete, as HEAD does.
    """

    version: int
    drafts: str
    completeness: str = "Upload-Complete"
    is_inverted: bool = False
    silence: bool | None = None
    append_type: str | None = PARTIAL_UPLOAD
    appended: int = 204
    asks_bare: bool = False
    age_limit: str | None = "max-age"
    gone: int = 410
    ends_overlong: bool = False
    get_tells: bool = False


_FOURTH = Interop(4, "02", silence=False, append_type=None, appended=201, asks_bare=True, age_limit=None, gone=404)

VERSIONS: dict[int, Interop] = {
    known.version: known
    for known in (
        replace(_FOURTH, version=3, drafts="01", completeness="Upload-Incomplete", is_inverted=True, silence=True),
        _FOURTH,
        replace(_FOURTH, version=5, drafts="03"),
        Interop(6, "04, 05", age_limit="expires"),
        Interop(7, "06 to 08"),
        Interop(8, "09 to 12", ends_overlong=True),
        Interop(9, "after 12", ends_overlong=True, get_tells=True),
    )
}
"""The interop versions that are spoken."""


def interop_of(fields: Fields) -> Interop:
    """The version that a message names in Upload-Draft-Interop-Version; the current one for any other."""
    named = parse_integer(parse_item(fields.joined("upload-draft-interop-version")))
    return VERSIONS.get(CURRENT if named is None else named, VERSIONS[CURRENT])


@dataclass(frozen=True, slots=True)
class Said:
    """What a message says of its upload; None: nothing, or nothing that can be, which counts as nothing.

    *is_last*: whether its content ends the upload. *offset*: where the content belongs. *length*: of the whole.
    """

    interop: Interop
    is_last: bool | None
    offset: int | None
    length: int | None

    @property
    def is_bare(self) -> bool:
        """Whether it says nothing of the upload's state."""
        return self.is_last is None and self.offset is None


def read(fields: Fields) -> Said:
    """What *fields* of an incoming message say."""
    interop = interop_of(fields)
    said = parse_boolean(parse_item(fields.joined(interop.completeness)))
    return Said(
        interop,
        is_last=None if said is None else said is not interop.is_inverted,
        offset=_count(fields, "upload-offset"),
        length=_count(fields, "upload-length"),
    )


def _count(fields: Fields, name: str) -> int | None:
    number = parse_integer(parse_item(fields.joined(name)))
    return number if number is not None and number >= 0 else None


# --- digests: RFC 9530 --------------------------------------------------------------------------------

# As registered; what is not here is ignored, as the RFC says. Strongest first.
_ALGORITHMS = {"sha-512": "sha512", "sha-256": "sha256", "sha": "sha1", "md5": "md5"}


def read_digests(fields: Fields, name: str) -> dict[str, str]:
    """The digests in a Repr-Digest or Content-Digest field, in hex by hashlib name, the strongest first; those of
    other algorithms are ignored (RFC 9530 section 2). Raises `UploadFieldInvalid` for a field that is none."""
    members = parse_dictionary(fields.joined(name) or "")
    if members is None:
        raise UploadFieldInvalid(name, expected="a dictionary of digests (RFC 9530)", got="something else")
    found: dict[str, str] = {}
    for registered, hasher in _ALGORITHMS.items():
        if registered in members:
            raw = _byte_sequence(members[registered])
            if raw is None or len(raw) * 2 != hex_length(hasher):
                expected = f"{registered}=: and {hex_length(hasher) // 2} bytes in base64 and :"
                raise UploadFieldInvalid(name, expected=expected, got="something else")
            found[hasher] = raw.hex()
    return found


def _byte_sequence(item: str) -> bytes | None:
    if len(item) < 2 or item[0] != ":" or item[-1] != ":":
        return None
    try:
        return base64.b64decode(item[1:-1], validate=True)
    except ValueError:
        return None


# --- answers ------------------------------------------------------------------------------------------


def state_fields(interop: Interop, *, is_complete: bool, offset: int | None, length: int | None = None) -> Pairs:
    """The fields that tell how an upload stands; of *offset* and *length*, what is known."""
    fields = [(interop.completeness, format_boolean(is_complete is not interop.is_inverted))]
    if offset is not None:
        fields.append(("Upload-Offset", format_integer(offset)))
    if length is not None:
        fields.append(("Upload-Length", format_integer(length)))
    return tuple(fields)


def limit_fields(interop: Interop, *, max_size: int | None, age_s: float | None) -> Pairs:
    """Upload-Limit. *age_s*: how long the upload will live, None for ever."""
    if interop.age_limit is None:
        return ()
    limits = [] if max_size is None else [f"max-size={format_integer(max_size)}"]
    if age_s is not None:
        limits.append(f"{interop.age_limit}={format_integer(max(0, int(age_s)))}")
    return (("Upload-Limit", ", ".join(limits) or "min-size=0"),)  # an empty field would be none


_PROBLEM_TYPES = "https://iana.org/assignments/http-problem-types#"


def problem_members(error: ForebayError) -> dict[str, str | int]:
    """What the problem document of *error* has beyond the usual: the draft's type, and what belongs to that."""
    match error:
        case OffsetMismatch(expected=expected, got=got):
            title = "offset from request does not match offset of resource"
            kind, more = "mismatching-upload-offset", {"expected-offset": expected, "provided-offset": got}
        case LengthMismatch():
            kind, title, more = "inconsistent-upload-length", "inconsistent length values for upload", {}
        case UploadFinished():
            kind, title, more = "completed-upload", "upload is already completed", {}
        case _:
            return {}
    return {"type": _PROBLEM_TYPES + kind, "title": title, **more}


def whole_length(*known: int | None, offset: int, content_length: int | None, is_last: bool) -> int | None:
    """The length of the whole as *known* so far, and as the message tells it whose content goes at *offset*; None:
    nobody knows. Raises `LengthMismatch` when they differ, or when the content goes beyond it."""
    stop = None if content_length is None else offset + content_length
    lengths = {length for length in (*known, stop if is_last else None) if length is not None}
    if not lengths:
        return None
    length = min(lengths)
    if len(lengths) > 1:
        raise LengthMismatch(expected=str(length), got=max(lengths))
    if stop is not None and stop > length:
        raise LengthMismatch(expected=str(length), got=stop)
    return length
