"""What a body is made of: a Python value as bytes to send, and the Content-Type that it has by its type."""

from __future__ import annotations

import dataclasses
import io
import mimetypes
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import pydantic_core

from forebay.core.delivery import DEFAULT_MEDIA_TYPE
from forebay.errors import UnsupportedBody
from forebay.messages.pictures import Image, drawn

if TYPE_CHECKING:
    from forebay.models import Response

TEXT_TYPE = "text/plain; charset=utf-8"
JSON_TYPE = "application/json"

# What `mimetypes` calls an encoding is, of a file that is sent as it is, its type.
_CODED = {"gzip": "application/gzip", "bzip2": "application/x-bzip2", "xz": "application/x-xz"}


@dataclass(frozen=True, slots=True)
class Whole:
    """Bytes, as they were when they were set."""

    data: bytes


@dataclass(frozen=True, slots=True)
class PathBody:
    """A file by its name, opened when it is sent."""

    path: Path


@dataclass(frozen=True, slots=True)
class FileBody:
    """An open file, from where it stood; None: it cannot be read twice. It stands in one place: whoever seeks and
    reads in it holds *turn*."""

    file: BinaryIO
    start: int | None
    turn: threading.Lock = field(default_factory=threading.Lock)


@dataclass(frozen=True, slots=True)
class StoredBody:
    """A version in the basin."""

    response: Response


@dataclass(frozen=True, slots=True)
class Streamed:
    """What comes piece by piece, once."""

    pieces: Iterator[object] | AsyncIterator[object]


Body = Whole | PathBody | FileBody | StoredBody | Streamed


def body_of(value: object) -> tuple[Body, str | None]:
    """*value* as a body, and its Content-Type; None where only the first piece will tell, or nothing.

    Raises `UnsupportedBody`, which names the type. What can change is taken as it is now.
    """
    match value:
        case None:
            return Whole(b""), None
        case str():
            return Whole(text_bytes(value)), TEXT_TYPE
        case bytes() | bytearray() | memoryview():
            return Whole(bytes(value)), DEFAULT_MEDIA_TYPE
        case Image():
            return Whole(value.data), value.media_type
        case Path():
            return PathBody(value), type_by_name(value.name)
    if _is_a(value, "forebay.models", "Response"):
        response: Any = value
        return StoredBody(response), response.content_attributes.media_type or DEFAULT_MEDIA_TYPE
    if (picture := drawn(value)) is not None:
        return Whole(picture[0]), picture[1]
    if isinstance(value, dict | list | tuple) or _is_object(value):
        return Whole(json_bytes(value)), JSON_TYPE
    return _stream_of(value)


def _stream_of(value: Any) -> tuple[Body, str | None]:
    if callable(getattr(value, "read", None)) and not isinstance(value, type):
        if isinstance(value, io.TextIOBase) or hasattr(value, "encoding"):
            raise UnsupportedBody(type_name(value), reason='it is open as text; open it with "rb"')
        named = getattr(value, "name", None)
        seekable = getattr(value, "seekable", None)
        start = value.tell() if seekable is not None and seekable() else None
        return FileBody(value, start), type_by_name(named if isinstance(named, str) else "")
    if isinstance(value, Iterator | AsyncIterator):
        return Streamed(value), None
    raise UnsupportedBody(type_name(value))


def _is_object(value: object) -> bool:
    """Whether it is a dataclass or a model, and not a class."""
    if isinstance(value, type):
        return False
    return dataclasses.is_dataclass(value) or _is_a(value, "pydantic", "BaseModel")


def _is_a(value: object, module: str, name: str) -> bool:
    """Whether *value* is one of a class that, then, somebody has imported."""
    kind = getattr(sys.modules.get(module), name, None)
    return kind is not None and isinstance(value, kind)


def type_name(value: object) -> str:
    """What the type of *value* is called."""
    kind = type(value)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def type_by_name(name: str) -> str:
    """The media type of a file of this name."""
    kind, coding = mimetypes.guess_type(name)
    if coding is not None:
        return _CODED.get(coding, DEFAULT_MEDIA_TYPE)
    return kind or DEFAULT_MEDIA_TYPE


def json_bytes(value: object) -> bytes:
    """*value* as JSON, by pydantic. Raises `UnsupportedBody`.

    NaN and the infinities, which JSON does not have, are null, as pydantic's models and JavaScript write them.
    """
    try:
        return pydantic_core.to_json(value, inf_nan_mode="null")
    except (ValueError, TypeError, RecursionError) as error:
        raise UnsupportedBody(type_name(value), reason=str(error)) from error


def text_bytes(text: str) -> bytes:
    """*text* as UTF-8. Raises `UnsupportedBody` for half a character."""
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise UnsupportedBody("str", reason=f"a lone surrogate is at position {error.start}") from error


def piece_bytes(piece: object) -> bytes:
    """One piece of what is streamed. Raises `UnsupportedBody`."""
    if isinstance(piece, str):
        return text_bytes(piece)
    if isinstance(piece, bytes):
        return piece
    if isinstance(piece, bytearray | memoryview):
        return bytes(piece)
    raise UnsupportedBody(type_name(piece), reason="what is streamed comes in pieces of bytes or text")
