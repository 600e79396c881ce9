"""Where bytes land: the hash-and-write thread, and one landing per download.

Blocks come from the transfer thread and are hashed and written in order, in a thread of their own: the two
most expensive steps release the interpreter lock and run beside the network (DESIGN.md section 6). Syncs run
in a small pool, so that one disk flush never holds up another download's bytes.
"""

from __future__ import annotations

import functools
import hashlib
import logging
import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from forebay.content.partial import PartialFile, Partials, Trust
from forebay.core import digests
from forebay.errors import StorageError, StorageFailed
from forebay.fetch.exchange import BLOCK_BYTES

log = logging.getLogger(__name__)

# Blocks on their way to the disk, over all downloads: more only adds memory.
_QUEUED_BLOCKS = 16
# A crash of the machine costs at most this much of a download, or this much time of it.
_SYNC_BYTES = 64 * BLOCK_BYTES
_SYNC_SECONDS = 2.0

Recycle = Callable[[bytearray], None]


class Workers:
    """Threads that run what they are given; a single one runs it in order."""

    def __init__(self, name: str, count: int) -> None:
        self._queue: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._room = threading.Semaphore(_QUEUED_BLOCKS)
        self._threads = [
            threading.Thread(target=self._run, name=f"{name}-{number}", daemon=True) for number in range(count)
        ]

    def start(self) -> None:
        """Start the threads."""
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """Run what is queued, then stop."""
        for _ in self._threads:
            self._queue.put(None)
        for thread in self._threads:
            thread.join()

    def put(self, call: Callable[[], None]) -> None:
        """Have *call* run."""
        self._queue.put(call)

    def put_block(self, call: Callable[[], None]) -> None:
        """The same for a block; waits while too many are queued: the disk is then what limits everyone."""
        self._room.acquire()

        def release() -> None:
            self._room.release()
            call()

        self._queue.put(release)

    def _run(self) -> None:
        while (call := self._queue.get()) is not None:
            try:
                call()
            except Exception:  # a bug of ours must not end a thread that others need
                log.exception("a call failed")


@dataclass(frozen=True, slots=True)
class Landed:
    """A whole body, synced, under *partial*'s path, with its digests by algorithm."""

    partial: PartialFile
    size_bytes: int
    digests: dict[str, str]


class Landing:
    """The file and the digests of one download. Its methods run in the writer thread, one at a time, but for
    `whole` and `prepare`, which run in the pool before or instead of them."""

    def __init__(
        self, partials: Partials, pool: Workers, *, key: str, fence: int, algorithms: Iterable[str]
    ) -> None:
        self._partials, self._pool = partials, pool
        self._key, self._fence = key, fence
        self._algorithms = frozenset(algorithms) | {"sha256"}
        self._hashers = self._new_hashers()
        self._partial: PartialFile | None = None
        self._meta = b"{}"
        # The first error of a write. Nothing may be written after it: the blocks that were queued behind the
        # one that failed would land in its place.
        self._broken: StorageError | None = None
        self._syncing: threading.Event | None = None
        self._sync_error: StorageError | None = None
        self._synced_length = 0
        self._synced_at = 0.0

    def _new_hashers(self) -> dict[str, hashlib._Hash]:
        return {name: digests.new(name) for name in self._algorithms}

    def _hash(self, data: memoryview) -> None:
        for hasher in self._hashers.values():
            hasher.update(data)

    def prepare(self, *, trust: Trust, sign: Callable[[bytes], bytes]) -> tuple[int, int, bytes] | None:
        """Take over what an earlier process left, hashing it again: (length, generation, meta). *trust* says
        whether it may be gone on with (see `Partials.adopt`), *sign* makes the meta ours."""
        found = self._partials.adopt(self._key, fence=self._fence, trust=trust)
        if found is None:
            return None
        partial, meta = found
        try:
            partial.read_through(self._hash)
        except StorageError as error:
            log.warning("a partial file could not be read, so its download starts over: %s", error)
            partial.discard()
            self._hashers = self._new_hashers()
            return None
        self._meta = sign(meta)
        partial.keep_mark(self._meta)
        self._partial, self._synced_length = partial, partial.synced
        return partial.length, partial.generation, meta

    def begin(self, generation: int, meta: bytes) -> None:
        """Drop what is there and begin a generation."""
        if self._broken is not None:
            return
        self.drop()
        self._hashers = self._new_hashers()
        with self._breaking():
            self._partial = self._partials.create(self._key, fence=self._fence, generation=generation)
            self._meta = meta
            self._partial.keep_mark(meta)
        self._synced_length, self._synced_at = 0, time.monotonic()

    @contextmanager
    def _breaking(self) -> Iterator[None]:
        try:
            yield
        except StorageError as error:
            self._broken = error
            raise

    def write(self, data: memoryview) -> None:
        """Append *data*; now and then have it synced."""
        if self._broken is not None:
            return  # that error is on its way to the transfer; this block was queued before it came
        assert self._partial is not None
        with self._breaking():
            self._partial.append(data)
        self._hash(data)
        now = time.monotonic()
        due = self._partial.length - self._synced_length >= _SYNC_BYTES or now - self._synced_at >= _SYNC_SECONDS
        if due and (self._syncing is None or self._syncing.is_set()):
            first = self._synced_length == 0
            self._synced_length, self._synced_at = self._partial.length, now
            done = self._syncing = threading.Event()
            self._pool.put(functools.partial(self._sync_partial, self._partial, done, first=first))

    def _sync_partial(self, partial: PartialFile, done: threading.Event, *, first: bool) -> None:
        try:
            partial.sync()
            if first:
                self._partials.sync_folder()
        except StorageError as error:
            self._sync_error = error
        finally:
            done.set()

    def digests(self) -> dict[str, str]:
        """The digests of what has landed, in hex. Raises what broke the landing."""
        if self._broken is not None:
            raise self._broken
        return {name: digests.hex_digest(hasher) for name, hasher in self._hashers.items()}

    def landed(self, meta: bytes) -> Landed:
        """Sync what has landed, with the *meta* of a whole; the caller commits it. Runs in the pool."""
        in_hex = self.digests()
        assert self._partial is not None
        self._await_sync()
        self._raise_sync_error()
        self._partial.keep_mark(meta)
        self._partial.seal()
        return Landed(self._partial, self._partial.length, in_hex)

    def whole(self, data: memoryview, generation: int) -> Landed:
        """Land a body that is one piece: written, hashed, synced, without a mark. Runs in the pool."""
        self.drop()
        self._hashers = self._new_hashers()
        partial = self._partial = self._partials.create(self._key, fence=self._fence, generation=generation)
        if data:
            partial.append(data)
            self._hash(data)
        partial.seal()
        return Landed(partial, len(data), self.digests())

    def suspend(self, sign_off: Callable[[bytes], bytes]) -> None:
        """Sync what has landed and leave it to be resumed; *sign_off* takes our name from its meta."""
        if self._partial is not None:
            self._await_sync()
            partial, self._partial = self._partial, None
            try:
                self._raise_sync_error()
                partial.keep_mark(sign_off(self._meta), standing=True)
                partial.sync()
            except StorageError:
                partial.discard()  # what it holds cannot be trusted
                raise
            partial.close()

    def drop(self) -> None:
        """Remove what has landed."""
        if self._partial is not None:
            self._await_sync()
            self._partial.discard()
            self._partial = None

    def _await_sync(self) -> None:
        # The files must not be closed, nor their numbers reused, under a running sync.
        if self._syncing is not None:
            self._syncing.wait()
            self._syncing = None

    def _raise_sync_error(self) -> None:
        # The kernel tells of a failed write once: a later sync would succeed over bytes that are lost.
        if self._sync_error is not None:
            error, self._sync_error = self._sync_error, None
            raise error


def failing(call: Callable[[], None], on_error: Callable[[StorageError], None]) -> Callable[[], None]:
    """*call*, with its errors handed to *on_error*: in a thread of ours nobody else would see them."""

    def guarded() -> None:
        try:
            call()
        except StorageError as error:
            on_error(error)
        except Exception as error:
            log.exception("a download's landing failed")
            on_error(StorageFailed("internal error", reason=repr(error)))

    return guarded
