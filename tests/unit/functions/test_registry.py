"""What is exposed can be called, at its place and by its methods; nothing else can."""

import functools
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from forebay.errors import InvalidValue, MethodRefused
from forebay.functions.registry import Exposed, Registry


def nothing() -> None: ...


def expose(registry: Registry, call: Any = nothing, **options: Any) -> Exposed:
    """Exposed, and found by its name."""
    usual = {"name": None, "get": False, "requires": "call", "time_limit_s": None}
    registry.expose(call, **{**usual, **options})
    found = registry.named(options.get("name") or call.__name__)
    assert found is not None
    return found


def handle(registry: Registry, path: str, call: Any = nothing, **options: Any) -> None:
    """Handled at *path*."""
    usual = {"verbs": ("GET",), "requires": "call", "time_limit_s": None}
    registry.handle(call, path, **{**usual, **options})


@pytest.fixture
def registry() -> Registry:
    """One with nothing in it."""
    return Registry(object())


def test_a_function_is_exposed_by_its_name(registry: Registry) -> None:
    """Or by one that it is given; only POST calls it, unless GET may."""
    assert expose(registry).verbs == ("POST",)
    assert expose(registry, name="a/b", get=True).verbs == ("GET", "HEAD", "POST")
    assert [one.path for one in registry] == ["/v1/call/nothing", "/v1/call/a/b"]
    assert registry.named("other") is None
    with pytest.raises(MethodRefused):
        expose(registry, name="c").check_verb("GET")


@pytest.mark.parametrize(
    "name", ["", "a b", "../a", "a//b", "/a", "a/", ".a", "a/..", "ü", "a" * 201, "a?b", "<lambda>"]
)
def test_a_name_is_one_that_a_path_can_have(registry: Registry, name: str) -> None:
    """As it is, in every client."""
    with pytest.raises(InvalidValue, match="name: expected segments"):
        expose(registry, name=name)


def test_a_name_is_given_once(registry: Registry) -> None:
    """Otherwise one of two functions would be lost."""
    expose(registry)
    with pytest.raises(InvalidValue, match="one that no other function has"):
        expose(registry)
    handle(registry, "/a")
    with pytest.raises(InvalidValue, match="one that no other function has"):
        handle(registry, "/a")


@pytest.mark.parametrize(
    ("path", "asked", "places"),
    [
        ("/start", "/start", {}),
        ("/start", "/start/", None),
        ("/start/{rest:path}", "/start/a/b", {"rest": "a/b"}),
        ("/start/{rest:path}", "/start/", {"rest": ""}),
        ("/start/{rest:path}", "/start", None),
        ("/start/{rest:path}", "/start/a%2Fb%20c", {"rest": "a/b c"}),
        ("/{a}/x/{b}", "/1/x/2", {"a": "1", "b": "2"}),
        ("/{a}/x/{b}", "/1/2/x/3", None),
        ("/{a}", "/a%2Fb", {"a": "a/b"}),
        ("/{a}", "/", None),
        ("/{a}", "/%ff", None),
        ("/a.b", "/axb", None),
        ("/{rest:path}", "/anything", {"rest": "anything"}),
        ("/{rest:path}", "/v1/request/", None),
        ("/{rest:path}", "/docs", None),
        ("/{rest:path}", "/%64ocs", None),
        ("/{rest:path}", "/docsy", {"rest": "docsy"}),
        ("/", "/", {}),
    ],
)
def test_a_template_has_places(registry: Registry, path: str, asked: str, places: dict[str, str] | None) -> None:
    """Decoded after they were told apart; and what the server answers itself stays its own."""
    handle(registry, path)
    found = registry.at(asked)
    assert (None if found is None else found[1]) == places


@pytest.mark.parametrize(
    "path",
    ["/v1", "/v1/x", "/v1/call/{a}", "/r/{a:path}", "/docs", "/openapi.json", "/healthz", "/readyz/", "a", "", "/{a",
     "/a}", "/{a}{a}", "/{a:int}", "/{1}", "/a?b", "/a#b"],
)  # fmt: skip
def test_a_path_is_refused_that_is_the_servers_or_none(registry: Registry, path: str) -> None:
    """When it is registered."""
    with pytest.raises(InvalidValue, match="path: expected"):
        handle(registry, path)


@pytest.mark.parametrize("verbs", [(), ("get",), ("GET POST",), ("",), ("GET", "x")])
def test_verbs_are_methods(registry: Registry, verbs: Any) -> None:
    """In capitals, at least one."""
    with pytest.raises(InvalidValue, match="verbs: expected"):
        handle(registry, "/a", verbs=verbs)


def test_head_comes_with_get(registry: Registry) -> None:
    """RFC 9110 section 9.3.2."""
    handle(registry, "/a", verbs=["POST", "GET"])
    handle(registry, "/b", verbs="PUT")
    assert [one.verbs for one in registry] == [("POST", "GET", "HEAD"), ("PUT",)]


def test_scopes_and_limits_are_checked(registry: Registry) -> None:
    """When they are registered."""
    with pytest.raises(InvalidValue, match="requires: expected one of read, write, call, admin"):
        expose(registry, requires="reports")
    with pytest.raises(InvalidValue, match="time_limit_s"):
        expose(registry, time_limit_s=0)
    assert expose(registry, requires="admin", time_limit_s=1.5).requires == "admin"


async def coroutine() -> None: ...
def generator() -> Iterator[int]:
    yield 1


async def async_generator() -> AsyncIterator[int]:
    yield 1


class Callables:
    """Its instances are called."""

    async def __call__(self) -> None: ...


@pytest.mark.parametrize(
    ("call", "kind"),
    [
        (nothing, "blocking"),
        (coroutine, "coroutine"),
        (generator, "lazy"),
        (async_generator, "coroutine"),
        (functools.partial(coroutine), "coroutine"),
        (functools.partial(functools.partial(nothing)), "blocking"),
        (Callables(), "coroutine"),
    ],
)
def test_it_is_known_what_blocks(registry: Registry, call: Any, kind: str) -> None:
    """That runs in a thread."""
    assert expose(registry, call, name="it").kind == kind
