"""Waiting in an API process: one ring wakes all who wait for it, and nothing is left behind."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path

from forebay.catalog.outcomes import Broke, Lease, Stats
from forebay.content.wakeups import Wakeups
from forebay.models import RequestSpec
from forebay.server.basin import Basin, Changes
from forebay.settings import ServerSettings
from forebay.wishes import Wish

LONG_S = 60.0


def in_a_basin(folder: Path, test: Callable[[Basin, Wakeups], Awaitable[None]]) -> None:
    """Run *test* with the basin of an API process and the wake-ups of another process."""

    async def run() -> None:
        basin = Basin(ServerSettings(data=folder))
        elsewhere = Wakeups(folder / "wakeups", owner="elsewhere", is_alive=basin.bay.owner.is_alive)
        try:
            await asyncio.wait_for(test(basin, elsewhere), LONG_S / 2)
        finally:
            elsewhere.close()
            await basin.close()

    asyncio.run(run())


def links(basin: Basin) -> list[str]:
    """The keys that somebody watches."""
    return sorted(path.parent.name for path in (basin.bay.folder / "wakeups").glob("*/*"))


def test_one_ring_wakes_all_who_wait(tmp_path: Path) -> None:
    """Each of them once, and nobody who waits for something else."""

    async def test(basin: Basin, elsewhere: Wakeups) -> None:
        with basin.watching("other") as other:
            watching = [basin.watching("key") for _ in range(100)]
            assert links(basin) == ["key", "other"]
            elsewhere.ring("key")
            await asyncio.gather(*(changes.wait(LONG_S) for changes in watching))
            elsewhere.ring("other")
            await other.wait(LONG_S)
            for changes in watching:
                changes.__exit__(None, None, None)
        assert links(basin) == []

    in_a_basin(tmp_path, test)


def test_a_ring_before_the_wait_counts(tmp_path: Path) -> None:
    """Whoever looks in between misses nothing; several rings are one."""

    async def test(basin: Basin, elsewhere: Wakeups) -> None:
        with basin.watching("key") as first, basin.watching("key") as second:
            for _ in range(10):
                elsewhere.ring("key")
            await first.wait(LONG_S)
            await second.wait(LONG_S)
            first.wake()
            await first.wait(LONG_S)

    in_a_basin(tmp_path, test)


def test_who_goes_leaves_the_others_theirs(tmp_path: Path) -> None:
    """The watch ends with the last one, and begins anew with the next."""

    async def test(basin: Basin, elsewhere: Wakeups) -> None:
        with basin.watching("key") as stays:
            with basin.watching("key"):
                pass
            elsewhere.ring("key")
            await stays.wait(LONG_S)
        assert links(basin) == []
        with basin.watching("key") as later:
            elsewhere.ring("key")
            await later.wait(LONG_S)

    in_a_basin(tmp_path, test)


def test_nobody_waits_for_ever(tmp_path: Path) -> None:
    """A ring may be lost: then it is looked all the same."""

    async def test(basin: Basin, _: Wakeups) -> None:
        changes: Changes
        with basin.watching("key") as changes:
            await changes.wait(0.01)

    in_a_basin(tmp_path, test)


def test_a_dead_ones_fetch_is_asked_for_once(tmp_path: Path) -> None:
    """Somebody finds out that who fetched is dead; until then another one has found it out, too, and has had it
    fetched to its end. Nobody asks for that again."""

    async def test(basin: Basin, elsewhere: Wakeups) -> None:
        spec = RequestSpec(url="http://example.org/")
        request_id, frontier = basin.register(Wish(spec, asked=spec)).request.id, basin.bay.frontier
        (lost,) = frontier.begin([request_id], owner="dead", now=1.0)
        assert isinstance(lost, Lease)
        lock = basin.bay.folder / "owners" / "dead.lock"
        os.mkfifo(lock)  # whoever looks whether it is held waits there for us
        with frontier.database.write(durable=False):
            looking = asyncio.create_task(basin.look(request_id))
            os.close(await asyncio.to_thread(os.open, lock, os.O_WRONLY))
            # It has read by now that the dead one has it; what it writes, it writes after this.
            frontier.reap("dead")
            (lease,) = frontier.begin([request_id], owner="other", now=2.0)
            assert isinstance(lease, Lease)
            frontier.finish([Broke(lease, Stats(2.0), "origin_status", "404")], now=3.0)
        standing = await looking
        assert (standing.asked, standing.busy) == (False, None)

    in_a_basin(tmp_path, test)
