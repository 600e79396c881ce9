"""Uploads in the OpenAPI document: chunk requests, tus, and Resumable Uploads for HTTP."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from forebay.core import tus
from forebay.core.resumable import PARTIAL_UPLOAD
from forebay.models import ChunkRequest

Answers = Mapping[str, dict[str, Any]]

_BYTES = {"*/*": {"schema": {"type": "string", "format": "binary"}}}
_MEANINGS = {
    400: "A field or a value that cannot be; the length is not what was said.",
    409: "Another offset, a newer message took the upload over, or nothing of it can change any more.",
    410: "Its time is over.",
    413: "Larger than an upload may be, or than all of one owner together.",
    415: "Not of the media type that is wanted, or coded.",
    422: "Not the bytes that a digest was given of.",
    423: "Another message makes it whole; ask again after a while.",
    429: "As many uploads are open as may be.",
    503: "Too many chunks are on their way in.",
}
_PROBLEM = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
_CHUNK_ERROR = {
    "type": "object",
    "required": ["status", "error"],
    "properties": {
        "status": {"type": "integer"},
        "error": {
            "type": "object",
            "required": ["code", "info"],
            "properties": {"code": {"type": "string"}, "info": {"type": "string"}},
        },
    },
}
_STATE = {
    "Upload-Complete": {"description": "?1: the upload is complete.", "schema": {"type": "string"}},
    "Upload-Offset": {"description": "How many bytes of it are there.", "schema": {"type": "integer"}},
    "Upload-Limit": {"description": "max-size in bytes, max-age in seconds.", "schema": {"type": "string"}},
}
_CONTENT: dict[str, dict[str, Any]] = {
    "200": {"description": "The content.", "content": _BYTES},
    "206": {"description": "The ranges that were asked for.", "content": _BYTES},
    "304": {"description": "Not modified."},
}
_REFUSED = {
    "412": {"description": "A precondition failed.", "content": _PROBLEM},
    "416": {"description": "No range that was asked for is there.", "content": _PROBLEM},
}
_LOCATION = {"Location": {"description": "Where the upload goes on.", "schema": {"type": "string"}}}


def upload_paths(problems: Mapping[int | str, dict[str, Any]]) -> dict[str, Any]:
    """The paths of uploads, for the OpenAPI document; with *problems*, the error answers that each may give."""
    known = {str(code): answer for code, answer in problems.items()}
    own = {str(code): {"description": text, "content": _PROBLEM} for code, text in _MEANINGS.items()}
    refused = known | own
    session = "/v1/upload/id/{uid}"
    return {
        "/v1/upload/chunk": {"post": _chunk(refused)},
        "/v1/upload/tus/": _tus_root(refused),
        "/v1/upload/tus/{uid}": _tus_upload(refused),
        "/v1/upload/": {
            "post": _creation("post_upload", [], refused),
            "put": _creation("put_upload", [], refused),
        },
        "/v1/upload/{name}": {
            "post": _creation("post_named_upload", [_NAME], refused),
            "put": _creation("put_named_upload", [_NAME], refused),
        },
        session: _session(refused),
    }


def _chunk(refused: Answers) -> dict[str, Any]:
    kinds = ("application/json", "application/msgpack")
    failed = {kind: {"schema": _CHUNK_ERROR} for kind in kinds}
    answer = {kind: {"schema": {"$ref": "#/components/schemas/ChunkResponse"}} for kind in kinds}
    request = {"$ref": "#/components/schemas/ChunkRequest"}
    return {
        "operationId": "post_chunk",
        "tags": ["Uploads"],
        "x-scope": "write",
        "description": "One chunk of an upload, in any order. As JSON, MessagePack or a form; or the bytes as they "
        "are, with the other fields in the query. An empty uploadUid begins an upload.",
        "requestBody": {
            "required": True,
            "content": {kind: {"schema": request} for kind in (*kinds, "multipart/form-data")},
        },
        "responses": {
            "200": {"description": "The upload that the chunk is of.", "content": answer},
            **{code: {"description": said["description"], "content": failed} for code, said in refused.items()},
        },
    }


def chunk_schemas() -> dict[str, Any]:
    """What chunk requests and their answers are, by name."""
    schema = ChunkRequest.model_json_schema()
    integers = {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 255}}
    schema["properties"]["content"] = {"anyOf": [{"type": "string"}, integers]}
    schema["properties"]["contentBase64"] = {"type": "string", "format": "byte"}
    schema["required"] = [name for name in schema["required"] if name != "content"]
    uid = {"type": "string"}
    answer = {"type": "object", "required": ["uploadUid"], "properties": {"uploadUid": uid}}
    return {"ChunkRequest": schema, "ChunkResponse": answer}


def _creation(name: str, parameters: list[dict[str, Any]], refused: Answers) -> dict[str, Any]:
    return {
        "operationId": name,
        "tags": ["Uploads"],
        "x-scope": "write",
        "description": "Begin an upload: with all of it, or, when Upload-Complete says ?0, with a part of it or "
        "with nothing. The name is that of Content-Disposition, else of the path.",
        "parameters": [
            *parameters,
            _field("Upload-Complete", "?0: more will come.", enum=["?0", "?1"]),
            _field("Upload-Length", "The length of the whole, in bytes.", kind="integer"),
            _field("Repr-Digest", "A digest of the whole (RFC 9530), which is verified."),
        ],
        "requestBody": {
            "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}
        },
        "responses": {"201": {"description": "It is there.", "headers": {**_LOCATION, **_STATE}}, **refused},
    }


def _operation(
    name: str, text: str, scope: str | None, answers: dict[str, Any], parameters: list[dict[str, Any]], **more: Any
) -> dict[str, Any]:
    known = {"operationId": name, "tags": ["Uploads"], "description": text, "parameters": parameters}
    return known | ({} if scope is None else {"x-scope": scope}) | more | {"responses": answers}


_OCTETS = {"content": {tus.MEDIA_TYPE: {"schema": {"type": "string", "format": "binary"}}}}
_TUS_ERRORS: Answers = {
    "403": {"description": "Not allowed; or it was made of others, and cannot change.", "content": _PROBLEM},
    "408": {"description": "Too little came for too long. What came stays.", "content": _PROBLEM},
    "412": {"description": "Of another version of the protocol.", "content": _PROBLEM},
    "460": {"description": "The bytes do not have their checksum, and were dropped.", "content": _PROBLEM},
}
_TUS_STATE = {
    "Upload-Offset": {"description": "How many bytes of it are there.", "schema": {"type": "integer"}},
    "Upload-Expires": {"description": "Until when it is kept.", "schema": {"type": "string"}},
}


def _tus_root(refused: Answers) -> dict[str, Any]:
    told = {"204": {"description": "Tus-Version, Tus-Extension, Tus-Max-Size, Tus-Checksum-Algorithm."}}
    return {
        "options": _operation("describe_tus", "What there is of tus 1.0.", None, {**told, **refused}, []),
        "post": _operation(
            "post_tus_upload",
            "Begin an upload by tus 1.0: empty, or with its first bytes; a partial one, or one of partial ones.",
            "write",
            {
                "201": {"description": "It is there.", "headers": {**_LOCATION, **_TUS_STATE}},
                **refused,
                **_TUS_ERRORS,
            },
            [
                _TUS_RESUMABLE,
                _field("Upload-Length", "The length of the whole, in bytes.", kind="integer"),
                _field("Upload-Defer-Length", "1: the length will be said later.", enum=["1"]),
                _field("Upload-Metadata", "Keys and Base64, separated by commas."),
                _field("Upload-Concat", "partial, or final; and the URLs of partial uploads."),
                _field("Upload-Checksum", "An algorithm and the Base64 of the checksum of these bytes."),
            ],
            requestBody=_OCTETS,
        ),
    }


def _tus_upload(refused: Answers) -> dict[str, Any]:
    every = {**refused, **_TUS_ERRORS}
    gone = {code: answer for code, answer in every.items() if code not in ("413", "429", "460", "503")}
    told = {"description": "How it stands.", "headers": _TUS_STATE}
    known = [_UID, _TUS_RESUMABLE]
    return {
        "head": _operation(
            "head_tus_upload",
            "How far an upload is. Whoever still sends is cut.",
            "write",
            {"200": told, **gone},
            known,
        ),
        "patch": _operation(
            "append_tus_upload",
            "Go on with an upload, where Upload-Offset says.",
            "write",
            {"204": told, **every},
            [
                *known,
                _field("Upload-Offset", "Where the bytes belong.", kind="integer", required=True),
                _field("Upload-Length", "The length, where it was deferred.", kind="integer"),
                _field("Upload-Checksum", "An algorithm and the Base64 of the checksum of these bytes."),
            ],
            requestBody={**_OCTETS, "required": True},
        ),
        "get": _operation(
            "get_tus_upload",
            "The content of a complete upload. Ranges and preconditions work.",
            "read",
            {**_CONTENT, **gone, **_REFUSED},
            [_UID],
        ),
        "delete": _operation(
            "delete_tus_upload", "Give an upload up.", "write", {"204": {"description": "Done."}, **gone}, known
        ),
    }


def _session(refused: Answers) -> dict[str, Any]:
    gone = {code: answer for code, answer in refused.items() if code not in ("413", "429", "503")}
    told = {"description": "How it stands.", "headers": _STATE}

    partial = {"content": {PARTIAL_UPLOAD: {"schema": {"type": "string", "format": "binary"}}}, "required": True}
    return {
        "patch": _operation(
            "append_upload",
            "Go on with an upload, where Upload-Offset says; with Upload-Complete ?1, to its end.",
            "write",
            {"201": {"description": "It is complete.", "headers": _STATE}, "204": told, **refused},
            [
                _UID,
                _field("Upload-Offset", "Where the bytes belong.", kind="integer", required=True),
                _field("Upload-Complete", "?1: these are the last ones.", enum=["?0", "?1"], required=True),
                _field("Content-Digest", "A digest of these bytes (RFC 9530), which is verified."),
            ],
            requestBody=partial,
        ),
        "head": _operation("head_upload", "How far an upload is.", "write", {"204": told, **gone}, [_UID]),
        "get": _operation(
            "get_upload",
            "The content of a complete upload. Ranges and preconditions work.",
            "read",
            {
                **_CONTENT,
                "200": {**_CONTENT["200"], "headers": _STATE},
                **gone,
                **_REFUSED,
            },
            [_UID],
        ),
        "delete": _operation(
            "cancel_upload", "Give an upload up.", "write", {"204": {"description": "Done."}, **gone}, [_UID]
        ),
    }


def _field(
    name: str, text: str, *, kind: str = "string", enum: list[str] | None = None, required: bool = False
) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": kind}
    if enum is not None:
        schema["enum"] = enum
    if kind == "integer":
        schema["minimum"] = 0
    return {"name": name, "in": "header", "required": required, "description": text, "schema": schema}


def _in_path(name: str, text: str, **schema: Any) -> dict[str, Any]:
    return {
        "name": name,
        "in": "path",
        "required": True,
        "description": text,
        "schema": {"type": "string", "minLength": 1, **schema},
    }


_TUS_RESUMABLE = _field("Tus-Resumable", "The version of the protocol.", enum=[tus.VERSION], required=True)
_NAME = _in_path("name", "A file name. Not chunk, tus or id.")
_UID = _in_path("uid", "An upload's id.")
