"""Bodies that go out: all of it, or visibly not all."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forebay.core.delivery import Everything, Piece
from forebay.core.ranges import Span
from forebay.errors import FollowBroken, StorageFailed
from forebay.messages import outflow as pieces
from forebay.messages.asgi import Disconnected
from forebay.messages.outflow import Outflow, Reader, StoredSource, read_all

BODY = bytes(range(256)) * 1000
LAST = {"type": "http.response.body", "body": b"", "more_body": False}


class Connection:
    """What a server gives an application: *takes* events of a body, then nobody reads any more; or, with *stalls*,
    nobody takes them."""

    def __init__(self, takes: int = 1 << 30, *, stalls: bool = False) -> None:
        self.sent: list[dict[str, Any]] = []
        self._takes, self._stalls = takes, stalls
        self._gone = asyncio.Event()
        self.asked = 0

    async def receive(self) -> dict[str, Any]:
        self.asked += 1
        if self.asked == 1:
            return {"type": "http.request", "body": b"", "more_body": False}
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, event: Any) -> None:
        if len(self.sent) >= self._takes:
            if self._stalls:
                await asyncio.Event().wait()
            self._gone.set()
        else:
            self.sent.append(event)
        await asyncio.sleep(0)

    @property
    def body(self) -> bytes:
        return b"".join(event["body"] for event in self.sent)

    @property
    def is_whole(self) -> bool:
        """Whether it looks like a success."""
        return self.sent[-1:] == [LAST] and all(event["more_body"] for event in self.sent[:-1])


class Bytes:
    """A source of some bytes, that may end with an error."""

    def __init__(self, body: bytes, error: Exception | None = None) -> None:
        self._body, self._error = body, error
        self.sizes: list[int] = []

    async def read(self, offset: int, size: int) -> bytes:
        self.sizes.append(size)
        data = self._body[offset : offset + size]
        if not data and self._error is not None:
            raise self._error
        return data


def send(connection: Connection, body: Iterable[Piece], source: Any, *, outflow: Outflow | None = None) -> Any:
    """Send *body* over *connection*."""

    async def run() -> None:
        with Reader(connection.receive) as reader:
            await (outflow or Outflow()).send(connection.send, reader, body, source)

    return run()


@given(st.lists(st.tuples(st.integers(0, len(BODY)), st.integers(1, 5000)), max_size=5), st.booleans())
def test_all_pieces_go_out_in_order(spans: list[tuple[int, int]], framed: bool) -> None:
    """Spans of the content and bytes of our own between them, then the end."""
    body: list[Piece] = []
    expected = b""
    for start, size in spans:
        if start < (stop := min(start + size, len(BODY))):
            body += [*([b"--frame"] if framed else []), Span(start, stop)]
            expected += (b"--frame" if framed else b"") + BODY[start:stop]

    async def run() -> Connection:
        connection = Connection()
        await send(connection, body, Bytes(BODY))
        return connection

    connection = asyncio.run(run())
    assert (connection.body, connection.is_whole) == (expected, True)


def test_everything_goes_to_the_end() -> None:
    """Wherever that is; of nothing, there is only the end."""

    async def run(body: bytes) -> Connection:
        connection = Connection()
        await send(connection, (Everything(),), Bytes(body))
        return connection

    for body in (BODY, b"x", b""):
        connection = asyncio.run(run(body))
        assert (connection.body, connection.is_whole) == (body, True)


@pytest.mark.parametrize("body", [(Span(0, len(BODY) + 1),), (Everything(),)])
@pytest.mark.parametrize("error", [FollowBroken(), StorageFailed("a content", reason="I/O error")])
def test_what_breaks_is_no_success(body: tuple[Piece, ...], error: Exception) -> None:
    """What came before it has gone out; the last event has not."""

    async def run() -> Connection:
        connection = Connection()
        await send(connection, body, Bytes(BODY, error))
        return connection

    connection = asyncio.run(run())
    assert (connection.body, connection.is_whole) == (BODY, False)


def test_a_content_that_ends_too_early_is_no_success() -> None:
    """Of a span, every byte was promised."""

    async def run() -> Connection:
        connection = Connection()
        await send(connection, (Span(0, len(BODY) + 1),), Bytes(BODY))
        return connection

    assert not asyncio.run(run()).is_whole


def test_nothing_is_read_for_who_has_gone() -> None:
    """Sending itself never fails: the reader is watched."""
    source = Bytes(BODY * 1000)

    async def run() -> Connection:
        connection = Connection(takes=2)
        await send(connection, (Span(0, len(BODY) * 1000),), source)
        return connection

    connection = asyncio.run(run())
    assert len(connection.sent) == 2
    assert not connection.is_whole
    assert len(source.sizes) < 6


def test_who_takes_nothing_is_broken_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever its connection says."""
    monkeypatch.setattr(pieces, "STALL_S", 0.01)

    async def run() -> Connection:
        connection = Connection(takes=1, stalls=True)
        await send(connection, (Span(0, len(BODY)), Span(0, len(BODY))), Bytes(BODY))
        return connection

    assert not asyncio.run(run()).is_whole


def test_who_does_not_even_take_the_end_is_broken_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would keep its place for ever."""
    monkeypatch.setattr(pieces, "STALL_S", 0.01)

    async def run() -> Connection:
        connection = Connection(takes=1, stalls=True)
        await send(connection, (Span(0, 10),), Bytes(BODY))
        return connection

    connection = asyncio.run(run())
    assert (connection.body, connection.is_whole) == (BODY[:10], False)


def test_who_is_cancelled_is_broken_off() -> None:
    """As when a server is stopped."""

    async def run() -> Connection:
        connection = Connection(takes=1, stalls=True)
        sending = asyncio.create_task(send(connection, (Span(0, len(BODY)), Span(0, len(BODY))), Bytes(BODY)))
        while not connection.sent:
            await asyncio.sleep(0)
        sending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sending
        return connection

    assert not asyncio.run(run()).is_whole


def test_many_readers_get_smaller_pieces() -> None:
    """All of them share one budget; none gets less than is worth a send."""

    async def run(readers: int) -> int:
        outflow, source = Outflow(), Bytes(BODY * 10)
        others = [Connection(takes=0, stalls=True) for _ in range(readers - 1)]
        tasks = [asyncio.create_task(send(one, (Everything(),), Bytes(BODY), outflow=outflow)) for one in others]
        await asyncio.sleep(0)
        await send(Connection(), (Span(0, len(BODY) * 10),), source, outflow=outflow)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await send(Connection(), (Span(0, len(BODY) * 10),), after := Bytes(BODY * 10), outflow=outflow)
        assert max(after.sizes) == 512 << 10
        return max(source.sizes)

    assert [asyncio.run(run(readers)) >> 10 for readers in (1, 100, 1000)] == [512, 93, 16]


def sizes(*, takes_s: float, total: int) -> list[int]:
    """How many KiB each event has that goes out to a reader that takes *takes_s* for each."""
    now, connection = [0.0], Connection()

    async def slowly(event: Any) -> None:
        now[0] += takes_s
        await connection.send(event)

    async def run() -> None:
        with Reader(connection.receive) as reader:
            outflow = Outflow(clock=lambda: now[0])
            await outflow.send(slowly, reader, (Span(0, total << 10),), Bytes(bytes(total << 10)))

    asyncio.run(run())
    return [len(event["body"]) >> 10 for event in connection.sent]


def test_a_fast_reader_gets_large_pieces() -> None:
    """One that takes each at once has 512 KiB at a time; the last event is empty."""
    assert sizes(takes_s=0.0, total=1200) == [512, 512, 176, 0]


def test_a_slow_reader_gets_small_pieces() -> None:
    """After a piece that took it over a second it has 16 KiB at a time: a limit on a piece is then one on silence."""
    assert sizes(takes_s=2.0, total=560) == [512, 16, 16, 16, 0]


def test_a_stored_content_is_read_from_memory_or_from_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same bytes; a read that fails is an error of the storage."""
    place = tmp_path / "f"
    place.write_bytes(BODY)

    async def run(source: StoredSource) -> tuple[bytes, bytes, bytes]:
        return await source.read(0, 1 << 20), await source.read(len(BODY) - 3, 100), await source.read(len(BODY), 9)

    with ThreadPoolExecutor(1) as pool, place.open("rb") as file:
        expected = (BODY, BODY[-3:], b"")
        assert asyncio.run(run(StoredSource(file.fileno(), pool))) == expected
        monkeypatch.setattr(pieces, "read_cached", lambda *_: None)
        assert asyncio.run(run(StoredSource(file.fileno(), pool))) == expected
        with pytest.raises(StorageFailed):
            asyncio.run(run(StoredSource(-1, pool)))


@pytest.mark.skipif(not hasattr(os, "posix_fadvise"), reason="needs Linux: drops a part of a file from memory")
@pytest.mark.parametrize("kept", [0, 32768, len(BODY)])
def test_a_content_of_which_a_part_is_in_memory_is_read_whole(tmp_path: Path, kept: int) -> None:
    """A short read is no end."""
    place = tmp_path / "f"
    place.write_bytes(BODY)
    with ThreadPoolExecutor(1) as pool, place.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), kept, 0, os.POSIX_FADV_DONTNEED)
        source = StoredSource(file.fileno(), pool)
        assert asyncio.run(read_all(source, len(BODY))) == BODY
        assert asyncio.run(read_all(source, len(BODY) + 1)) == BODY
        assert asyncio.run(read_all(source, 10)) == BODY[:10]


def test_a_reader_is_asked_for_only_when_somebody_wants_to_know() -> None:
    """And from then on it is known when it has gone."""

    async def run() -> None:
        connection = Connection(takes=0)
        with Reader(connection.receive):
            await asyncio.sleep(0)
        assert connection.asked == 0
        with Reader(connection.receive) as reader:
            for _ in range(5):
                reader.check()
                await asyncio.sleep(0)
            await connection.send(LAST)
            await asyncio.sleep(0)
            with pytest.raises(Disconnected):
                reader.check()

    asyncio.run(run())
