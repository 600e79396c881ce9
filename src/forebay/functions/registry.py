"""Which functions clients may call: what ``@bay.expose`` and ``@bay.handle`` note. Nothing else can be called."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import unquote

from forebay.catalog.tokens import SCOPES, Scope
from forebay.errors import InvalidValue, MethodRefused
from forebay.functions.binding import Binding, bind

Kind = Literal["coroutine", "blocking", "lazy"]
"""Run on the loop, as asynchronous generators are; called in a worker thread; a generator, whose call does nothing
yet, and whose pieces are made in worker threads."""

CALL_PATH = "/v1/call/"
"""Where exposed functions are; their names follow."""

# What a server answers itself.
_OWN = ("/v1", "/r", "/docs", "/openapi.json", "/healthz", "/readyz")
_NAME = re.compile(r"[A-Za-z0-9_~-][A-Za-z0-9._~-]*(?:/[A-Za-z0-9_~-][A-Za-z0-9._~-]*)*")
_PLACE = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)(?::([a-z]+))?\}")
_VERB = re.compile(r"[A-Z]+(?:-[A-Z]+)*")
_MAX_NAME_LENGTH = 200


@dataclass(frozen=True, slots=True, eq=False)
class Exposed:
    """A function that clients may call, at *path*: for one with a name below `CALL_PATH`, else a template.

    *verbs*: the methods that it answers. *requires*: the scope of a token for it. *time_limit_s*: until its answer
    has begun; None: the server's."""

    path: str
    call: Callable[..., Any]
    binding: Binding
    verbs: tuple[str, ...]
    requires: Scope
    time_limit_s: float | None
    kind: Kind
    name: str | None = None
    places: tuple[str, ...] = ()

    def check_verb(self, verb: str) -> None:
        """Raise `MethodRefused` unless it answers *verb*."""
        if verb not in self.verbs:
            raise MethodRefused(allowed=self.verbs)

    @property
    def description(self) -> str:
        """What its docstring says."""
        return inspect.getdoc(self.call) or ""


class Registry:
    """The exposed functions of one Forebay, its *owner*."""

    def __init__(self, owner: object) -> None:
        self._owner = owner
        self._named: dict[str, Exposed] = {}
        self._handled: list[tuple[re.Pattern[str], Exposed]] = []

    def __iter__(self) -> Iterator[Exposed]:
        yield from self._named.values()
        for _, exposed in self._handled:
            yield exposed

    def __len__(self) -> int:
        return len(self._named) + len(self._handled)

    def expose(
        self,
        call: Callable[..., Any],
        *,
        name: str | None,
        get: bool,
        requires: str,
        time_limit_s: float | None,
    ) -> None:
        """Have *call* answer at ``/v1/call/{name}``. Raises `InvalidValue`."""
        name = getattr(call, "__name__", None) if name is None else name
        if not isinstance(name, str) or not _NAME.fullmatch(name) or len(name) > _MAX_NAME_LENGTH:
            expected = "segments of letters, digits, - . _ ~ (none begins with a dot) with / between them"
            raise InvalidValue("name", expected=expected, got=name)
        if name in self._named:
            raise InvalidValue("name", expected="one that no other function has", got=name)
        self._named[name] = Exposed(
            path=CALL_PATH + name,
            call=call,
            binding=bind(call, owner=self._owner),
            verbs=("GET", "HEAD", "POST") if get else ("POST",),
            requires=_scope(requires),
            time_limit_s=_limit(time_limit_s),
            kind=_kind(call),
            name=name,
        )

    def handle(
        self,
        call: Callable[..., Any],
        path: str,
        *,
        verbs: Sequence[str],
        requires: str,
        time_limit_s: float | None,
    ) -> None:
        """Have *call* answer at *path*, a template such as ``/start/{rest:path}``. Raises `InvalidValue`."""
        pattern, places = _compiled(path)
        if any(other.path == path for _, other in self._handled):
            raise InvalidValue("path", expected="one that no other function has", got=path)
        exposed = Exposed(
            path=path,
            call=call,
            binding=bind(call, owner=self._owner),
            verbs=_verbs(verbs),
            requires=_scope(requires),
            time_limit_s=_limit(time_limit_s),
            kind=_kind(call),
            places=places,
        )
        self._handled.append((pattern, exposed))

    def named(self, name: str) -> Exposed | None:
        """The exposed function of that name."""
        return self._named.get(name)

    def at(self, path: str) -> tuple[Exposed, dict[str, str]] | None:
        """The function that handles *path*, percent-encoded as it came, and what stands in the places of its
        template; the first one that was registered of several. None, too, for what a server answers itself."""
        if not self._handled or _is_own(unquote(path)):
            return None
        for pattern, exposed in self._handled:
            found = pattern.fullmatch(path)
            if found is not None:
                try:
                    return exposed, {
                        name: unquote(value, errors="strict") for name, value in found.groupdict().items()
                    }
                except UnicodeDecodeError:
                    return None
        return None


def _is_own(path: str) -> bool:
    return any(path == own or path.startswith(own + "/") for own in _OWN)


def _compiled(path: str) -> tuple[re.Pattern[str], tuple[str, ...]]:
    """What matches *path*, and its places. Raises `InvalidValue`."""
    if not path.startswith("/"):
        raise InvalidValue("path", expected="one that begins with /", got=path)
    if _is_own(_PLACE.split(path)[0].rstrip("/") or "/"):
        raise InvalidValue("path", expected=f"none of the server's own ({', '.join(_OWN)})", got=path)
    pattern, end, places = "", 0, []
    for found in _PLACE.finditer(path):
        pattern += _literal(path[end : found.start()], path)
        name, kind = found[1], found[2] or "str"
        if kind not in ("str", "path") or name in places:
            expected = "places such as {name}, or {rest:path} for all that follows, each once"
            raise InvalidValue("path", expected=expected, got=path)
        pattern += f"(?P<{name}>{'.*' if kind == 'path' else '[^/]+'})"
        places.append(name)
        end = found.end()
    pattern += _literal(path[end:], path)
    return re.compile(pattern, re.DOTALL), tuple(places)


def _literal(text: str, path: str) -> str:
    if "{" in text or "}" in text or "?" in text or "#" in text:
        raise InvalidValue("path", expected="a path with places such as {name} or {rest:path}", got=path)
    return re.escape(text)


def _verbs(verbs: Sequence[str]) -> tuple[str, ...]:
    found = [verbs] if isinstance(verbs, str) else list(verbs)
    if not found or not all(map(_VERB.fullmatch, found)):
        raise InvalidValue("verbs", expected='methods such as ("GET", "POST")', got=verbs)
    if "GET" in found and "HEAD" not in found:
        found.insert(found.index("GET") + 1, "HEAD")
    return tuple(dict.fromkeys(found))


def _scope(name: str) -> Scope:
    for scope in SCOPES:
        if scope == name:
            return scope
    raise InvalidValue("requires", expected=f"one of {', '.join(SCOPES)}", got=name)


def _limit(seconds: float | None) -> float | None:
    if seconds is not None and not seconds > 0:
        raise InvalidValue("time_limit_s", expected="a positive number of seconds", got=seconds)
    return seconds


def _kind(call: Callable[..., Any]) -> Kind:
    inner = call
    while isinstance(inner, functools.partial):
        inner = inner.func
    if not inspect.isroutine(inner):
        inner = type(inner).__call__
    if inspect.iscoroutinefunction(inner) or inspect.isasyncgenfunction(inner):
        return "coroutine"
    return "lazy" if inspect.isgeneratorfunction(inner) else "blocking"
