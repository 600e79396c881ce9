"""Several flows at once: in threads, or as tasks of an event loop; and how what a thread runs is hung up."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import socket
import threading
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol, TypeVar

from forebay.client.exchange import Flow

T = TypeVar("T")

_TICK_S = 0.1
# For those that are broken off to notice: between two pieces. One whose network hangs takes longer, alone.
_BREAK_OFF_S = 5.0


class HungUp(Exception):
    """Nobody wants any more what a driver runs."""


class Hook:
    """Hangs up what a driver runs, from another thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self._hung_up = False

    @contextlib.contextmanager
    def on(self, extensions: Mapping[str, Any]) -> Iterator[None]:
        """Within, it is the answer with these *extensions* that is hung up. Leave before it is closed: then its
        connection is the next one's."""
        stream = extensions.get("network_stream")
        with self._lock:
            self._socket = None if stream is None else stream.get_extra_info("socket")
            if self._hung_up:
                self._shut_down()
        try:
            yield
        finally:
            with self._lock:
                self._socket = None

    def hang_up(self) -> None:
        """Whoever waits for bytes gets the end of them."""
        with self._lock:
            self._hung_up = True
            self._shut_down()

    def _shut_down(self) -> None:
        if self._socket is not None:
            with contextlib.suppress(OSError):  # it is closed already
                self._socket.shutdown(socket.SHUT_RDWR)

    def check(self) -> None:
        """Raise `HungUp` if so."""
        if self._hung_up:
            raise HungUp


class Run(Protocol):
    """How a driver that blocks runs a flow."""

    def __call__(self, flow: Flow[Any], *, hook: Hook | None = None) -> Any: ...


def run_together(run: Run, flows: Sequence[Flow[Any]], tick: Callable[[], None], outer: Hook | None) -> list[Any]:
    """What *flows* return, each run in a thread of its own; *tick* is called in the caller's. When *outer* is hung
    up, they are."""
    hooks = [Hook() for _ in flows]
    done: queue.SimpleQueue[tuple[int, Any, BaseException | None]] = queue.SimpleQueue()

    def work(number: int, flow: Flow[Any]) -> None:
        try:
            done.put((number, run(flow, hook=hooks[number]), None))
        except BaseException as error:
            done.put((number, None, error))

    # Daemons: what hangs in a network shall not keep a program from ending.
    threads = [
        threading.Thread(target=work, args=(number, flow), name="forebay-together", daemon=True)
        for number, flow in enumerate(flows)
    ]
    for thread in threads:
        thread.start()
    results: dict[int, Any] = {}
    try:
        while len(results) < len(flows):
            if outer is not None:
                outer.check()
            try:
                number, result, error = done.get(timeout=_TICK_S)
            except queue.Empty:
                tick()
                continue
            if error is not None:
                raise error
            results[number] = result
    except BaseException as error:
        for hook in hooks:
            hook.hang_up()
        if isinstance(error, Exception):  # Ctrl-C is not kept waiting
            for thread in threads:
                thread.join(_BREAK_OFF_S)
        raise
    tick()
    return [results[number] for number in range(len(flows))]


async def arun_together(
    run: Callable[[Flow[Any]], Awaitable[Any]], flows: Sequence[Flow[Any]], tick: Callable[[], None]
) -> list[Any]:
    """What *flows* return, each run in a task of its own."""
    tasks = [asyncio.ensure_future(run(flow)) for flow in flows]
    try:
        waiting = set(tasks)
        while waiting:
            done, waiting = await asyncio.wait(waiting, timeout=_TICK_S, return_when=asyncio.FIRST_EXCEPTION)
            for task in done:
                task.result()
            tick()
        return [task.result() for task in tasks]
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def in_thread(work: Callable[[], T]) -> T:
    """What *work* returns, called in a thread. It is done on return, also when this is cancelled: it works on files
    that are closed then."""
    task = asyncio.ensure_future(asyncio.to_thread(work))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        raise
