"""What messages and answers of resumable uploads say, in each interop version
(draft-ietf-httpbis-resumable-upload)."""

from __future__ import annotations

import base64
import hashlib

import pytest

from forebay.core.fields import Fields
from forebay.core.resumable import (
    CURRENT,
    VERSIONS,
    interop_of,
    limit_fields,
    problem_members,
    read,
    read_digests,
    state_fields,
    whole_length,
)
from forebay.errors import LengthMismatch, OffsetMismatch, UnknownUpload, UploadFieldInvalid, UploadFinished

EVERY = pytest.mark.parametrize("version", sorted(VERSIONS))


def test_the_versions_are_those_that_clients_speak() -> None:
    """From 3, in URLSession since iOS 17, on; a message without a version is of the current one."""
    assert list(VERSIONS) == [3, 4, 5, 6, 7, 8, 9]
    assert all(number == known.version for number, known in VERSIONS.items())
    assert CURRENT == 8


@pytest.mark.parametrize(
    ("said", "version"),
    [("3", 3), ("9", 9), ("6;x=1", 6), ("", 8), ("2", 8), ("10", 8), ("-3", 8), ("3, 5", 8), ("?1", 8), ("x", 8)],
)
def test_the_version_is_what_the_message_names(said: str, version: int) -> None:
    """One that nobody knows counts as none: whoever upgrades a plain upload gets its plain answer."""
    assert interop_of(Fields([("Upload-Draft-Interop-Version", said)])).version == version
    assert interop_of(Fields()).version == CURRENT


@EVERY
def test_completeness_is_read_as_it_is_written(version: int) -> None:
    """Until version 3 the field says the opposite, under another name."""
    interop = VERSIONS[version]
    for is_complete in (True, False):
        fields = state_fields(interop, is_complete=is_complete, offset=7, length=9)
        said = read(Fields([("Upload-Draft-Interop-Version", str(version)), *fields]))
        assert (said.is_last, said.offset, said.length) == (is_complete, 7, 9)
    name, value = state_fields(interop, is_complete=True, offset=None)[0]
    assert (name, value) == (("Upload-Incomplete", "?0") if version == 3 else ("Upload-Complete", "?1"))


@pytest.mark.parametrize("value", ["-1", "1.0", "x", "", "1, 2", "1" * 16, "?1", "0x1", "1e3", "\u0661", "+1"])
def test_2_1_a_field_of_another_type_counts_as_absent(value: str) -> None:
    """ "Other values MUST cause the entire header field to be ignored"."""
    said = read(Fields([(name, value) for name in ("Upload-Offset", "Upload-Length", "Upload-Complete")]))
    assert (said.offset, said.length) == (None, None)
    assert said.is_last is (True if value == "?1" else None)


def test_a_field_that_comes_twice_is_none() -> None:
    """Two offsets are no offset, even when they are equal."""
    assert read(Fields([("Upload-Offset", "5"), ("Upload-Offset", "5")])).offset is None


def test_a_message_is_bare_that_says_nothing_of_the_state() -> None:
    """Its version and its length do not count."""
    assert read(Fields([("Upload-Length", "5")])).is_bare
    assert not read(Fields([("Upload-Offset", "5")])).is_bare
    assert not read(Fields([("Upload-Complete", "?0")])).is_bare


@EVERY
def test_limits_are_told_in_the_words_of_the_version(version: int) -> None:
    """The lifetime was called expires first; before, there was no such field."""
    told = limit_fields(VERSIONS[version], max_size=5, age_s=60.9)
    expected = {3: None, 4: None, 5: None, 6: "max-size=5, expires=60"}.get(version, "max-size=5, max-age=60")
    assert dict(told).get("Upload-Limit") == expected


def test_without_limits_the_field_is_not_empty() -> None:
    """An empty one would not be sent; what has expired lives no less than 0 s."""
    assert limit_fields(VERSIONS[8], max_size=None, age_s=None) == (("Upload-Limit", "min-size=0"),)
    assert limit_fields(VERSIONS[8], max_size=None, age_s=-5.0) == (("Upload-Limit", "max-age=0"),)


def _said(algorithm: str, raw: bytes) -> str:
    return f"{algorithm}=:{base64.b64encode(raw).decode()}:"


def test_9530_digests_are_read_by_their_registered_names() -> None:
    """The strongest first; what is not known is ignored."""
    sha256, sha512 = hashlib.sha256(b"x").digest(), hashlib.sha512(b"x").digest()
    field = f"{_said('md5', b'1' * 16)}, crc32c=:AAAA:, {_said('sha-256', sha256)}, {_said('sha-512', sha512)}"
    found = read_digests(Fields([("Repr-Digest", field)]), "Repr-Digest")
    assert list(found.items()) == [("sha512", sha512.hex()), ("sha256", sha256.hex()), ("md5", (b"1" * 16).hex())]
    assert read_digests(Fields(), "Repr-Digest") == {}


@pytest.mark.parametrize(
    "field",
    ["sha-256", "sha-256=:", "sha-256=::", "sha-256=:AAAA:", "sha-256=AAAA", "=", "sha-256=:A:, ", "sha-256=:A:"],
)
def test_9530_a_digest_that_cannot_be_is_refused(field: str) -> None:
    """Ignoring it would leave unverified what its sender believes to be verified."""
    with pytest.raises(UploadFieldInvalid):
        read_digests(Fields([("Content-Digest", field)]), "Content-Digest")


@pytest.mark.parametrize(
    ("known", "offset", "content_length", "is_last", "length"),
    [
        ((None, None), 0, None, False, None),
        ((None, None), 5, 10, False, None),
        ((None, None), 5, None, True, None),
        ((None, None), 5, 10, True, 15),
        ((None, 15), 5, 10, True, 15),
        ((15, 15), 5, 10, False, 15),
        ((15, None), 5, None, True, 15),
        ((0, None), 0, 0, True, 0),
    ],
)
def test_2_3_the_length_of_the_whole(
    known: tuple[int | None, ...], offset: int, content_length: int | None, is_last: bool, length: int | None
) -> None:
    """What was said before, what Upload-Length says, and where the last content ends."""
    assert whole_length(*known, offset=offset, content_length=content_length, is_last=is_last) == length


@pytest.mark.parametrize(
    ("known", "offset", "content_length", "is_last"),
    [
        ((15, 16), 0, None, False),
        ((15,), 5, 9, True),
        ((15,), 5, 11, True),
        ((15,), 5, 11, False),
        ((0,), 0, 1, False),
    ],
)
def test_2_3_lengths_that_differ(
    known: tuple[int, ...], offset: int, content_length: int | None, is_last: bool
) -> None:
    """Two of them, or content beyond it."""
    with pytest.raises(LengthMismatch):
        whole_length(*known, offset=offset, content_length=content_length, is_last=is_last)


def test_6_problems_have_the_types_of_the_draft() -> None:
    """Three of them; other errors are what they are everywhere."""
    base = "https://iana.org/assignments/http-problem-types#"
    mismatch = problem_members(OffsetMismatch(expected=5, got=7))
    assert (mismatch["type"], mismatch["expected-offset"], mismatch["provided-offset"]) == (
        base + "mismatching-upload-offset", 5, 7,
    )  # fmt: skip
    assert problem_members(LengthMismatch(expected="5", got=7))["type"] == base + "inconsistent-upload-length"
    assert problem_members(UploadFinished("x"))["type"] == base + "completed-upload"
    assert problem_members(UnknownUpload("x")) == {}
