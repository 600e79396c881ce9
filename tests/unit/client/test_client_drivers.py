"""The drivers of flows against a real HTTP server: which connections they use, cut and use again."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from forebay.client.drivers import Driver, Hook, HungUp, Line
from forebay.client.exchange import Call, send
from forebay.core.fields import Fields
from origin import Held, Origin, Resource, Status, blob


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
