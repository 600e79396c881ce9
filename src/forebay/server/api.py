"""The documented JSON API: FastAPI, with problem documents for every error and nothing of its own."""

from __future__ import annotations

from typing import Any

import fastapi
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, RedirectResponse
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.routing import Match

import forebay
from forebay.api_models import Health, Problem
from forebay.catalog.tokens import Scope as TokenScope
from forebay.errors import BodyInvalid, ForebayError, InvalidValue, MethodRefused, RequestError, UnknownPath
from forebay.functions.registry import Registry
from forebay.messages.asgi import Scope
from forebay.messages.problems import note_if_ours, problem_body
from forebay.server.apidocs import POLICY, content_paths, page
from forebay.server.basin import Basin
from forebay.server.deliver import root_of
from forebay.server.functiondocs import function_paths
from forebay.server.own import make_own_router
from forebay.server.problems import problem, problem_fields, problem_of
from forebay.server.requests import SCOPE, Answers, make_router
from forebay.server.uploaddocs import chunk_schemas, upload_paths
from forebay.server.worker import is_working

_MEANINGS = {
    400: "The Host or the body cannot be read.",
    401: "A token is missing, or is not known.",
    403: "Not allowed: the token's scope or group, a page of another site, or an origin that the gate refuses.",
    404: "Nothing of that name is known.",
    405: "Not with this method.",
    408: "The body did not arrive in time.",
    409: "Not in this state.",
    413: "The body is too large.",
    415: "The body does not say that it is JSON.",
    421: "The server does not answer for this Host.",
    422: "A value breaks its rule: `field` names it.",
    500: "The storage failed, or a bug of ours.",
    507: "No space is left.",
}
_PROBLEM = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
PROBLEMS: Answers = {status: {"description": meaning, "content": _PROBLEM} for status, meaning in _MEANINGS.items()}
FETCH_PROBLEMS: Answers = {
    502: {"description": "The origin failed, and no version is stored.", "content": _PROBLEM},
    504: {"description": "The origin cannot be reached, and no version is stored.", "content": _PROBLEM},
}
CALL_PROBLEMS: Answers = {
    503: {"description": "Too many calls run and wait already.", "content": _PROBLEM},
    504: {"description": "The function did not begin its answer in time.", "content": _PROBLEM},
}


def make_api(basin: Basin) -> FastAPI:
    """The API on *basin*."""
    api = FastAPI(
        title="Forebay",
        version=forebay.__version__,
        description="A basin for HTTP content: what was fetched is kept, versioned and served.",
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        generate_unique_id_function=lambda route: route.name,
        license_info={"name": "Apache 2.0", "identifier": "Apache-2.0"},
    )
    routers = [make(basin, PROBLEMS, FETCH_PROBLEMS) for make in (make_router, make_own_router)]
    for router in routers:
        api.include_router(router)

    async def readyz() -> fastapi.Response:
        """Whether Requests can be answered: the catalog can be read, and a fetch worker lives."""
        if not await basin.run(_is_ready, basin):
            document = problem(503, code="not_ready", detail="no fetch worker is alive", retryable=True)
            return _answer(503, document)
        return fastapi.Response('{"status":"ok"}', media_type="application/json")

    async def openapi_json() -> Any:
        return document_of(api)

    async def docs(incoming: fastapi.Request) -> fastapi.Response:
        # Starlette's base_url leaves out where this application is mounted.
        base = f"{incoming.url.scheme}://{incoming.url.netloc}{root_of(incoming.scope)}"
        html = page(document_of(api), base=base)
        return HTMLResponse(html, headers={"content-security-policy": POLICY})

    async def root() -> fastapi.Response:
        return RedirectResponse("docs", 307)

    ready: Answers = {503: {"description": "It is not.", "content": _PROBLEM}}
    api.add_api_route("/readyz", readyz, response_model=Health, responses=PROBLEMS | ready, tags=["Server"])
    api.add_api_route("/openapi.json", openapi_json, include_in_schema=False)
    api.add_api_route("/docs", docs, include_in_schema=False)
    api.add_api_route("/", root, include_in_schema=False)
    api.state.functions = basin.bay.functions
    api.state.every_route = [*api.routes, *(route for router in routers for route in router.routes)]
    api.add_exception_handler(RequestValidationError, _on_invalid)
    api.add_exception_handler(HTTPException, _on_http)
    api.add_exception_handler(ForebayError, _on_error)
    api.add_exception_handler(Exception, _on_error)
    return api


def _is_ready(basin: Basin) -> bool:
    basin.bay.frontier.next_due_at()
    return is_working(basin.bay)


def scope_needed(api: FastAPI, scope: Scope) -> TokenScope:
    """What its token must have for a message to *api*: what its route says; where none is, something."""
    asked = {**scope, "method": "GET"} if scope["method"] == "HEAD" else scope
    for route in api.state.every_route:
        if isinstance(route, APIRoute) and route.matches(asked)[0] is Match.FULL:
            needed: TokenScope = (route.openapi_extra or {}).get(SCOPE, "admin")
            return needed
    return "read" if scope["method"] in ("GET", "HEAD", "OPTIONS") else "write"


def document_of(api: FastAPI) -> dict[str, Any]:
    """The OpenAPI document of *api*, of what plain handlers answer beside it, and of the exposed functions."""
    document = api.openapi()
    if "securitySchemes" not in document["components"]:
        document["components"]["schemas"]["Problem"] = Problem.model_json_schema()
        document["components"]["securitySchemes"] = {
            "bearer": {"type": "http", "scheme": "bearer", "description": "A token."},
            "basic": {"type": "http", "scheme": "basic", "description": "A token as the password; any user name."},
        }
        document["security"] = [{}, {"bearer": []}, {"basic": []}]  # {}: while no token exists
        document["paths"] |= content_paths({**PROBLEMS, **FETCH_PROBLEMS}) | upload_paths(PROBLEMS)
        document["components"]["schemas"] |= chunk_schemas()
    functions: Registry = api.state.functions
    if not functions:
        return document
    paths, schemas = function_paths(functions, PROBLEMS | CALL_PROBLEMS)
    components = document["components"] | {"schemas": document["components"]["schemas"] | schemas}
    return document | {"paths": document["paths"] | paths, "components": components}


# --- errors ---------------------------------------------------------------------------------------------


def _answer(status: int, document: dict[str, Any], error: Exception | None = None) -> fastapi.Response:
    answer = fastapi.Response(problem_body(document), status)
    for name, value in problem_fields(error):
        answer.headers[name.decode()] = value.decode()
    return answer


async def _on_error(_: fastapi.Request, error: Exception) -> fastapi.Response:
    note_if_ours(error)
    return _answer(*problem_of(error), error)


async def _on_invalid(_: fastapi.Request, error: Exception) -> fastapi.Response:
    assert isinstance(error, RequestValidationError)
    wrong = _invalid(error.errors()[0])
    return _answer(*problem_of(wrong), wrong)


def _invalid(first: Any) -> RequestError:
    """What FastAPI found wrong, without what was sent: it may hold a secret."""
    if first["type"] == "json_invalid":
        return BodyInvalid()
    where = ".".join(str(part) for part in first["loc"] if part not in ("body", "query", "path")) or "body"
    if first["type"] == "extra_forbidden":
        return InvalidValue(where, expected="a name that exists", got="another")
    expected = str(first["msg"]).removeprefix("Value error, ").removeprefix("Input should be ")
    return InvalidValue(where, expected=expected, got=type(first.get("input")).__name__)


async def _on_http(incoming: fastapi.Request, error: Exception) -> fastapi.Response:
    assert isinstance(error, HTTPException)
    if error.status_code != 405:
        return _answer(*problem_of(UnknownPath()))
    refused = MethodRefused(allowed=_allowed(incoming))
    return _answer(*problem_of(refused), refused)


def _allowed(incoming: fastapi.Request) -> tuple[str, ...]:
    """The methods that the path of *incoming* has (RFC 9110 section 15.5.6)."""
    found: set[str] = set()
    for route in incoming.app.state.every_route:
        if isinstance(route, APIRoute) and route.matches(incoming.scope)[0] is not Match.NONE:
            found |= route.methods or set()
    if "GET" in found:
        found.add("HEAD")
    return tuple(sorted(found))
