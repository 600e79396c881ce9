"""What an API process holds: an open `Forebay` that never fetches, and the way to have the fetch worker do it.

The catalog is synchronous, so everything that asks it runs in a small pool of threads. Whoever waits for a fetch
watches its Request's key (`forebay.content.wakeups`) and looks at the catalog when it rings.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from types import TracebackType
from typing import ParamSpec, Self, TypeVar

from forebay.bay import Forebay
from forebay.catalog.catalog import Registered
from forebay.catalog.frontier import Standing
from forebay.clock import unix_now
from forebay.content.wakeups import LOOK_AGAIN_S, Wakeups
from forebay.errand import Errand, Next
from forebay.errors import ForebayError
from forebay.fetch.tickets import Settled
from forebay.fetch.transfer import Job
from forebay.reports import Fetched
from forebay.server.worker import WORKER_KEY
from forebay.settings import ServerSettings
from forebay.wishes import Wish

log = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")

# A question costs 0.1 ms, most of it with the interpreter lock held: more threads would not answer sooner.
_THREADS = 8
# What reads all bytes of something takes as long as the disk does: it must not hold up the questions.
_READING_THREADS = 2
_TOUCHES_EVERY_S = 60.0
# Looks at one Request for all who wait for it: a fetch rings at each block that lands.
_LOOK_EVERY_S = 0.005


class _Rings:
    """The rings of one key, for all coroutines of this process that wait for one: a thousand readers of what lands
    are woken by one call."""

    def __init__(self, wakeups: Wakeups, key: str) -> None:
        self.waiting: set[asyncio.Event] = set()
        self._loop = asyncio.get_running_loop()
        self._is_told = False
        self._watch = wakeups.watch(key, self._ring)

    def _ring(self) -> None:
        """From the hub's thread."""
        if not self._is_told:
            self._is_told = True
            with contextlib.suppress(RuntimeError):  # the loop is gone: nobody waits any more
                self._loop.call_soon_threadsafe(self._wake)

    def _wake(self) -> None:
        self._is_told = False  # before they are woken: a ring from now on counts anew
        for rung in self.waiting:
            rung.set()

    def close(self) -> None:
        self._watch.close()


class Changes:
    """The rings of one key, for one coroutine; a context manager. Made by `Basin.watching`."""

    def __init__(self, rings: _Rings, close: Callable[[], None]) -> None:
        self._rings, self._close = rings, close
        self._rung = asyncio.Event()
        rings.waiting.add(self._rung)

    async def wait(self, timeout_s: float = LOOK_AGAIN_S) -> bool:
        """Return at the next ring, or at one that came since the last `wait`; at the latest after *timeout_s*.
        Whether it was rung."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._rung.wait()
        rung = self._rung.is_set()
        self._rung.clear()
        return rung

    def wake(self) -> None:
        """Ring here alone; in the event loop."""
        self._rung.set()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._rings.waiting.discard(self._rung)
        if not self._rings.waiting:
            self._close()


class Basin:
    """The folder, for the coroutines of one API process. Make it, `start` it in the loop, `close` it. *bay*: the
    open one that it is for."""

    def __init__(self, settings: ServerSettings, *, bay: Forebay | None = None) -> None:
        self.settings = settings
        self.bay = Forebay(settings) if bay is None else bay
        self.wakeups = self.bay.wakeups
        self.now = unix_now
        self._pool = ThreadPoolExecutor(_THREADS, "forebay-catalog")
        self._reading_pool = ThreadPoolExecutor(_READING_THREADS, "forebay-long")
        self._rings: dict[str, _Rings] = {}
        self._looks: dict[str, tuple[asyncio.Task[Standing], asyncio.Event]] = {}
        self._keeper: asyncio.Task[None] | None = None
        self._gathered: tuple[Callable[[], None], ...] = ()

    def start(self, *gathered: Callable[[], None]) -> None:
        """Begin what happens now and then, in the event loop: *gathered* write times of use."""
        self._gathered = (self.bay.write_touches, *gathered)
        self._keeper = asyncio.create_task(self._keep())

    async def close(self) -> None:
        """Write what has gathered, and close everything."""
        if self._keeper is not None:
            self._keeper.cancel()
            await self._write_gathered()
        self._reading_pool.shutdown(wait=False, cancel_futures=True)  # what reads for long finds a closed catalog
        await self.run(self.bay.close)
        self._pool.shutdown()

    def abandon(self) -> None:
        """The same from any thread, also when the event loop is gone; but the Forebay stays open."""
        if self._keeper is not None:
            with contextlib.suppress(RuntimeError):  # the loop is closed
                self._keeper.get_loop().call_soon_threadsafe(self._keeper.cancel)
        for write in self._gathered:
            try:
                write()
            except ForebayError as error:
                log.warning("times of use were not written: %s", error)
        self._pool.shutdown(wait=False)
        self._reading_pool.shutdown(wait=False, cancel_futures=True)

    async def run(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """What *call* returns, called in a thread."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, partial(call, *args, **kwargs))

    async def run_long(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """The same for what reads all bytes of something."""
        return await asyncio.get_running_loop().run_in_executor(self._reading_pool, partial(call, *args, **kwargs))

    def watching(self, key: str) -> Changes:
        """What happens to a Request, by its id, from now on."""
        rings = self._rings.get(key)
        if rings is None:
            rings = self._rings[key] = _Rings(self.wakeups, key)
        return Changes(rings, partial(self._watch_no_more, key))

    def _watch_no_more(self, key: str) -> None:
        self._rings.pop(key).close()

    async def _keep(self) -> None:
        while True:
            await asyncio.sleep(_TOUCHES_EVERY_S)
            await self._write_gathered()

    async def _write_gathered(self) -> None:
        for write in self._gathered:
            try:
                await self.run(write)
            except ForebayError as error:
                log.warning("times of use were not written: %s", error)

    # --- fetching --------------------------------------------------------------------------------------

    async def fetch(
        self, wish: Wish, *, began_at: float | None = None, on_asked: Callable[[], None] | None = None
    ) -> Fetched:
        """What comes of *wish*, as `Forebay.fetch_many` gives it; the fetch worker does what is to be fetched.
        *on_asked* is called when it has been asked. A coroutine that is cancelled leaves the fetch to itself."""
        errand = self.bay.errand(wish, began_at=began_at)
        if wish.reads_content:
            (registered,) = await self.run(self.bay.register, [wish])
            following = await self.run_long(self._begun, errand, registered)
        else:
            following = await self.run(self._begin, errand)
        while isinstance(following, Job):
            settled = await self._transferred(following, on_asked)
            run = self.run_long if wish.reads_content else self.run
            following = await run(self._go_on, errand, settled)
        return following

    def _begin(self, errand: Errand) -> Next:
        (registered,) = self.bay.register([errand.wish])
        return self._begun(errand, registered)

    def _begun(self, errand: Errand, registered: Registered | None) -> Next:
        return self._noted(errand.begin(registered))

    def _go_on(self, errand: Errand, settled: Settled | ForebayError) -> Next:
        return self._noted(errand.settled(settled))

    def _noted(self, following: Next) -> Next:
        return self.bay.note(following) if isinstance(following, Fetched) else following

    def register(self, wish: Wish) -> Registered:
        """The Request of *wish*, registered when it is new; blocks."""
        (registered,) = self.bay.register([wish])
        assert registered is not None  # neither offline nor by name
        return registered

    def order(self, wish: Wish) -> tuple[Registered, float]:
        """Register the Request of *wish*, and have it fetched if that is due, without waiting for it: how it was
        found or created, and when it was asked for. Blocks."""
        registered = self.register(wish)
        request_id, asked_at = registered.request.id, self.now()
        self.bay.catalog.touch(used={}, requested={request_id: asked_at})
        following = self.bay.errand(wish).begin(registered)
        if isinstance(following, Job):
            self.ask(request_id, seen=following.fence)
        return registered, asked_at

    def ask(self, request_id: str, *, seen: int | None = None, again: bool = False) -> Standing:
        """Have the fetch worker fetch a Request next; how it stands then. Blocks. See `Frontier.ask`."""
        standing = self.bay.frontier.ask(request_id, seen=seen, again=again)
        if standing.busy is not None and not self.bay.owner.is_alive(standing.busy.owner):
            self.bay.frontier.reap(standing.busy.owner)
            # Unless somebody else was faster: what was fetched meanwhile is the answer.
            standing = self.bay.frontier.ask(request_id, seen=standing.fence)
        if standing.asked:
            self.wakeups.ring(WORKER_KEY)
        return standing

    def poke_worker(self) -> None:
        """Have the fetch worker look for what is due."""
        self.wakeups.ring(WORKER_KEY)

    async def _transferred(self, job: Job, on_asked: Callable[[], None] | None) -> Settled:
        """Ask for *job*'s Request to be fetched, and wait until a fetch of it is over that ended after *job* was
        decided."""
        request_id = job.request_id
        with self.watching(request_id) as changes:
            before = standing = await self.run(self.ask, request_id, seen=job.fence)
            if on_asked is not None:
                on_asked()
            while standing.asked or standing.busy is not None or standing.fence == job.fence:
                await changes.wait()
                standing = await self.look(request_id)
                if not standing.asked and standing.busy is None and standing.fence == job.fence:
                    standing = await self.run(self.ask, request_id, seen=job.fence)  # removed meanwhile
            return await self.run(self._outcome, request_id, failed=standing.failures > before.failures)

    def _outcome(self, request_id: str, *, failed: bool) -> Settled:
        # By the count, not by the newest version's status: one that was unchanged has left no version.
        response = self.bay.catalog.newest(request_id, status="failed", now=self.now()) if failed else None
        return Settled("elsewhere", response)

    async def look(self, request_id: str) -> Standing:
        """How a Request stands, read later than this was called; one look for all who ask meanwhile."""
        task, begun = self._looks.get(request_id, (None, None))
        if task is None or begun is None or begun.is_set():
            begun = asyncio.Event()
            task = asyncio.create_task(self._look_anew(request_id, task, begun))
            self._looks[request_id] = task, begun
        return await asyncio.shield(task)

    async def _look_anew(
        self, request_id: str, earlier: asyncio.Task[Standing] | None, begun: asyncio.Event
    ) -> Standing:
        if earlier is not None:
            await asyncio.wait([earlier])
            await asyncio.sleep(_LOOK_EVERY_S)
        begun.set()
        try:
            return await self.run(self._standing, request_id)
        finally:
            if self._looks.get(request_id, (None, None))[1] is begun:
                del self._looks[request_id]

    def _standing(self, request_id: str) -> Standing:
        """How it stands; asked for anew when its ask was lost or who fetched it is gone."""
        standing = self.bay.frontier.standing(request_id)
        if standing.asked:
            self.wakeups.ring(WORKER_KEY)  # the first ring may have been lost
        elif standing.busy is not None and not self.bay.owner.is_alive(standing.busy.owner):
            return self.ask(request_id, seen=standing.fence)
        return standing
