"""The drivers of flows against a real HTTP server: which connections they use, cut and use again."""

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from forebay.client.drivers import AsyncDriver, Driver, Line
from forebay.client.exchange import Answer, Call, send
from forebay.client.together import Hook, HungUp
from forebay.core.fields import Fields
from forebay.errors import ServerUnreachable
from origin import FailFirst, Held, Origin, Resource, Status, blob


@pytest.fixture
def driver(origin: Origin) -> Iterator[Driver]:
    driver = Driver(Line(origin.url("").rstrip("/")))
    yield driver
    driver.close()


class Taken:
    """A `Sink` of all that comes."""

    def __init__(self) -> None:
        self.body = b""

    def begin(self, status: int, fields: Fields) -> bool:
        """See `Sink.begin`."""
        return True

    def write(self, piece: bytes) -> None:
        """See `Sink.write`."""
        self.body += piece


@pytest.mark.parametrize("sink", [None, Taken()], ids=["answer", "sink"])
def test_only_ones_own_connection_is_hung_up(driver: Driver, origin: Origin, sink: Taken | None) -> None:
    """Once an answer is over, its connection is the next one's, which a late hang-up does not touch."""
    body = blob(300_000)
    origin.serve("/a", Resource(body))
    held = origin.serve("/b", Held(Status(200, b"hello")))
    hook = Hook()
    answer = driver.run(send(Call("GET", "/a", sink=sink)), hook=hook)
    assert (answer.body if sink is None else sink.body) == body
    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(driver.run, send(Call("GET", "/b")))
        held.arrived()
        hook.hang_up()
        held.release()
        assert other.result().body == b"hello"
    first, second = origin.requests()
    assert first.connection == second.connection  # it is the one that the hook was on
    with pytest.raises(HungUp):
        driver.run(send(Call("GET", "/a")), hook=hook)


async def exchange_in_a_loop(origin: Origin, call: Call) -> Answer:
    driver = AsyncDriver(Line(origin.url("").rstrip("/")))
    try:
        return await driver.run(send(call))
    finally:
        await driver.close()


@pytest.mark.parametrize("in_a_loop", [False, True], ids=["thread", "loop"])
@pytest.mark.parametrize(
    "call",
    [
        Call("GET", "/a"),
        Call("PUT", "/a", body={}),
        Call("POST", "/a", body={}, idempotent=True),
        Call("POST", "/a", body={}),
        Call("DELETE", "/a"),
    ],
    ids=["get", "put", "asking", "post", "delete"],
)
def test_what_may_be_sent_again(driver: Driver, origin: Origin, call: Call, in_a_loop: bool) -> None:
    """A connection that broke after the request was sent: what does no more when it is done twice is sent once more;
    of the rest nobody knows whether it was done, and that is what the caller hears (RFC 9110 section 9.2.2)."""
    origin.serve("/a", FailFirst(Status(200, b"hello"), times=1))

    def exchange() -> Answer:
        return asyncio.run(exchange_in_a_loop(origin, call)) if in_a_loop else driver.run(send(call))

    if call.may_be_sent_again:
        assert exchange().body == b"hello"
    else:
        with pytest.raises(ServerUnreachable):
            exchange()
    assert len(origin.requests("/a")) == (2 if call.may_be_sent_again else 1)
