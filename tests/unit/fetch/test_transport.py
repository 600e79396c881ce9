"""The transport's loop, where the order of what comes in one turn matters."""

import threading
from collections.abc import Callable, Iterator

import pytest

from forebay.core.exchange import Failed, Head, Send
from forebay.fetch.exchange import Take, TransportSettings
from forebay.fetch.gate import Gate
from forebay.fetch.transport import Transport
from origin import Exchange, Origin, blob

MIB = 1 << 20


@pytest.fixture
def transport() -> Iterator[Transport]:
    """A running one, that may dial loopback."""
    running = Transport(Gate(allow_private=True), TransportSettings(user_agent="test"))
    running.start()
    yield running
    running.close()


class Kept:
    """A sink that keeps what comes. *at_head* is called when the head is there, in the transport's thread."""

    def __init__(self, at_head: Callable[[], object] = lambda: None) -> None:
        self.body = bytearray()
        self.failure: Failed | None = None
        self.ended = threading.Event()
        self._at_head = at_head

    def on_head(self, head: Head) -> Take:
        self._at_head()
        return Take.WRITE

    def on_block(self, block: bytearray, size: int) -> None:
        self.body += block[:size]

    def on_end(self, failure: Failed | None) -> None:
        self.failure = failure
        self.ended.set()


def test_a_connection_that_has_passed_on_is_left_alone(transport: Transport, origin: Origin) -> None:
    """An exchange ends, the next one takes its connection, and is answered, all in one turn of the loop: what waits
    on that connection by then is an answer, not a surplus of the one before."""
    begun, go_on, next_sent = threading.Semaphore(0), threading.Event(), threading.Event()
    first_sent, beside_sent = threading.Event(), threading.Event()
    first, following = blob(1000, 1), blob(3 * MIB, 2)

    def answer_first(exchange: Exchange) -> None:
        exchange.send_head(200, [("Content-Length", str(len(first)))])
        exchange.send(first[:500])
        begun.release()
        exchange.stall(go_on)
        exchange.send(first[500:])
        first_sent.set()

    def answer_beside(exchange: Exchange) -> None:
        begun.release()
        exchange.stall(first_sent)
        exchange.send_head(200, [("Content-Length", "1")])
        exchange.send(b"x")
        beside_sent.set()

    def answer_next(exchange: Exchange) -> None:
        exchange.send_head(200, [("Content-Length", str(len(following)))])
        exchange.send(following[: MIB // 4])
        next_sent.set()
        exchange.send(following[MIB // 4 :])

    origin.serve("/first", answer_first)
    origin.serve("/beside", answer_beside)
    origin.serve("/next", answer_next)
    # Served right behind the first one's end, the other one holds the loop until the next one's answer is there.
    sinks = {"/first": Kept(), "/beside": Kept(lambda: next_sent.wait(30)), "/next": Kept()}

    def ask(path: str) -> None:
        transport.open(Send("GET", origin.url(path), ()), sinks[path])

    def go_on_at_once() -> None:
        """While the loop stands here, both others get the rest of their answers: they are in one turn."""
        go_on.set()
        beside_sent.wait(30)
        ask("/next")

    transport.call(lambda: ask("/first"))
    transport.call(lambda: ask("/beside"))
    assert begun.acquire(timeout=30)
    assert begun.acquire(timeout=30)
    transport.call(go_on_at_once)
    for sink in sinks.values():
        assert sink.ended.wait(30)
        assert sink.failure is None
    assert sinks["/next"].body == following
    assert origin.requests("/next")[0].connection == origin.requests("/first")[0].connection
