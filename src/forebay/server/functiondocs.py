"""Exposed functions in the OpenAPI document: their parameters and answers, from their annotations."""

from __future__ import annotations

import collections.abc
import inspect
import re
import types
import typing
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter
from pydantic.errors import PydanticUserError
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import PydanticSerializationError, core_schema, to_jsonable_python

from forebay.functions.binding import Parameter
from forebay.functions.registry import Exposed
from forebay.messages.buffered import BufferedServerResponse
from forebay.messages.incoming import UploadedFile
from forebay.messages.outgoing import OutgoingMessage
from forebay.models import Response

Answers = dict[int | str, dict[str, Any]]

# A model of the API may have the name of one of a function's.
_PREFIX = "functions."
_BINARY = {"type": "string", "format": "binary"}
_ANYTHING = {"*/*": {"schema": _BINARY}}
_METHODS = ("GET", "PUT", "POST", "DELETE", "PATCH", "OPTIONS")
_WITH_BODY = ("PUT", "POST", "PATCH")
_LAZY = (collections.abc.Iterator, collections.abc.AsyncIterator, collections.abc.Generator,
         collections.abc.AsyncGenerator)  # fmt: skip
_SENT_AS_THEY_ARE = (OutgoingMessage, BufferedServerResponse, Response, Path, bytes, bytearray, memoryview, *_LAZY)


class _Generate(GenerateJsonSchema):
    """With files of forms as OpenAPI has them."""

    def is_instance_schema(self, schema: core_schema.IsInstanceSchema) -> JsonSchemaValue:
        if isinstance(schema["cls"], type) and issubclass(schema["cls"], UploadedFile):
            return dict(_BINARY)
        return super().is_instance_schema(schema)


def function_paths(functions: Iterable[Exposed], problems: Answers) -> tuple[dict[str, Any], dict[str, Any]]:
    """The paths of *functions* and the schemas that they name, with *problems*, the error answers of each."""
    listed = list(functions)
    inputs: list[Any] = [((number, "in"), "validation", one.binding.adapter) for number, one in enumerate(listed)]
    for number, one in enumerate(listed):
        adapter = _answer_adapter(one.binding.returns)
        if adapter is not None:
            inputs.append(((number, "out"), "serialization", adapter))
    schemas, definitions = TypeAdapter.json_schemas(
        inputs, ref_template=f"#/components/schemas/{_PREFIX}{{model}}", schema_generator=_Generate
    )
    known: Any = schemas
    models = definitions.get("$defs", {})
    answers = {str(status): answer for status, answer in problems.items()}
    paths: dict[str, Any] = {}
    for number, one in enumerate(listed):
        asked = _own(known[(number, "in"), "validation"], models)
        out = known.get(((number, "out"), "serialization"))
        path = re.sub(r"\{(\w+):\w+\}", r"{\1}", one.path)
        paths[path] = {
            verb.lower(): _operation(one, verb, asked, out, answers) for verb in _METHODS if verb in one.verbs
        }
    return paths, {_PREFIX + name: schema for name, schema in models.items()}


def _own(schema: dict[str, Any], models: dict[str, Any]) -> dict[str, Any]:
    """The parameters that *schema* has; what it may be called in *models* is of no interest."""
    if "$ref" in schema:
        schema = models.pop(schema["$ref"].rpartition("/" + _PREFIX)[2])
    found: dict[str, Any] = schema.get("properties", {})
    return found


def _answer_adapter(returns: Any) -> TypeAdapter[Any] | None:
    """What describes the JSON of an answer; None when it is something else, or cannot be known."""
    if returns in (inspect.Signature.empty, None, type(None), Any):
        return None
    parts = (
        typing.get_args(returns) if typing.get_origin(returns) in (typing.Union, types.UnionType) else (returns,)
    )
    if any(_is_sent_as_it_is(part) for part in parts):
        return None
    try:
        adapter: TypeAdapter[Any] = TypeAdapter(returns)
        adapter.json_schema(mode="serialization")
    except (PydanticUserError, TypeError):
        return None
    return adapter


def _is_sent_as_it_is(part: Any) -> bool:
    kind = typing.get_origin(part) or part
    return isinstance(kind, type) and issubclass(kind, _SENT_AS_THEY_ARE)


def _operation(
    one: Exposed, verb: str, asked: dict[str, Any], out: dict[str, Any] | None, problems: dict[str, Any]
) -> dict[str, Any]:
    body_of = [parameter for parameter in one.binding.asked if parameter.name not in one.places]
    parameters = [_path_parameter(name, asked.get(name)) for name in one.places]
    operation: dict[str, Any] = {
        "operationId": f"{verb.lower()}:{one.path}",
        "tags": ["Functions"],
        "description": one.description,
        "responses": {**_answer(one, out), **problems},
    }
    if verb in _WITH_BODY and (body_of or one.binding.takes_message):
        operation["requestBody"] = _body(one, body_of, asked)
    else:
        parameters += [_query_parameter(parameter, asked[parameter.name]) for parameter in body_of]
    return operation | ({"parameters": parameters} if parameters else {})


def _answer(one: Exposed, out: dict[str, Any] | None) -> dict[str, Any]:
    if one.binding.returns in (None, type(None)) and not one.binding.takes_response:
        return {"204": {"description": "It is done."}}
    content = _ANYTHING if out is None else {"application/json": {"schema": out}}
    return {"200": {"description": "What it returns.", "content": content}}


def _body(one: Exposed, parameters: list[Parameter], asked: dict[str, Any]) -> dict[str, Any]:
    if not parameters:
        return {"content": _ANYTHING}
    schema = {
        "type": "object",
        "properties": {parameter.name: _with_default(parameter, asked[parameter.name]) for parameter in parameters},
        "required": [parameter.name for parameter in parameters if parameter.is_required],
        "additionalProperties": False,
    }
    if one.binding.takes_files:
        kinds = ["multipart/form-data"]
    else:
        kinds = ["application/json", "application/x-www-form-urlencoded", "multipart/form-data"]
    return {"required": bool(schema["required"]), "content": {kind: {"schema": schema} for kind in kinds}}


def _query_parameter(parameter: Parameter, schema: dict[str, Any]) -> dict[str, Any]:
    schema = _with_default(parameter, schema)
    found = {"name": parameter.name, "in": "query", "required": parameter.is_required}
    if "description" in schema:
        found["description"] = schema["description"]
    if parameter.is_many or _is_plain(schema):
        return found | {"schema": schema}
    return found | {"content": {"application/json": {"schema": schema}}}


def _is_plain(schema: dict[str, Any]) -> bool:
    """Whether a text can say it."""
    if "anyOf" in schema:
        return all(map(_is_plain, schema["anyOf"]))
    return "$ref" not in schema and schema.get("type", "string") not in ("object", "array")


def _path_parameter(name: str, schema: dict[str, Any] | None) -> dict[str, Any]:
    return {"name": name, "in": "path", "required": True, "schema": schema or {"type": "string"}}


def _with_default(parameter: Parameter, schema: dict[str, Any]) -> dict[str, Any]:
    if parameter.is_required:
        return schema
    try:
        return schema | {"default": to_jsonable_python(parameter.default)}
    except PydanticSerializationError:
        return schema
