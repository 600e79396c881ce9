"""What the upload dialects share: how a body gets into a session, piece by piece through threads.

A body is received while the piece before is being written. It may take as long as it likes, as long as it goes
on: slower than the stall limit is as good as gone, and so is one whose session a newer message has taken over. What
came of it stays.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Any, ParamSpec, TypeVar

from forebay.errors import UploadLocked, UploadStalled, UploadTaken
from forebay.messages.asgi import Disconnected, Receive
from forebay.server.basin import Basin
from forebay.uploads.states import UploadState
from forebay.uploads.writing import Writer

P = ParamSpec("P")
T = TypeVar("T")

# What waits for a disk waits in the kernel: more than cores, fewer than would make it seek about.
_THREADS = 16
# Of all bodies together: each holds one piece that is written and one that comes.
_BUDGET_BYTES = 16 << 20
# Each piece is handed to a thread and waited for: with 1 MiB, 1 GiB took a tenth longer.
_LEAST_BYTES, _MOST_BYTES = 16 << 10, 4 << 20
# What comes slowly is not held back for longer: whoever comes back after a cut goes on behind it.
_HOLD_S = 0.05
# Whoever asks for an upload that another message makes whole looks again after these, without a thread, and is told
# to come later before a proxy would give it up (nginx: 60 s).
_LOOK_S, _LOOK_MOST_S, _LOCKED_S = 0.02, 1.0, 50.0


class Intake:
    """Takes the bodies of uploads in, in one event loop."""

    def __init__(self, basin: Basin) -> None:
        self.settings = basin.settings
        self.uploads = basin.bay.uploads.unwaiting()
        """The sessions, for `run`."""
        self._patient = basin.bay.uploads
        self._pool = ThreadPoolExecutor(_THREADS, "forebay-upload")
        self._bodies = 0
        self._is_closed = False

    def close(self) -> None:
        """Take nothing any more."""
        self._is_closed = True
        self._pool.shutdown()

    async def run(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """What *call* returns, called in a thread, again while its upload is locked; each call runs to its
        end even if whoever waits does not. Raises `UploadLocked` when that takes too long."""

        async def attempt() -> T:
            return await asyncio.shield(self.submit(call, *args, **kwargs))

        return await self._unlocked(attempt)

    async def _unlocked(self, attempt: Callable[[], Awaitable[T]]) -> T:
        loop = asyncio.get_running_loop()
        until, pause = loop.time() + _LOCKED_S, _LOOK_S
        while True:
            try:
                return await attempt()
            except UploadLocked:
                if loop.time() + pause > until:
                    raise
                await asyncio.sleep(pause)
                if self._is_closed:
                    raise
            pause = min(2 * pause, _LOOK_MOST_S)

    def submit(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> asyncio.Future[T]:
        """What *call* will return, called in a thread."""
        return asyncio.get_running_loop().run_in_executor(self._pool, partial(call, *args, **kwargs))

    async def forget(self, uid: str, *, owner: str | None) -> None:
        """Cancel an upload of which nobody was told, to the end of that, whoever waits."""
        await asyncio.shield(self.submit(self._patient.cancel, uid, owner=owner))

    async def append(
        self,
        receive: Receive,
        uid: str,
        *,
        owner: str | None,
        offset: int | None,
        size: int | None = None,
        checksum: tuple[str, str] | None = None,
        digests: Mapping[str, str] | None = None,
        is_last: bool = False,
    ) -> UploadState:
        """Append a whole body to an upload, and complete that when it is whole; durable on return.

        *offset*, *checksum*: see `Uploads.writer`. *size*: the length, where it is said only now. *digests*: what
        the whole must have. *is_last*: the upload ends where the body does. How the upload stands after that,
        whoever goes on with it meanwhile. Raises what `Uploads.writer`, `Writer.write` and `Writer.complete`
        raise, `UploadTaken`, `UploadStalled`, and `Disconnected` when the body breaks off: what came until then
        stays, unless it was under a checksum.
        """
        body = _Body(uid, receive, self)
        writer = await self._unlocked(
            lambda: self._opened(uid, owner=owner, offset=offset, checksum=checksum, on_cut=body.cut)
        )
        self._bodies += 1
        try:
            rest = await self._poured(body, writer, size, is_checked=checksum is not None)
            return await self.run(self._end, writer, rest, owner, digests, is_last=is_last)
        finally:
            self._bodies -= 1

    async def _opened(self, uid: str, **how: Any) -> Writer:
        opening = self.submit(self.uploads.writer, uid, **how)
        try:
            return await asyncio.shield(opening)
        except asyncio.CancelledError:
            opening.add_done_callback(self._drop)
            raise

    async def _poured(self, body: _Body, writer: Writer, size: int | None, *, is_checked: bool) -> bytes:
        """The end of *body*, all before it written; or the writer is closed."""
        try:
            if size is not None and size != writer.size:
                await self.run(writer.set_size, size)
            return await body.pour(writer)
        except (Disconnected, UploadStalled):
            await self.run(writer.drop if is_checked else writer.close)
            raise
        except BaseException:
            await self.run(writer.drop)
            raise

    def _drop(self, opening: asyncio.Future[Writer]) -> None:
        """Close what nobody waits for any more."""
        if not opening.cancelled() and opening.exception() is None:
            self.submit(opening.result().drop)

    def _end(
        self, writer: Writer, rest: bytes, owner: str | None, digests: Mapping[str, str] | None, *, is_last: bool
    ) -> UploadState:
        with writer:
            if rest:
                writer.write(rest)
            if is_last:
                writer.set_size(writer.offset)
            if writer.offset == writer.size:
                writer.complete(digests)
            else:
                writer.close()
        return replace(self._patient.state(writer.uid, owner=owner), offset=writer.offset)

    def piece_bytes(self) -> int:
        """How much of a body is gathered before it is written."""
        return min(max(_BUDGET_BYTES // (2 * max(self._bodies, 1)), _LEAST_BYTES), _MOST_BYTES)


class _Body:
    """One body on its way into one upload."""

    def __init__(self, uid: str, receive: Receive, intake: Intake) -> None:
        self._uid, self._receive, self._intake = uid, receive, intake
        self._loop = asyncio.get_running_loop()
        self._window_s = intake.settings.stall_window_s
        self._least_bytes = int(self._window_s * intake.settings.stall_bytes_per_s)
        self._clock = asyncio.timeout(None)
        self._gathered: list[bytes] = []
        self._gathered_bytes = 0
        self._writing: asyncio.Future[int] | None = None
        self._held: asyncio.TimerHandle | None = None
        self._is_taken = self._is_lost = False

    def cut(self) -> None:
        """A newer message has taken the session over; from any thread."""
        with contextlib.suppress(RuntimeError):  # the loop is gone, and this body with it
            self._loop.call_soon_threadsafe(self._cut)

    def _cut(self) -> None:
        self._is_taken = True
        self._go_on_until(self._loop.time())

    def _go_on_until(self, when: float | None) -> None:
        with contextlib.suppress(RuntimeError):  # not begun, ended, or ending already
            self._clock.reschedule(when)

    def _go_on(self) -> None:
        is_over = self._is_taken or self._is_lost
        self._go_on_until(self._loop.time() + (0.0 if is_over else self._window_s))

    async def pour(self, writer: Writer) -> bytes:
        """Write all of it but for its end, which is the caller's to write: a small body is written in the thread
        that completes it. After an error all that came has been written, unless the wait for that was cancelled. No
        thread writes any more either way."""
        try:
            async with self._clock:
                self._go_on()
                try:
                    await self._pour(writer)
                except BaseException:
                    if not self._is_taken and not self._is_lost:
                        await self._write(writer)
                    raise
                await self._written()
                return self._taken_out()
        except TimeoutError:
            if self._is_taken:
                raise UploadTaken(self._uid) from None
            if self._writing is not None and self._writing.done() and (error := self._writing.exception()):
                raise error from None
            raise UploadStalled(least_bytes=self._least_bytes, limit_s=self._window_s) from None
        finally:
            if self._held is not None:
                self._held.cancel()
            if self._writing is not None:
                await asyncio.wait((self._writing,))
                self._writing.exception()  # who cares has seen it

    async def _pour(self, writer: Writer) -> None:
        since = 0
        while True:
            event = await self._receive()
            if event["type"] == "http.disconnect":
                raise Disconnected
            data = event.get("body", b"")
            self._gathered.append(data)
            self._gathered_bytes += len(data)
            if self._held is None:
                self._hold(writer)
            if not event.get("more_body", False):
                return
            since += len(data)
            if since >= self._least_bytes:
                since = 0
                self._go_on()
            if self._gathered_bytes >= self._intake.piece_bytes():
                await self._begin(writer)

    async def _write(self, writer: Writer) -> None:
        """Write what has been gathered, to its end."""
        self._go_on_until(None)  # from here on it is the disk that takes its time
        await self._begin(writer)
        await self._written()

    async def _begin(self, writer: Writer) -> None:
        """Begin to write what has been gathered, when what was before is written."""
        await self._written()
        self._submit(writer)

    def _submit(self, writer: Writer) -> None:
        if self._gathered_bytes:
            self._writing = self._intake.submit(writer.write, self._taken_out())
            self._writing.add_done_callback(self._see)

    def _taken_out(self) -> bytes:
        """What has been gathered, which is gone from here."""
        data = self._gathered[0] if len(self._gathered) == 1 else b"".join(self._gathered)
        self._gathered, self._gathered_bytes = [], 0
        return data

    def _see(self, writing: asyncio.Future[int]) -> None:
        """A piece is written or not; then nothing may come behind it, and waiting for more is of no use."""
        if not writing.cancelled() and writing.exception() is not None:
            self._is_lost = True
            self._go_on_until(self._loop.time())

    def _hold(self, writer: Writer) -> None:
        self._held = self._loop.call_later(_HOLD_S, self._hold_no_longer, writer)

    def _hold_no_longer(self, writer: Writer) -> None:
        self._held = None
        writing = self._writing
        if self._is_taken or self._is_lost:
            return
        if writing is not None and not writing.done():
            self._hold(writer)
        elif writing is None or writing.exception() is None:
            self._submit(writer)

    async def _written(self) -> None:
        """Wait until nothing is being written."""
        while (writing := self._writing) is not None:
            if not writing.done():
                self._go_on_until(self._loop.time() if self._is_taken else None)
            # Cancelled or not, the thread goes on: nobody else may write before it has ended.
            await asyncio.shield(writing)
            if self._writing is writing:
                self._writing = None
            self._go_on()
