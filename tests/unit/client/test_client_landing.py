"""What lands for readers in other threads: who stops it, when it is over, and what they read."""

import hashlib
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from forebay.client.cache import ContentCache, Part
from forebay.client.landing import Landing, buffered
from forebay.errors import FollowBroken
from origin import blob

PATIENCE_S = 30.0


class Transfer:
    """One content on its way, step by step as the test lets it go on, with all that a `Landing` is given."""

    def __init__(self, folder: Path, body: bytes) -> None:
        self.cache, self.body = ContentCache(folder, max_bytes=1 << 30), body
        self.stops, self.ended = threading.Semaphore(0), threading.Event()
        # At the part's end (finished or dropped), and at the landing's.
        self.part_is_over, self.may_return = threading.Event(), threading.Event()
        self.may_end = threading.Event()
        self.landing = Landing("a", stop=self.stops.release, on_end=self._at_end)

    def _at_end(self, landing: Landing) -> None:
        assert self.may_end.wait(PATIENCE_S)
        self.ended.set()

    def begin(self, over: Callable[[Part], object]) -> None:
        """Let it land in a thread; *over* is what is done with the part at last."""

        def bring() -> None:
            part = self.cache.begin("a")
            assert part is not None
            part.restart('"1"')
            self.landing.head(part, len(self.body))
            part.write(self.body)
            self.landing.landed()
            over(part)
            part.close()
            self.part_is_over.set()
            assert self.may_return.wait(PATIENCE_S)

        assert self.landing.join()
        self.landing.start(bring)

    def finish(self, part: Part) -> None:
        """It becomes content."""
        part.finish(hashlib.sha256(self.body).hexdigest())


@pytest.fixture
def transfer(tmp_path: Path) -> Transfer:
    return Transfer(tmp_path / "cache", blob(300_000))


def test_what_is_over_is_not_stopped(transfer: Transfer) -> None:
    """A reader who has read all of it and closes, before the landing has come to its end: there is nothing to stop
    any more, and its connection may be in use for something else."""
    goes_on = threading.Event()
    transfer.begin(lambda part: (goes_on.wait(PATIENCE_S), transfer.finish(part)))
    file = transfer.landing.open()
    assert file is not None
    goes_on.set()
    transfer.may_return.set()
    with buffered(file) as reader:
        assert reader.read() == transfer.body
    assert not transfer.stops.acquire(blocking=False)
    assert not transfer.ended.is_set()
    transfer.may_end.set()
    assert transfer.ended.wait(PATIENCE_S)


def test_the_last_reader_stops_what_is_not_over(transfer: Transfer) -> None:
    """Nobody wants it any more; one of two may go."""
    goes_on = threading.Event()
    transfer.begin(lambda part: goes_on.wait(PATIENCE_S))
    first = transfer.landing.open()
    assert transfer.landing.join()
    second = transfer.landing.open()
    assert first is not None
    assert second is not None
    first.close()
    assert not transfer.stops.acquire(blocking=False)
    second.close()
    assert transfer.stops.acquire(blocking=False)
    for event in (goes_on, transfer.may_return, transfer.may_end):
        event.set()
    assert transfer.ended.wait(PATIENCE_S)


@pytest.mark.parametrize("over", ["finished", "dropped"])
def test_a_part_is_opened_when_its_name_is_gone(transfer: Transfer, over: str) -> None:
    """Between the first byte and the end, whatever has become of the name meanwhile."""
    transfer.begin(transfer.finish if over == "finished" else Part.discard)
    assert transfer.part_is_over.wait(PATIENCE_S)
    file = transfer.landing.open()
    assert file is not None
    reader = buffered(file)
    assert reader.read(1000) == transfer.body[:1000]
    transfer.may_return.set()
    assert reader.read() == transfer.body[1000:]
    reader.close()
    transfer.may_end.set()
    assert transfer.ended.wait(PATIENCE_S)


def test_no_descriptor_is_left(transfer: Transfer) -> None:
    """Of what lands, once it has landed; who comes late finds it in the cache."""
    before = sorted(Path("/proc/self/fd").iterdir())
    transfer.begin(transfer.finish)
    for event in (transfer.may_return, transfer.may_end):
        event.set()
    assert transfer.ended.wait(PATIENCE_S)
    assert transfer.landing.open() is None
    assert sorted(Path("/proc/self/fd").iterdir()) == before


@pytest.mark.parametrize("other", ["another part", "another representation"])
def test_what_an_earlier_attempt_left_is_not_mixed(transfer: Transfer, other: str) -> None:
    """Who has read what was left gets an error when that was damaged, or when other bytes come behind it."""
    left = transfer.cache.begin("a")
    assert left is not None
    left.restart('"1"')
    left.write(b"other bytes")
    transfer.landing.head(left, len(transfer.body))
    assert transfer.landing.join()
    file = transfer.landing.open()
    assert file is not None
    assert file.read(5) == b"other"
    if other == "another part":
        left.discard()
        part = transfer.cache.begin("a")
        assert part is not None
        part.restart('"1"')
    else:
        part = left
        part.restart('"2"')
    transfer.landing.head(part, len(transfer.body))
    part.write(transfer.body)
    transfer.landing.landed()
    with pytest.raises(FollowBroken):
        file.read(5)
    file.close()
    for one in {left, part}:
        one.close()
