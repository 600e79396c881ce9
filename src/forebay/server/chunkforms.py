"""A chunk request as it comes over HTTP: JSON, MessagePack, a form, or raw bytes beside a query -> `ChunkRequest`.

What comes is in memory by then and bounded. Blocks for as long as it takes to decode; for a thread.
"""

from __future__ import annotations

import base64
import json
import re
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from forebay.errors import BodyTooLarge, ChunkInvalid
from forebay.models import ChunkRequest

MSGPACK_TYPES = frozenset({"application/msgpack", "application/x-msgpack", "application/vnd.msgpack"})
"""How a body says that it is MessagePack; the first is the registered name."""

# Text compresses 3 to 10 times, what is mostly zeros more; deflate itself ends at 1,032 times.
MAX_RATIO = 100
# So much may come of however little: a chunk of zeros is no attack.
FREE_BYTES = 1 << 20
# Who concatenates gzip files has a few members; a million empty ones would only cost time.
_MAX_MEMBERS = 64

_INTEGERS = frozenset(name for name, field in ChunkRequest.model_fields.items() if field.annotation is int)
_INTEGER = re.compile(r"-?[0-9]{1,20}")
_LONGEST_NAME = 60


def gunzipped(coded: bytes, *, max_bytes: int) -> bytes:
    """What *coded* is of. Raises `BodyTooLarge` before more is unpacked than *max_bytes*, or than `MAX_RATIO`
    times its size where that is beyond `FREE_BYTES`; `ChunkInvalid`."""
    limit = min(max_bytes, max(FREE_BYTES, MAX_RATIO * len(coded)))
    pieces: list[bytes] = []
    size, rest = 0, coded
    for _ in range(_MAX_MEMBERS):
        decoder = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)
        try:
            piece = decoder.decompress(rest, limit - size + 1)
        except zlib.error as error:
            raise _no_gzip() from error
        pieces.append(piece)
        size, rest = size + len(piece), decoder.unused_data
        if size > limit:
            raise BodyTooLarge(limit_bytes=limit)
        if not decoder.eof:
            raise _no_gzip()
        if not rest:
            return b"".join(pieces)
    raise _no_gzip()


def _no_gzip() -> ChunkInvalid:
    return ChunkInvalid("body", expected="gzip (RFC 1952), whole", got="something else")


def chunk_of_json(body: bytes) -> ChunkRequest:
    """The chunk that *body* says: ``content`` is text, stored as UTF-8, or a list of the bytes as integers;
    ``contentBase64`` in place of it (RFC 4648 section 4). Raises `ChunkInvalid`."""
    try:
        given = json.loads(body.decode("utf-8"), object_pairs_hook=_once, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        if isinstance(error.__cause__, ChunkInvalid):
            raise error.__cause__ from None
        raise ChunkInvalid("body", expected="one JSON object in UTF-8", got="something else") from error
    return _chunk_of(given)


def chunk_of_msgpack(body: bytes) -> ChunkRequest:
    """The same of MessagePack: ``content`` is bin, or str. Raises `ChunkInvalid`."""
    import msgpack

    try:
        # No arrays: one may claim to have as many members as the body has bytes, and the space is taken at once.
        given = msgpack.unpackb(
            body, raw=False, max_array_len=0, max_ext_len=0, max_map_len=64, object_pairs_hook=_once
        )
    except (ValueError, TypeError, RecursionError, msgpack.UnpackException) as error:
        if isinstance(error.__cause__, ChunkInvalid):
            raise error.__cause__ from None
        expected = "one MessagePack map, with content as bin"
        raise ChunkInvalid("body", expected=expected, got="something else") from error
    return _chunk_of(given)


def chunk_of_texts(texts: Mapping[str, Sequence[str | bytes]], *, content: bytes | None = None) -> ChunkRequest:
    """The chunk of a form's parts or a query's parameters, each of them there once; *content*, where it came by
    itself. Raises `ChunkInvalid`."""
    given: dict[str, object] = {}
    for name, values in texts.items():
        if len(values) > 1:
            raise ChunkInvalid(_shown(name), expected="one value", got=f"{len(values)} of them")
        value = values[0]
        if isinstance(value, bytes) and name != "content":
            raise ChunkInvalid(_shown(name), expected="text", got="a file")
        given[name] = _integer(name, value) if name in _INTEGERS and isinstance(value, str) else value
    if content is not None:
        if not given.keys().isdisjoint(("content", "contentBase64")):
            raise ChunkInvalid("content", expected="the body to be it", got="a parameter as well")
        given["content"] = content
    return _chunk_of(given)


def _integer(name: str, text: str) -> int:
    if not _INTEGER.fullmatch(text):
        raise ChunkInvalid(name, expected="an integer", got=text)
    return int(text)


def _chunk_of(given: Any) -> ChunkRequest:
    if not isinstance(given, dict) or not all(isinstance(name, str) for name in given):
        raise ChunkInvalid("body", expected="names and their values", got="something else")
    content = _content(given)
    others = {name: value for name, value in given.items() if name not in ("content", "contentBase64")}
    try:
        return ChunkRequest.model_validate({**others, "content": content})
    except ValidationError as error:
        raise _invalid(error) from None


def _content(given: Mapping[str, Any]) -> bytes:
    match given:
        case {"content": _, "contentBase64": _}:
            raise ChunkInvalid("contentBase64", expected="content in one way", got="both")
        case {"content": bytes(content)}:
            return content
        case {"content": str(text)}:
            try:
                return text.encode("utf-8")
            except UnicodeError:
                raise ChunkInvalid("content", expected="text without lone surrogates", got="one") from None
        case {"content": list(numbers)}:
            if all(type(number) is int and 0 <= number < 256 for number in numbers):
                return bytes(numbers)
            raise ChunkInvalid("content", expected="integers from 0 to 255", got="something else among them")
        case {"content": other}:
            raise ChunkInvalid("content", expected="text, bytes or a list of integers", got=type(other).__name__)
        case {"contentBase64": str(text)}:
            try:
                return base64.b64decode(text, validate=True)
            except ValueError:
                raise ChunkInvalid("contentBase64", expected="base64", got="something else") from None
        case {"contentBase64": other}:
            raise ChunkInvalid("contentBase64", expected="base64", got=type(other).__name__)
        case _:
            raise ChunkInvalid("content", expected="to be there", got="nothing")


def _invalid(error: ValidationError) -> ChunkInvalid:
    """What is wrong with a chunk; of its values, none but numbers is said."""
    first = error.errors(include_url=False, include_context=False)[0]
    name, got = _shown(str(first["loc"][0]) if first["loc"] else "chunk"), first.get("input")
    if first["type"] == "extra_forbidden":
        return ChunkInvalid(name, expected=f"one of {', '.join(ChunkRequest.model_fields)}", got="another name")
    if first["type"] == "missing":
        return ChunkInvalid(name, expected="to be there", got="nothing")
    expected = str(first["msg"]).removeprefix("Input should be ")
    return ChunkInvalid(name, expected=expected, got=got if type(got) is int else type(got).__name__)


def _shown(name: str) -> str:
    return name if len(name) <= _LONGEST_NAME else name[:_LONGEST_NAME] + "…"


def _once(pairs: list[tuple[Any, Any]]) -> dict[Any, Any]:
    """An object whose names are there once: of two, each reader would take another."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError from ChunkInvalid("body", expected="each name once", got="one of them twice")
    return found


def _refuse(constant: str) -> None:
    raise ValueError(constant)  # NaN and the infinities are no JSON
