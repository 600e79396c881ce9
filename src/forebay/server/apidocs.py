"""``/docs``: the OpenAPI document as one page of HTML. No script, nothing from elsewhere: it is read offline, and
under a policy that allows it nothing."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator
from html import escape
from typing import Any

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
code, pre { font: 14px/1.4 ui-monospace, monospace; }
pre { padding: .6rem; overflow: auto; border: 1px solid; border-radius: 4px; }
summary { cursor: pointer; padding: .3rem 0; }
details { border-top: 1px solid; }
.method { display: inline-block; min-width: 4.5rem; font-weight: bold; }
table { border-collapse: collapse; }
td, th { text-align: left; vertical-align: top; padding: .2rem 1rem .2rem 0; }
:root { color-scheme: light dark; }
"""
_STYLE_HASH = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()

POLICY = f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; base-uri 'none'; frame-ancestors 'none'"
"""The page's Content-Security-Policy."""

_PROBLEM_TYPE = "application/problem+json"
_METHODS = ("get", "head", "put", "post", "delete", "patch", "options")


def page(document: dict[str, Any], *, base: str) -> str:
    """The page for an OpenAPI *document*, with examples for a server at *base*."""
    return "".join(_page(document, base))


def _page(document: dict[str, Any], base: str) -> Iterator[str]:
    title = escape(document["info"]["title"])
    yield f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title><style>{_STYLE}</style>'
    yield '<meta name="viewport" content="width=device-width">'
    yield f"<h1>{title} {escape(document['info']['version'])}</h1>"
    yield f"<p>{escape(document['info'].get('description', ''))}</p>"
    yield '<p>For programs: <a href="openapi.json">openapi.json</a>.</p>'
    for path, methods in document["paths"].items():
        for method in _METHODS:
            if method in methods:
                yield from _operation(path, method, methods[method], base)
    yield "<h2>Models</h2>"
    for name, schema in sorted(document["components"]["schemas"].items()):
        yield from _model(name, schema)


def _operation(path: str, method: str, operation: dict[str, Any], base: str) -> Iterator[str]:
    yield f'<details><summary><span class="method">{method.upper()}</span> <code>{escape(path)}</code></summary>'
    yield f"<p>{_prose(operation)}</p>"
    parameters = operation.get("parameters", [])
    if parameters:
        yield "<table><tr><th>Parameter<th>In<th>Type<th>Meaning"
        for parameter in parameters:
            cells = (
                parameter["name"],
                parameter["in"],
                _type(_schema(parameter)),
                parameter.get("description", ""),
            )
            yield "<tr>" + "".join(f"<td>{escape(str(cell))}" for cell in cells)
        yield "</table>"
    kinds = operation.get("requestBody", {}).get("content", {})
    body = kinds.get("application/json", {}).get("schema")
    if kinds:
        (kind, shown), *_ = kinds.items()
        what = "" if kind == "application/json" else f" as {kind}"
        yield f"<p>Body: <code>{escape(_type(shown['schema']))}</code>{escape(what)}</p>"
        yield from _properties(shown["schema"])
    answers = sorted(operation["responses"].items())
    yield "<table><tr><th>Status<th>Meaning<th>Body"
    for status, answer in answers:
        content = answer.get("content", {})
        if _PROBLEM_TYPE not in content:
            kinds = ", ".join(_type(part.get("schema", {})) for part in content.values())
            yield f"<tr><td>{escape(status)}<td>{escape(answer['description'])}<td>{escape(kinds)}"
    problems = [status for status, answer in answers if _PROBLEM_TYPE in answer.get("content", {})]
    yield f"<tr><td>{escape(', '.join(problems))}<td>Something was wrong.<td>Problem</table>"
    yield f"<pre>{escape(_curl(path, method, body is not None, base))}</pre></details>"


def _schema(part: dict[str, Any]) -> dict[str, Any]:
    """The schema of a parameter, which may be JSON in a text."""
    found: dict[str, Any] = part.get("schema") or part["content"]["application/json"]["schema"]
    return found


def _prose(part: dict[str, Any]) -> str:
    return escape(" ".join(part.get("description", "").split()))


def _curl(path: str, method: str, has_body: bool, base: str) -> str:
    words = ["curl"]
    if method != "get":
        words += ["-X", method.upper()]
    if has_body:
        words += ["-H", "'Content-Type: application/json'", "-d", "'{…}'"]
    return " ".join([*words, f"'{base}{path}'"])


def _model(name: str, schema: dict[str, Any]) -> Iterator[str]:
    yield f'<details id="{escape(name)}"><summary><code>{escape(name)}</code></summary>'
    yield f"<p>{_prose(schema)}</p>"
    yield from _properties(schema)
    yield "</details>"


def _properties(schema: dict[str, Any]) -> Iterator[str]:
    if "properties" not in schema:
        return
    yield "<table><tr><th>Field<th>Type<th>Default"
    needed = schema.get("required", [])
    for field, part in schema.get("properties", {}).items():
        default = "needed" if field in needed else json.dumps(part["default"]) if "default" in part else ""
        yield f"<tr><td><code>{escape(field)}</code><td>{escape(_type(part))}<td>{escape(default)}"
    yield "</table>"


def _type(schema: dict[str, Any]) -> str:
    """A few words for a schema."""
    if "$ref" in schema:
        return str(schema["$ref"]).rpartition("/")[2]
    for several in ("anyOf", "oneOf"):
        if several in schema:
            return " or ".join(_type(part) for part in schema[several])
    if "enum" in schema:
        return " | ".join(str(value) for value in schema["enum"])
    if "const" in schema:
        return str(schema["const"])
    if schema.get("type") == "array":
        return f"list of {_type(schema.get('items', {}))}"
    words = [str(schema.get("type", "anything"))]
    bounds = {"minimum": ">=", "maximum": "<=", "exclusiveMinimum": ">", "pattern": "like", "format": "as"}
    words += [f"{word} {schema[name]}" for name, word in bounds.items() if name in schema]
    return " ".join(words)


# --- what plain handlers answer ---------------------------------------------------------------------------

_BYTES = {"*/*": {"schema": {"type": "string", "format": "binary"}}}
_DELIVERED: dict[str, Any] = {
    "200": {"description": "The content.", "content": _BYTES},
    "206": {"description": "The ranges that were asked for.", "content": _BYTES},
    "304": {"description": "Not modified."},
}
_REFUSED = {412: "A precondition failed.", 416: "No range that was asked for is there."}


def content_paths(problems: dict[int | str, dict[str, Any]]) -> dict[str, Any]:
    """The paths of content, for the OpenAPI document; with *problems*, the error answers that they may give."""
    document = {_PROBLEM_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    refused = {str(code): {"description": text, "content": document} for code, text in _REFUSED.items()}
    answers = {**_DELIVERED, **refused, **{str(code): answer for code, answer in problems.items()}}

    def get(name: str, text: str, parameters: list[dict[str, Any]]) -> dict[str, Any]:
        operation = {"operationId": name, "tags": ["Content"], "description": text, "parameters": parameters}
        return {"get": {**operation, "responses": answers}}

    version = "/v1/request/{request_id}/response/v/{version}/content"
    return {
        version: get(
            "get_content",
            "The content of a version; of one that is being fetched, from its first byte. Ranges and preconditions "
            "work; HEAD, too.",
            [_parameter("request_id", "A Request's id."), _parameter("version", "A version."), _VERIFIED],
        ),
        "/r/{url}": get(
            "get_any",
            "The content of any URL, registered and fetched when needed. The URL as it is, or percent-encoded; its "
            "query string goes to the origin, without parameters that begin with forebay-.",
            [
                _parameter("url", "http:// or https://, a host, a path."),
                _parameter("forebay-version", "This version of it.", where="query"),
                _parameter("forebay-tag", "The newest version with this tag.", where="query"),
                _VERIFIED,
            ],
        ),
    }


def _parameter(name: str, text: str, *, where: str = "path") -> dict[str, Any]:
    return {
        "name": name,
        "in": where,
        "required": where == "path",
        "description": text,
        "schema": {"type": "string", "minLength": 1},
    }


_VERIFIED = {
    "name": "forebay-verified",
    "in": "query",
    "required": False,
    "description": "1: nothing is sent before all bytes are there and verified.",
    "schema": {"type": "string", "enum": ["0", "1"]},
}
