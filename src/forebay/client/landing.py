"""Files that are read while they land from a server: one transfer into the cache, any number of readers."""

from __future__ import annotations

import io
import logging
import os
import threading
from collections.abc import Callable
from typing import Any

from forebay.client.cache import Part
from forebay.errors import FollowBroken, ForebayError, StateError, StorageFailed

log = logging.getLogger("forebay")

_BUFFER_BYTES = 256 * 1024
_ENDING_S = 5.0


class Landing:
    """One content on its way into the cache, and its readers. A `Watcher`; usable from any thread."""

    def __init__(self, name: str, *, stop: Callable[[], None], on_end: Callable[[Landing], None]) -> None:
        """*stop* ends the transfer; *on_end* is called at its end."""
        self.name = name
        self._stop, self._on_end = stop, on_end
        self._changed = threading.Condition()
        self._part: Part | None = None
        # Of the part, to make the readers' from: its name is gone once it is finished or dropped.
        self._descriptor: int | None = None
        self._total: int | None = None
        self._etag: str | None = None
        self._seen = self._restarts = 0
        self._whole = self._stopped = False
        self._ended = threading.Event()
        self._error: ForebayError | None = None
        self._readers = 0

    # --- the writer's side -----------------------------------------------------------------------------

    def start(self, bring: Callable[[], Any]) -> None:
        """Have *bring* let the content land, seen by this `Watcher`, in a thread of its own."""
        # A daemon: what has landed is kept, so a program may end while it runs.
        threading.Thread(target=self._run, args=(bring,), name="forebay-landing", daemon=True).start()

    def _run(self, bring: Callable[[], Any]) -> None:
        error: ForebayError | None = None
        try:
            bring()
        except ForebayError as failed:
            error = failed
        except Exception as unexpected:
            if not self._stopped:
                log.error("a transfer from the server failed unexpectedly", exc_info=unexpected)
            error = StateError("what was being read has been closed")
        with self._changed:
            self._whole, self._error = error is None, error
            self._read_from(None)
            self._changed.notify_all()
        self._on_end(self)
        self._ended.set()

    def head(self, part: Part, total: int | None) -> None:
        """See `Watcher.head`."""
        with self._changed:
            # Another part: the one before was damaged, which its digest told only at its end.
            another = part is not self._part
            if self._seen and (another or part.etag is None or part.etag != self._etag):
                self._restarts += 1  # what was read so far is of another representation
                self._seen = 0
            if another:
                self._read_from(part.reader())
            if part.landed:
                self._seen = 1  # what an earlier attempt left is read as well
            self._part, self._total, self._etag = part, total, part.etag
            self._changed.notify_all()

    def _read_from(self, descriptor: int | None) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
        self._descriptor = descriptor

    def landed(self) -> None:
        """See `Watcher.landed`."""
        with self._changed:
            self._seen = 1
            self._changed.notify_all()

    def stop(self) -> None:
        """Let what has landed be; readers find an error."""
        with self._changed:
            self._stopped = True
        self._stop()

    def wait_for_end(self) -> None:
        """Return when the transfer has ended; after it was told to, that is soon."""
        self._ended.wait(_ENDING_S)

    # --- the readers' side -----------------------------------------------------------------------------

    def join(self) -> bool:
        """One more reader, who leaves with `leave`; False when it is too late for that."""
        with self._changed:
            if self._stopped or self._ended.is_set():
                return False
            self._readers += 1
            return True

    def leave(self) -> None:
        """A reader less. The last one stops the transfer, if it is not over."""
        with self._changed:
            self._readers -= 1
            if self._readers or self._whole or self._error is not None:
                return
        self.stop()

    def open(self) -> LandingFile | None:
        """A reader of what lands, who has joined, once the head is here. None: all of it is in the cache already.
        Raises why there is nothing."""
        with self._changed:
            self._changed.wait_for(lambda: self._part is not None or self._whole or self._error is not None)
            if self._error is not None:
                raise self._error
            if self._whole or self._descriptor is None:
                return None
            try:
                # The copies share one offset, which nobody uses: all say where they read.
                descriptor = os.dup(self._descriptor)
            except OSError as error:
                raise StorageFailed("a file that lands", reason=error.strerror or str(error)) from error
            return LandingFile(self, descriptor, self._restarts)

    def wait_for(self, offset: int, restarts: int) -> int:
        """How many bytes from *offset* on may be read, at least one; 0 at the end. Waits for them.

        As long as it may still fail, the last byte is withheld, or where no total is known the end: nobody takes
        for a success what is none.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._over(restarts) or self._readable(offset) > 0)
            if self._restarts != restarts:
                raise FollowBroken
            if self._error is not None:
                raise self._error
            return self._readable(offset)

    def check(self, restarts: int) -> None:
        """Raise `FollowBroken` if what was read may be of two representations."""
        with self._changed:
            if self._restarts != restarts:
                raise FollowBroken

    def _over(self, restarts: int) -> bool:
        return self._whole or self._error is not None or self._restarts != restarts

    def _readable(self, offset: int) -> int:
        assert self._part is not None
        landed = self._part.landed
        if not self._whole and landed == self._total:
            landed -= 1
        return max(landed - offset, 0)

    def size(self, restarts: int) -> int:
        """The length of the whole. Waits for its end where the server did not say it."""
        with self._changed:
            self._changed.wait_for(lambda: self._over(restarts) or self._total is not None)
            if self._restarts != restarts:
                raise FollowBroken
            if self._error is not None:
                raise self._error
            assert self._part is not None
            return self._part.landed if self._total is None else self._total


class LandingFile(io.RawIOBase):
    """A content, read as it lands; reads wait for their bytes, and seeks to the end for its length."""

    def __init__(self, landing: Landing, descriptor: int, restarts: int) -> None:
        super().__init__()
        self._landing, self._descriptor, self._restarts = landing, descriptor, restarts
        self._offset = 0

    def readable(self) -> bool:
        """Yes."""
        return True

    def seekable(self) -> bool:
        """Yes."""
        return True

    def readinto(self, buffer: Any) -> int:
        """See `io.RawIOBase`. Raises why the rest will not come."""
        view, got = memoryview(buffer).cast("B"), 0
        while not got:
            size = min(self._landing.wait_for(self._offset, self._restarts), len(view))
            if size == 0:
                break
            # None while the same bytes land once more, where the server could not go on behind them.
            got = os.preadv(self._descriptor, [view[:size]], self._offset)
            self._landing.check(self._restarts)
        self._offset += got
        return got

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """See `io.IOBase`."""
        match whence:
            case io.SEEK_SET:
                target = offset
            case io.SEEK_CUR:
                target = self._offset + offset
            case io.SEEK_END:
                target = self._landing.size(self._restarts) + offset
            case _:
                raise ValueError(f"whence: expected 0, 1 or 2, got {whence}")
        if target < 0:
            raise ValueError(f"expected a position in the file, got {target}")
        self._offset = target
        return target

    def tell(self) -> int:
        """See `io.IOBase`."""
        return self._offset

    def close(self) -> None:
        """Read no more; the transfer stops with its last reader."""
        if not self.closed:
            super().close()
            os.close(self._descriptor)
            self._landing.leave()


def buffered(file: LandingFile) -> io.BufferedReader:
    """*file* as `open` would give it."""
    return io.BufferedReader(file, _BUFFER_BYTES)
