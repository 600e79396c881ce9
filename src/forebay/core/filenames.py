"""The name under which a person keeps content: Content-Disposition, the URL, and what file systems bear.

Never part of a path of ours (DESIGN.md section 2, number 7): a caller who asks for a file gets one of this
name.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from urllib.parse import quote, unquote_to_bytes

MAX_FILENAME_BYTES = 255
"""The longest name of a file in UTF-8: NAME_MAX of Linux, and within the limits of APFS and NTFS."""

# --- Content-Disposition ------------------------------------------------------------------------------

_TYPE = re.compile(r"[ \t]*([!#$%&'*+.^_`|~0-9A-Za-z-]+)(?=[ \t;]|$)(?![ \t]*=)")
_PARAMETER = re.compile(r';?[ \t]*([^=; \t"]+)[ \t]*=[ \t]*(?:"((?:[^"\\]|\\.)*)"?|([^;]*))', re.DOTALL)
_QUOTED_PAIR = re.compile(r"\\(.)", re.DOTALL)
_BAD_PERCENT = re.compile(rb"%(?![0-9A-Fa-f]{2})")


def parse_content_disposition(value: str | None) -> tuple[str, str | None]:
    """The disposition type in lower case (empty when absent) and the file name that the origin proposes.

    RFC 6266: ``filename*`` (RFC 8187, UTF-8 or ISO-8859-1) comes first; a broken one falls back to
    ``filename``. Takes what servers send: missing quotes, raw UTF-8 that was decoded as latin-1, stray
    semicolons. The name is as sent, unsafe: see `safe_filename`.
    """
    if value is None:
        return "", None
    found = _TYPE.match(value)
    disposition, position = (found[1].lower(), found.end()) if found else ("", 0)
    names: dict[str, str] = {}
    while 0 <= position < len(value):
        parameter = _PARAMETER.match(value, position)
        if parameter is not None:
            name, quoted, plain = parameter.groups()
            text = plain.strip() if quoted is None else _QUOTED_PAIR.sub(r"\1", quoted)
            decoded = _extended(text) if name.endswith("*") else _repaired(text)
            if decoded:
                names.setdefault(name.lower(), decoded)  # the first one counts, as in browsers
            position = parameter.end()
        position = value.find(";", position + (parameter is None))
    return disposition, names.get("filename*") or names.get("filename")


def _extended(text: str) -> str | None:
    """Decode ``charset'language'percent-encoded`` (RFC 8187 section 3.2); `None` when it is broken."""
    charset, quote, rest = text.partition("'")
    _, second_quote, encoded = rest.partition("'")
    codec = {"utf-8": "utf-8", "iso-8859-1": "latin-1"}.get(charset.strip().lower())
    if codec is None or not (quote and second_quote):
        return None
    try:
        raw = encoded.encode("latin-1")
        return None if _BAD_PERCENT.search(raw) else unquote_to_bytes(raw).decode(codec)
    except UnicodeError:
        return None


def _repaired(text: str) -> str:
    """Raw UTF-8 that was decoded as latin-1, as the text it was; anything else unchanged."""
    try:
        return text.encode("latin-1").decode("utf-8")
    except UnicodeError:
        return text


def format_content_disposition(filename: str | None, *, origin: str | None = None) -> str | None:
    """The Content-Disposition to send: for saving as *filename*, else as what *origin*'s own field proposes.

    `None`: there is neither a field of the origin's nor a name. Always written anew: the type is the origin's
    ``inline`` (also without a field), else ``attachment`` (RFC 6266 section 4.2), the name a `safe_filename`,
    and nothing else of what an origin sent gets through.
    """
    disposition, proposed = parse_content_disposition(origin)
    kind = "inline" if disposition in ("", "inline") else "attachment"
    name = safe_filename(filename or "") or safe_filename(proposed or "")
    if name is None:
        return kind if disposition else None
    # A safe name has no quotes and no backslashes. Some browsers decode %41 in a plain name (RFC 6266 appendix D).
    plain = _NOT_PLAIN.sub("_", name)
    extended = "" if plain == name else f"; filename*=UTF-8''{quote(name, safe=_ATTR_CHARS)}"
    return f'{kind}; filename="{plain}"{extended}'


_NOT_PLAIN = re.compile(r"[^ -~]|%(?=[0-9A-Fa-f]{2})")
_ATTR_CHARS = "!#$&+^`|~"  # RFC 8187 section 3.2.1, beside letters, digits and what is never quoted


# --- a name that every file system bears --------------------------------------------------------------

# Controls and lone surrogates; marks that reorder or hide text (a name must read as what it is); line ends.
_UNSEEN = re.compile(
    "[\x00-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff\u061c\u200b\u200e\u200f\u2028-\u202e\u2060\u2066-\u2069\ufeff]"
)
_RESERVED = re.compile(r'[<>:"|?*]')
_DEVICE = re.compile(r"(?:CON|PRN|AUX|NUL|CONIN\$|CONOUT\$|(?:COM|LPT)[0-9¹²³]) *(?:\.|$)", re.IGNORECASE)
_EDGES = ". \u00a0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u202f\u205f\u3000"
_LONGEST_EXTENSION_BYTES = 32


def safe_filename(name: str) -> str | None:
    """*name* as one path component that Linux, macOS and Windows bear; `None` when nothing is left.

    The last component (after ``/`` or ``\\``) in NFC, without control and bidi-control characters and without
    dots and spaces at its ends; characters that Windows reserves become ``_``, its device names get a ``_``
    in front; at most `MAX_FILENAME_BYTES` in UTF-8, the extension kept. Idempotent.
    """
    name = _UNSEEN.sub("", re.split(r"[/\\]", name)[-1])
    name = _RESERVED.sub("_", unicodedata.normalize("NFC", name)).strip(_EDGES)
    name = _shortened(name)
    if _DEVICE.match(name):
        name = _shortened("_" + name)
    return name or None


def _shortened(name: str) -> str:
    if len(name.encode()) <= MAX_FILENAME_BYTES:
        return name
    stem, dot, extension = name.rpartition(".")
    tail = dot + extension
    if not dot or len(tail.encode()) > _LONGEST_EXTENSION_BYTES:
        stem, tail = name, ""
    room = MAX_FILENAME_BYTES - len(tail.encode())
    return stem.encode()[:room].decode(errors="ignore").rstrip(_EDGES) + tail


def choose_filename(
    *,
    content_disposition: str | None,
    url: str,
    media_type: str | None,
    extension_for: Callable[[str], str | None],
) -> str:
    """The safe name to keep content under: what the origin proposes, else the end of the URL's path.

    Where neither gives one: ``download`` and what *extension_for* says of *media_type* (``.pdf``, or `None`).
    """
    _, proposed = parse_content_disposition(content_disposition)
    name = safe_filename(proposed or "") or safe_filename(_last_segment(url))
    if name:
        return name
    extension = (extension_for(media_type) if media_type else None) or ""
    return safe_filename("download" + extension) or "download"


def _last_segment(url: str) -> str:
    """The last segment of the path that is not empty, percent-decoded as UTF-8, else as latin-1."""
    _, _, rest = re.split(r"[?#]", url, maxsplit=1)[0].partition("://")
    _, _, path = rest.partition("/")
    raw = unquote_to_bytes(path.rstrip("/").rpartition("/")[2].encode("utf-8", "surrogatepass"))
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return raw.decode("latin-1")
