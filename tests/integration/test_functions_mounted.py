"""The server within other applications, and messages as answers of other frameworks."""

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import fastapi
import httpx
import pytest
from starlette.applications import Starlette
from starlette.routing import Mount, Route

from forebay import BufferedServerResponse, Forebay, IncomingMessage, OutgoingMessage
from forebay.errors import InvalidValue, StateError
from origin import Origin, Resource, blob


@pytest.fixture
def exposing(make_bay: Callable[..., Forebay]) -> Forebay:
    """A Forebay that exposes functions."""
    bay = make_bay()

    @bay.expose(get=True)
    def report(year: int) -> dict[str, int]:
        return {"year": year}

    @bay.expose(get=True)
    def stored(url: str) -> Any:
        return bay.fetch(url)

    @bay.handle("/start/{rest:path}")
    def start(rest: str, message: IncomingMessage) -> str:
        return f"{rest} {message.url}"

    return bay


@contextlib.asynccontextmanager
async def asking(app: Any) -> AsyncIterator[httpx.AsyncClient]:
    """A client of *app*, in this process."""
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost", timeout=60) as http:
        yield http


def in_starlette(inner: Any) -> Any:
    return Starlette(routes=[Mount("/deep", routes=[Mount("/bay", inner)])])


def in_fastapi(inner: Any) -> Any:
    outer = fastapi.FastAPI()
    outer.mount("/deep/bay", inner)
    return outer


@pytest.mark.parametrize("mounted", [in_starlette, in_fastapi])
def test_the_whole_server_mounts(exposing: Forebay, origin: Origin, mounted: Callable[[Any], Any]) -> None:
    """Below a path of another application: functions, the door, the API, its document; what it fetches, it fetches
    there."""
    body = blob(200_000)
    origin.serve("/f", Resource(body))
    app = mounted(exposing.asgi())

    async def scenario() -> None:
        async with asking(app) as http:
            assert (await http.get("/deep/bay/v1/call/report?year=7")).json() == {"year": 7}
            assert (await http.get("/deep/bay/v1/call/report")).status_code == 422
            assert (await http.get("/deep/bay/start/a%2Fb")).json().startswith("a/b ")
            door = await http.get(f"/deep/bay/r/{origin.url('/f')}")
            assert door.content == body
            assert (await http.get(door.headers["content-location"])).content == body
            found = await http.get(
                f"/deep/bay/v1/call/stored?url={origin.url('/f')}", headers={"Range": "bytes=0-9"}
            )
            assert (found.status_code, found.content) == (206, body[:10])
            assert len((await http.get("/deep/bay/v1/request/")).json()) == 1
            ordered = await http.put("/deep/bay/v1/request/", json={"url": origin.url("/f")})
            assert (await http.get(ordered.headers["location"])).json()["url"] == origin.url("/f")
            assert (await http.get("/deep/bay/readyz")).status_code == 200
            assert "/v1/call/report" in (await http.get("/deep/bay/openapi.json")).json()["paths"]
            assert "http://localhost/deep/bay/v1/call/report" in (await http.get("/deep/bay/docs")).text
            assert (await http.get("/deep/bay/nothing")).status_code == 404
            assert (await http.get("/nothing")).status_code == 404

    asyncio.run(scenario())


def test_links_lead_to_where_it_is_mounted(exposing: Forebay, origin: Origin) -> None:
    """Also those of answers that are kept ready, when it is mounted twice."""
    url, resource = origin.url("/f"), origin.serve("/f", Resource(b"one"))
    versions = [exposing.fetch(url)]
    exposing.configure(url, max_cached_unpinned_versions=9)
    resource.change(b"two", etag='"2"')
    versions.append(exposing.fetch(url, refresh="always"))
    inner = exposing.asgi()
    app = Starlette(routes=[Mount("/a b", inner), Mount("/c", inner), Mount("/", inner)])
    place = f"/v1/request/{versions[1].request_id}/response/v/{{}}/content"

    async def scenario() -> None:
        async with asking(app) as http:
            for root in ("/a%20b", "/c", "") * 2:
                link = (await http.get(root + place.format(versions[1].version))).headers["link"]
                assert f"<{root}{place.format(versions[0].version)}>" in link
                assert f"http://localhost{root}/v1/call/report" in (await http.get(f"{root}/docs")).text

    asyncio.run(scenario())


def test_it_ends_with_the_lifespan_of_who_is_told_of_it(exposing: Forebay) -> None:
    """A server that runs it alone."""
    app = exposing.asgi()
    told: asyncio.Queue[Any] = asyncio.Queue()
    said: list[str] = []

    async def send(event: Any) -> None:
        said.append(event["type"])

    async def scenario() -> None:
        living = asyncio.create_task(app({"type": "lifespan"}, told.get, send))
        await told.put({"type": "lifespan.startup"})
        async with asking(app) as http:
            assert (await http.get("/v1/call/report?year=7")).json() == {"year": 7}
        await told.put({"type": "lifespan.shutdown"})
        await living

    asyncio.run(scenario())
    assert said == ["lifespan.startup.complete", "lifespan.shutdown.complete"]


def test_it_answers_for_loopback_unless_it_is_told_other_names(exposing: Forebay) -> None:
    """A page could point its own name at it; and whoever reaches it without a token may do everything."""

    async def status(app: Any) -> int:
        async with asking(app) as http:
            answer = await http.get("/v1/call/report?year=7", headers={"Host": "app.example"})
            return answer.status_code

    assert asyncio.run(status(exposing.asgi())) == 421
    assert asyncio.run(status(exposing.asgi(allow_hosts=["app.example"], insecure=True))) == 200
    with pytest.raises(InvalidValue, match="allow_hosts"):  # whoever reaches that name could do everything
        exposing.asgi(allow_hosts=["app.example"])


def test_each_event_loop_has_its_own(exposing: Forebay) -> None:
    """One after the other, as with a test client that makes one for each request."""
    app = exposing.asgi()

    async def ask() -> int:
        async with asking(app) as http:
            return (await http.get("/v1/call/report?year=7")).status_code

    assert [asyncio.run(ask()) for _ in range(3)] == [200] * 3


def test_it_ends_with_its_forebay(make_bay: Callable[..., Forebay]) -> None:
    """Threads and all."""
    before = set(threading.enumerate())
    bay = make_bay("other")
    app = bay.asgi()

    async def ask() -> None:
        async with asking(app) as http:
            assert (await http.get("/readyz")).status_code == 200

    asyncio.run(ask())
    bay.close()
    left = {thread.name for thread in set(threading.enumerate()) - before if thread.name.startswith("forebay")}
    assert left <= {"forebay-catalog_0"}
    with pytest.raises(StateError, match="was closed"):
        asyncio.run(app({"type": "http"}, lambda: None, lambda _: None))


def test_a_wrong_setting_is_named(exposing: Forebay) -> None:
    """When it is mounted."""
    with pytest.raises(InvalidValue, match="function_threads"):
        exposing.asgi(function_threads=0)


def test_a_setting_of_the_folder_is_refused(exposing: Forebay) -> None:
    """It is open already: a gate that was asked for here would stay open."""
    with pytest.raises(InvalidValue, match=r"allow_private: expected it in forebay\.open"):
        exposing.asgi(allow_private=False)


# --- messages in other frameworks -------------------------------------------------------------------------------


def write(word: str) -> BufferedServerResponse:
    """A finished response."""
    response = BufferedServerResponse()
    response.set_header("X-Word", word)
    response.write(word)
    response.finish()
    return response


def endpoints(folder: Path) -> list[Callable[[Any], Any]]:
    """Both classes as what endpoints return."""

    async def sent(request: Any) -> Any:
        return OutgoingMessage({"a": 1}, status=201)

    def file(request: Any) -> Any:
        return OutgoingMessage(folder / "f.csv")

    def streamed(request: Any) -> Any:
        return OutgoingMessage(str(number) for number in range(3))

    def written(request: Any) -> Any:
        return write("w")

    return [sent, file, streamed, written]


def starlette_app(folder: Path) -> Any:
    """Starlette, with these endpoints."""
    return Starlette(routes=[Route(f"/{make.__name__}", make) for make in endpoints(folder)])


def fastapi_app(folder: Path) -> Any:
    """FastAPI, with these endpoints: as routes, for what its path operations return becomes JSON."""
    app = fastapi.FastAPI()
    for make in endpoints(folder):
        app.router.add_route(f"/{make.__name__}", make)
    return app


@pytest.mark.parametrize("make", [starlette_app, fastapi_app])
def test_messages_are_answers_of_other_frameworks(tmp_path: Path, make: Callable[[Path], Any]) -> None:
    """As they are: they are ASGI applications."""
    (tmp_path / "f.csv").write_bytes(b"1,2,3")
    app = make(tmp_path)

    async def scenario() -> None:
        async with asking(app) as http:
            sent = await http.get("/sent")
            assert (sent.status_code, sent.json()) == (201, {"a": 1})
            part = await http.get("/file", headers={"Range": "bytes=2-2"})
            assert (part.status_code, part.content, part.headers["content-type"]) == (206, b"2", "text/csv")
            assert (await http.get("/streamed")).text == "012"
            written = await http.get("/written")
            assert (written.text, written.headers["x-word"], written.headers["content-length"]) == ("w", "w", "1")

    asyncio.run(scenario())
