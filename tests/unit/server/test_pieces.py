"""`forebay.server.pieces`: how large the pieces are that go out."""

from __future__ import annotations

import asyncio
from collections.abc import MutableMapping
from typing import Any

from forebay.core.ranges import Span
from forebay.server.pieces import Outflow, Reader

KIB = 1024


class Bytes:
    """A source that has everything."""

    async def read(self, offset: int, size: int) -> bytes:
        return bytes(size)


async def _never() -> MutableMapping[str, Any]:
    await asyncio.Event().wait()
    raise AssertionError


def sizes(*, takes_s: float, total: int) -> list[int]:
    """What goes out to a reader that takes *takes_s* for each piece."""
    now, out = [0.0], list[int]()

    async def send(message: MutableMapping[str, Any]) -> None:
        now[0] += takes_s
        out.append(len(message["body"]))

    async def run() -> None:
        with Reader(_never) as reader:
            await Outflow(clock=lambda: now[0]).send(send, reader, (Span(0, total),), Bytes())

    asyncio.run(run())
    return out


def test_a_fast_reader_gets_large_pieces() -> None:
    """One that takes each at once has 512 KiB at a time; the last event is empty."""
    assert sizes(takes_s=0.0, total=1200 * KIB) == [512 * KIB, 512 * KIB, 176 * KIB, 0]


def test_a_slow_reader_gets_small_pieces() -> None:
    """After a piece that took it over a second it has 16 KiB at a time: a limit on a piece is then one on silence."""
    assert sizes(takes_s=2.0, total=560 * KIB) == [512 * KIB, 16 * KIB, 16 * KIB, 16 * KIB, 0]
