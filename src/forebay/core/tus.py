"""tus 1.0.0: what its header fields say (https://tus.io/protocols/resumable-upload)."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from dataclasses import dataclass

from forebay.core.digests import hex_length
from forebay.core.fields import media_type
from forebay.core.ranges import MAX_BYTES
from forebay.errors import UploadFieldInvalid, UploadTooLarge

VERSION = "1.0.0"
MEDIA_TYPE = "application/offset+octet-stream"
EXTENSIONS = (
    "creation", "creation-with-upload", "creation-defer-length", "expiration", "checksum", "termination",
    "concatenation",
)  # fmt: skip
"""All of the protocol's but ``checksum-trailer``, for no trailer reaches an ASGI application, and
``concatenation-unfinished``."""

CHECKSUMS = ("sha1", "sha256", "sha384", "sha512", "md5", "crc32")
"""The algorithms of Upload-Checksum; each must know the first."""

_CRC32_DIGITS = 8
# Beyond that they are no metadata but content; Node's whole head may have 16 KiB.
_MAX_CHARACTERS = 64 << 10
# Longer ones do not fit into any database's integer.
_NUMBER = re.compile(r"[0-9]{1,40}")
_PART = re.compile(r"(?:[^ ]*/)?([0-9a-f]{32})")


# --- numbers ------------------------------------------------------------------------------------------


def parse_offset(value: str | None) -> int:
    """What Upload-Offset says. Raises `UploadFieldInvalid`."""
    return _number("Upload-Offset", value)


def parse_length(value: str | None) -> int:
    """What Upload-Length says. Raises `UploadFieldInvalid`, and `UploadTooLarge` for what no file can have."""
    length = _number("Upload-Length", value)
    if length > MAX_BYTES:
        raise UploadTooLarge(limit_bytes=MAX_BYTES, got=length)
    return length


def _number(field: str, value: str | None) -> int:
    if value is None or not _NUMBER.fullmatch(value):
        raise UploadFieldInvalid(field, expected="a non-negative integer", got=value)
    return int(value)


# --- creation -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Whole:
    """An upload of its own. *size*: None as long as it is deferred."""

    size: int | None


@dataclass(frozen=True, slots=True)
class Part:
    """A partial upload, to be made one with others."""

    size: int | None


@dataclass(frozen=True, slots=True)
class Final:
    """The partial uploads with these ids as one, in this order."""

    parts: tuple[str, ...]


Creation = Whole | Part | Final


def parse_creation(length: str | None, deferred: str | None, concat: str | None) -> Creation:
    """What a creation is of, from Upload-Length, Upload-Defer-Length and Upload-Concat. Raises
    `UploadFieldInvalid`, `UploadTooLarge`."""
    if concat is not None and concat.startswith("final;"):
        if length is not None or deferred is not None:
            raise UploadFieldInvalid("Upload-Length", expected="none beside Upload-Concat: final", got=length)
        return Final(_parts(concat))
    if concat not in (None, "partial"):
        raise UploadFieldInvalid("Upload-Concat", expected="partial, or final; and URLs of uploads", got=concat)
    if deferred not in (None, "1"):
        raise UploadFieldInvalid("Upload-Defer-Length", expected="1", got=deferred)
    if (length is None) == (deferred is None):
        got = "neither" if length is None else "both"
        raise UploadFieldInvalid("Upload-Length", expected="it or Upload-Defer-Length: 1", got=got)
    size = None if length is None else parse_length(length)
    return Whole(size) if concat is None else Part(size)


def _parts(concat: str) -> tuple[str, ...]:
    """The ids at the ends of the URLs, absolute or relative. Where a proxy has them lead is its business."""
    if len(concat) > _MAX_CHARACTERS:
        raise UploadFieldInvalid("Upload-Concat", expected=f"at most {_MAX_CHARACTERS} characters", got=concat)
    found = [_PART.fullmatch(url) for url in concat.removeprefix("final;").split()]
    parts = tuple(part[1] for part in found if part is not None)
    if not parts or len(parts) < len(found) or len(set(parts)) < len(parts):
        raise UploadFieldInvalid("Upload-Concat", expected="different URLs of partial uploads", got=concat)
    return parts


# --- metadata -----------------------------------------------------------------------------------------


def parse_metadata(value: str) -> dict[str, bytes]:
    """The pairs of Upload-Metadata. Raises `UploadFieldInvalid`."""
    if len(value) > _MAX_CHARACTERS:
        raise UploadFieldInvalid("Upload-Metadata", expected=f"at most {_MAX_CHARACTERS} characters", got=value)
    found: dict[str, bytes] = {}
    for pair in value.split(",") if value.strip() else ():
        key, _, encoded = pair.strip(" ").partition(" ")
        if not key or key in found:
            raise UploadFieldInvalid("Upload-Metadata", expected="a key, and each once", got=value)
        found[key] = _decoded("Upload-Metadata", encoded)
    return found


def _decoded(field: str, encoded: str) -> bytes:
    try:
        return base64.b64decode(encoded, validate=True)
    except ValueError:
        raise UploadFieldInvalid(field, expected="Base64", got=encoded) from None


def as_text(metadata: Mapping[str, bytes]) -> dict[str, str]:
    """*metadata* as text: UTF-8, with a mark in place of what is none."""
    return {
        key.encode("latin-1").decode(errors="replace"): value.decode(errors="replace")
        for key, value in metadata.items()
    }


def file_name_of(metadata: Mapping[str, str]) -> str:
    """The name of the file: public clients say it as ``filename``, some as ``name``."""
    return metadata.get("filename") or metadata.get("name") or ""


def media_type_of(metadata: Mapping[str, str]) -> str | None:
    """The type of the file: public clients say it as ``filetype``, some as ``type``."""
    return media_type(metadata.get("filetype")) or media_type(metadata.get("type"))


# --- checksums ----------------------------------------------------------------------------------------


def parse_checksum(value: str) -> tuple[str, str]:
    """Algorithm and hex digits that Upload-Checksum says. Raises `UploadFieldInvalid`."""
    algorithm, _, encoded = value.partition(" ")
    if algorithm not in CHECKSUMS:
        raise UploadFieldInvalid("Upload-Checksum", expected=f"one of {', '.join(CHECKSUMS)}", got=value)
    digits = _decoded("Upload-Checksum", encoded.strip(" ")).hex()
    expected = _CRC32_DIGITS if algorithm == "crc32" else hex_length(algorithm)
    if len(digits) != expected:
        raise UploadFieldInvalid("Upload-Checksum", expected=f"{expected // 2} bytes of {algorithm}", got=value)
    return algorithm, digits
