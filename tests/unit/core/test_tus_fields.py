"""The header fields of tus 1.0.0."""

import base64
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forebay.core import tus
from forebay.errors import UploadFieldInvalid, UploadTooLarge

A, B = "0" * 32, "f" * 32


@pytest.mark.parametrize("text", [None, "", "-1", "+1", "1.0", "0x1", " 1", "1_0", "١", "1" * 41])
def test_a_number_is_digits(text: str | None) -> None:
    """ "The value MUST be a non-negative integer": whatever else int() takes is refused, and so is what is missing."""
    for parse in (tus.parse_offset, tus.parse_length):
        with pytest.raises(UploadFieldInvalid):
            parse(text)


def test_a_length_that_no_file_has_is_too_large() -> None:
    """63 bits are enough for a file; an offset beyond that is only wrong."""
    assert tus.parse_length(str(2**63 - 1)) == 2**63 - 1
    with pytest.raises(UploadTooLarge):
        tus.parse_length(str(2**63))
    assert tus.parse_offset("9" * 40) == int("9" * 40)


@pytest.mark.parametrize(
    ("length", "deferred", "concat", "wanted"),
    [
        ("5", None, None, tus.Whole(5)),
        (None, "1", None, tus.Whole(None)),
        ("0", None, "partial", tus.Part(0)),
        (None, "1", "partial", tus.Part(None)),
        (None, None, f"final;/files/{A} https://h/v1/{B}", tus.Final((A, B))),
        (None, None, f"final; {A}", tus.Final((A,))),
    ],
)
def test_what_is_created(
    length: str | None, deferred: str | None, concat: str | None, wanted: tus.Creation
) -> None:
    """An upload of its own, a partial one, or one of others, named by URLs that are absolute or relative."""
    assert tus.parse_creation(length, deferred, concat) == wanted


@pytest.mark.parametrize(
    ("length", "deferred", "concat"),
    [
        (None, None, None), ("5", "1", None), ("5", "0", None), (None, "true", None), ("x", None, None),
        ("5", None, "Partial"), ("5", None, ""), (None, None, "partial"), ("5", None, f"final;{A}"),
        (None, "1", f"final;{A}"), (None, None, "final;"), (None, None, f"final;{A} {A}"),
        (None, None, f"final;{A} /elsewhere"), (None, None, f"final;{A}0"), (None, None, f"final;{A.upper()[:-1]}G"),
        (None, None, "final;" + " ".join([f"/{A}"] * 3000)),
    ],
)  # fmt: skip
def test_what_cannot_be_created(length: str | None, deferred: str | None, concat: str | None) -> None:
    """Neither or both lengths, another value than 1, a length of what is made of others, no or strange or repeated
    parts."""
    with pytest.raises(UploadFieldInvalid):
        tus.parse_creation(length, deferred, concat)


def test_metadata() -> None:
    """Pairs of a key and Base64; of an empty value even the space may be left out."""
    assert tus.parse_metadata("filename d29ybGQucGRm,is_confidential,empty ") == {
        "filename": b"world.pdf", "is_confidential": b"", "empty": b"",
    }  # fmt: skip
    assert tus.parse_metadata("") == tus.parse_metadata(" ") == {}
    assert tus.parse_metadata("a YQ==, b Yg==") == {"a": b"a", "b": b"b"}


@pytest.mark.parametrize("value", ["a YQ", "a *", "a YQ== x", "a,a", ",", "a,,b", "a" * 70_000, "a ?Q=="])
def test_metadata_that_is_none(value: str) -> None:
    """No Base64, no key, a key twice, or no end."""
    with pytest.raises(UploadFieldInvalid):
        tus.parse_metadata(value)


@given(st.dictionaries(st.text("abcXYZ_-0é", min_size=1), st.binary()))
def test_any_bytes_are_metadata(metadata: dict[str, bytes]) -> None:
    """Whatever bytes a value has, they come back; as text, what is no UTF-8 gets a mark."""
    said = ",".join(f"{key} {base64.b64encode(value).decode()}" for key, value in metadata.items())
    assert tus.parse_metadata(said) == metadata
    assert all("\ufffd" in text or text.encode() in metadata.values() for text in tus.as_text(metadata).values())


def test_name_and_type_of_the_file() -> None:
    """Clients say filename or name, filetype or type; a type that is none is left out."""
    assert tus.file_name_of({"filename": "a", "name": "b"}) == "a"
    assert tus.file_name_of({"name": "名前.txt"}) == "名前.txt"
    assert tus.file_name_of({}) == ""
    assert tus.media_type_of({"filetype": "text/plain; charset=x", "type": "a/b"}) == "text/plain"
    assert tus.media_type_of({"filetype": "nonsense", "type": "image/png"}) == "image/png"
    assert tus.media_type_of({"type": "\r\nX: y"}) is None


def test_checksums() -> None:
    """The protocol's own example; each algorithm that is listed is known; CRC-32 has its highest byte first."""
    assert tus.parse_checksum("sha1 Kq5sNclPz7QV2+lfQIuc6R7oRu0=") == (
        "sha1", "2aae6c35c94fcfb415dbe95f408b9ce91ee846ed",
    )  # fmt: skip
    assert tus.parse_checksum("crc32 DUoRhQ==") == ("crc32", f"{zlib.crc32(b'hello world'):08x}")
    for algorithm, size in (("sha256", 32), ("sha384", 48), ("sha512", 64), ("md5", 16)):
        said = f"{algorithm} {base64.b64encode(bytes(size)).decode()}"
        assert tus.parse_checksum(said) == (algorithm, "00" * size)
        assert algorithm in tus.CHECKSUMS


@pytest.mark.parametrize(
    "value",
    [
        "",
        "sha1",
        "sha1 ",
        "sha1 *",
        "sha1 YQ==",
        "SHA1 Kq5sNclPz7QV2+lfQIuc6R7oRu0=",
        "sha3_256 YQ==",
        "crc32 YQ==",
    ],
)
def test_checksums_that_are_none(value: str) -> None:
    """An algorithm that is not there or in capitals, no Base64, another length."""
    with pytest.raises(UploadFieldInvalid):
        tus.parse_checksum(value)
