"""How a body gets into its session: what stays of it when its client, its disk or its session goes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from itertools import pairwise
from types import SimpleNamespace
from typing import Any, TypeVar, cast

import pytest

from forebay import Forebay
from forebay.errors import ChecksumMismatch, UploadLocked, UploadStalled, UploadTaken, UploadTooLarge
from forebay.messages.asgi import Disconnected, Message
from forebay.server import uploading
from forebay.server.basin import Basin
from forebay.server.uploading import Intake

T = TypeVar("T")
PIECE = 4 << 20


def body(*pieces: bytes) -> Message:
    """One event of a body that goes on."""
    return {"type": "http.request", "body": b"".join(pieces), "more_body": True}


LAST: Message = {"type": "http.request", "body": b"", "more_body": False}
GONE: Message = {"type": "http.disconnect"}


class Client:
    """A client of which *events* come, and then nothing for ever."""

    def __init__(self, *events: Message) -> None:
        self._left = list(events)
        self.waits = asyncio.Event()

    async def __call__(self) -> Message:
        if self._left:
            return self._left.pop(0)
        self.waits.set()
        await asyncio.get_running_loop().create_future()
        raise AssertionError


@contextmanager
def intake_of(bay: Forebay, **settings: Any) -> Iterator[Intake]:
    """An intake on *bay*, with other *settings*."""
    known = bay.settings.model_copy(update=settings)
    intake = Intake(cast(Basin, SimpleNamespace(bay=bay, settings=known)))
    try:
        yield intake
    finally:
        intake.close()


def stored(bay: Forebay, uid: str) -> bytes:
    """The bytes of a complete upload."""
    with bay.uploads.get_upload(uid).open() as file:
        return file.read()


def run(call: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """What *call* gives in an event loop."""
    return asyncio.run(call())


def test_a_whole_body_is_complete(bay: Forebay) -> None:
    """Pieces of all sizes, in their order; the state that is returned is that of its end."""
    data = bytes(range(256)) * 20_000
    uid = bay.uploads.create(owner=None, size=len(data)).uid
    cuts = [0, 1, 1, 70_000, 3_000_000, 3_000_001, len(data)]
    events = [body(data[start:stop]) for start, stop in pairwise(cuts)]

    async def send() -> None:
        with intake_of(bay) as intake:
            state = await intake.append(Client(*events, LAST), uid, owner=None, offset=0)
            assert (state.offset, state.is_complete) == (len(data), True)

    run(send)
    assert stored(bay, uid) == data


def test_a_body_that_breaks_off_stays(bay: Forebay) -> None:
    """All that came, also what was not written yet; the next one goes on there, and its end may be that of the upload."""
    uid = bay.uploads.create(owner=None).uid

    async def send() -> None:
        with intake_of(bay) as intake:
            with pytest.raises(Disconnected):
                await intake.append(Client(body(b"a" * 2 * PIECE), body(b"b"), GONE), uid, owner=None, offset=0)
            at = 2 * PIECE + 1
            state = await intake.append(Client(body(b"c"), LAST), uid, owner=None, offset=at, is_last=True)
            assert (state.offset, state.size) == (at + 1, at + 1)

    run(send)
    assert stored(bay, uid) == b"a" * 2 * PIECE + b"bc"


def test_under_a_checksum_nothing_stays_before_its_end(bay: Forebay) -> None:
    """Neither when it breaks off, nor when it is another."""
    uid = bay.uploads.create(owner=None, size=3).uid
    checksum = ("sha1", "a9993e364706816aba3e25717850c26c9cd0d89d")  # of abc

    async def send() -> None:
        with intake_of(bay) as intake:
            with pytest.raises(Disconnected):
                await intake.append(Client(body(b"ab"), GONE), uid, owner=None, offset=0, checksum=checksum)
            with pytest.raises(ChecksumMismatch):
                await intake.append(Client(body(b"abd"), LAST), uid, owner=None, offset=0, checksum=checksum)
            assert bay.uploads.state(uid, owner=None).offset == 0
            state = await intake.append(Client(body(b"abc"), LAST), uid, owner=None, offset=0, checksum=checksum)
            assert state.is_complete

    run(send)


def test_nothing_comes_behind_a_piece_that_was_not_written(bay: Forebay) -> None:
    """One is too large for what is left, the next one would fit: the upload ends before the first."""
    uid = bay.uploads.create(owner=None, size=2 * PIECE).uid
    pieces = [body(b"a" * PIECE), body(b"b" * (PIECE + 1)), body(b"c" * PIECE)]

    async def send() -> None:
        with intake_of(bay) as intake, pytest.raises(UploadTooLarge):
            await intake.append(Client(*pieces, LAST), uid, owner=None, offset=0)

    run(send)
    state = bay.uploads.state(uid, owner=None, settle=True)
    assert (state.offset, state.is_complete) == (PIECE, False)


def test_what_could_not_be_written_ends_a_body_that_stalls(bay: Forebay) -> None:
    """Too much was sent, and then nothing: who sent it is told at once."""
    uid = bay.uploads.create(owner=None, size=3).uid

    async def send() -> None:
        with intake_of(bay) as intake, pytest.raises(UploadTooLarge):
            await intake.append(Client(body(b"abcd")), uid, owner=None, offset=0)

    run(send)
    assert bay.uploads.state(uid, owner=None).offset == 0


def test_a_newer_message_cuts_an_older_one(bay: Forebay) -> None:
    """At once, in the middle of its waiting; the newer one goes on where it was told."""
    uid = bay.uploads.create(owner=None, size=4).uid

    async def send() -> None:
        with intake_of(bay) as intake:
            stalled = Client(body(b"ab"))
            older = asyncio.create_task(intake.append(stalled, uid, owner=None, offset=0))
            await stalled.waits.wait()
            state = await intake.run(bay.uploads.state, uid, owner=None, settle=True)
            with pytest.raises(UploadTaken):
                await older
            rest = Client(body(b"abcd"[state.offset :]), LAST)
            assert (await intake.append(rest, uid, owner=None, offset=state.offset)).is_complete

    run(send)
    assert stored(bay, uid) == b"abcd"


def test_a_body_that_stalls_is_given_up(bay: Forebay) -> None:
    """When too little came in the stall window; it stays."""
    uid = bay.uploads.create(owner=None, size=4).uid

    async def send() -> None:
        with intake_of(bay, stall_window_s=0.2) as intake, pytest.raises(UploadStalled):
            await intake.append(Client(body(b"ab")), uid, owner=None, offset=0)

    run(send)
    assert bay.uploads.state(uid, owner=None).offset == 2


def test_many_bodies_share_their_memory(bay: Forebay) -> None:
    """One or two have pieces of 4 MiB; all have 16 MiB together, but none less than 16 KiB."""
    with intake_of(bay) as intake:
        sizes = []
        for bodies in (0, 1, 2, 4, 500, 100_000):
            intake._bodies = bodies
            sizes.append(intake.piece_bytes())
    assert sizes == [PIECE, PIECE, PIECE, PIECE // 2, (8 << 20) // 500, 16 << 10]


def test_who_waits_for_a_long_completion_holds_no_thread(bay: Forebay) -> None:
    """More ask for what is being made whole than there are threads: others are served, and they are when it is over."""
    uid = bay.uploads.create(owner=None, size=2).uid

    async def send() -> list[int]:
        with intake_of(bay) as intake:
            with bay.uploads._completion._having(uid):
                asking = [asyncio.create_task(intake.run(intake.uploads.state, uid, owner=None)) for _ in range(50)]
                other = await intake.run(intake.uploads.create, owner=None, size=1)
                state = await intake.append(Client(body(b"x"), LAST), other.uid, owner=None, offset=0)
                assert state.is_complete
                assert not any(task.done() for task in asking)
            # All of them do what whoever held it did not; that keeps nobody from going on with it.
            appended = await intake.append(Client(body(b"a"), LAST), uid, owner=None, offset=0)
            return [appended.offset, *{state.size for state in await asyncio.gather(*asking)}]

    assert run(send) == [1, 2]


def test_a_completion_that_takes_too_long_is_told(bay: Forebay, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before whoever is between a client and us gives it up; neither asking nor appending waits for ever."""
    monkeypatch.setattr(uploading, "_LOCKED_S", 0.0)
    uid = bay.uploads.create(owner=None, size=2).uid

    async def send() -> None:
        with intake_of(bay) as intake, bay.uploads._completion._having(uid):
            with pytest.raises(UploadLocked, match="made whole"):
                await intake.run(intake.uploads.state, uid, owner=None)
            with pytest.raises(UploadLocked):
                await intake.append(Client(body(b"a"), LAST), uid, owner=None, offset=0)

    run(send)
