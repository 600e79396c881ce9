"""`open`: content as a file, from its first byte on, whoever fetches it.

An `Opening` says step by step what is to be waited for, until there is a file; it does no waiting itself, so that
the sync and the async face of the API drive the same one. What it gives for content that is still landing, a
`LandingFile`, waits in its reads, and only for what it is asked for.
"""

from __future__ import annotations

import contextlib
import io
import threading
import time
from collections.abc import Callable, Sequence
from typing import BinaryIO, Protocol, TypeVar

from forebay.catalog.catalog import Catalog, Registered
from forebay.clock import unix_now
from forebay.content.files import FileContentStore
from forebay.content.following import Following
from forebay.content.partial import State
from forebay.content.wakeups import LOOK_AGAIN_S, Wakeups
from forebay.errand import Errand, Next, VersionErrand
from forebay.errors import (
    ContentRotten,
    FollowBroken,
    ForebayError,
    StateError,
)
from forebay.fetch.tickets import Settled, Ticket
from forebay.fetch.transfer import Job
from forebay.models import UNDER_WAY, Response
from forebay.reports import Fetched, response_or_raise
from forebay.wishes import Wish, wishes

# Read ahead: what is small is read at once, and a mark is looked at once for so much.
_BUFFER_BYTES = 128 * 1024
_PIECE_BYTES = 1 << 20

T = TypeVar("T")


class House(Protocol):
    """What reading needs of a `forebay.bay.Forebay`; see there."""

    catalog: Catalog
    store: FileContentStore
    wakeups: Wakeups

    def register(self, wishes: Sequence[Wish]) -> Sequence[Registered | None]: ...
    def errand(self, wish: Wish) -> Errand: ...
    def job(self, registered: Registered) -> Job: ...
    def submit(self, job: Job) -> Ticket: ...
    def let_go(self, ticket: Ticket) -> None: ...
    def note(self, fetched: Fetched) -> Fetched: ...
    def follow(self, request_id: str) -> Following | None: ...
    def call_soon(self, call: Callable[[], None]) -> None: ...


# --- what is wanted -------------------------------------------------------------------------------------

Course = Errand | VersionErrand


def _set_out(house: House, what: str | Response, *, tag: str | None, version: str | None) -> tuple[Course, Next]:
    course: Course
    if isinstance(what, Response):
        course = VersionErrand(what, catalog=house.catalog, job=house.job, clock=unix_now)
        return course, course.begin()
    wish = wishes(None, None, None, tag, version, False)(what)
    (registered,) = house.register([wish])
    if registered is not None and version is not None:
        found = house.catalog.find_version(registered.request.id, version=version, any_status=True, now=unix_now())
        if found is not None and found.status in UNDER_WAY:
            course = VersionErrand(found, catalog=house.catalog, job=house.job, clock=unix_now)
            return course, course.begin()
    course = house.errand(wish)
    return course, course.begin(registered)


class Pursuit:
    """A fetch that somebody waits for: what comes of it, and what wakes who waits. One thread at a time, but for
    `close`."""

    def __init__(self, house: House, course: Course, job: Job, *, wake: Callable[[], None]) -> None:
        self._house, self._course, self._wake = house, course, wake
        self.request_id = job.request_id
        self._changed = threading.Event()
        self._turning = threading.Lock()
        self._closed = False
        self._fetched: Fetched | None = None
        self._watch = house.wakeups.watch(job.request_id, self._ring)
        try:
            self._ticket = self._submit(job)
        except BaseException:
            self._watch.close()
            raise

    def _submit(self, job: Job) -> Ticket:
        ticket = self._house.submit(job)
        ticket.when_settled(self._ring)
        return ticket

    def _ring(self) -> None:
        self._changed.set()
        self._wake()

    def turn(self) -> Fetched | None:
        """What has come of it; None while it is under way. Sees to it that somebody fetches."""
        with self._turning:
            return self._turn()

    def _turn(self) -> Fetched | None:
        while self._fetched is None:
            if self._closed:
                raise StateError("nobody waits for this any more")
            try:
                settled: Settled | ForebayError | None = self._ticket.wait(0)
            except ForebayError as error:
                settled = error
            if settled is None:
                return None
            following = self._course.settled(settled)
            if isinstance(following, Job):
                self._ticket = self._submit(following)
            else:
                self._fetched = self._house.note(following)
        return self._fetched

    def wait(self, seconds: float = LOOK_AGAIN_S) -> None:
        """Return when something has changed since the last `wait`, or when it is time to look anyway."""
        self._changed.wait(seconds)
        self._changed.clear()

    def finish(self) -> None:
        """Give the commit of what is whole a moment, so that who has read it all finds its version ready. What
        became of it is not the reader's concern: its bytes are right."""
        until = time.monotonic() + LOOK_AGAIN_S
        with contextlib.suppress(ForebayError):
            while self.turn() is None and (left := until - time.monotonic()) > 0:
                self.wait(left)

    def reason(self, broken: FollowBroken) -> ForebayError:
        """Why what was read has become void: the fetch's error if it failed; else it started over."""
        until = time.monotonic() + LOOK_AGAIN_S
        while (fetched := self.turn()) is None:
            left = until - time.monotonic()
            if left <= 0 or self._has_started_over():
                return broken
            self.wait(left)
        return fetched.error or broken

    def _has_started_over(self) -> bool:
        following = self._house.follow(self.request_id)
        if following is None:
            return False
        following.close()
        return True

    def close(self) -> None:
        """Wait no longer; a fetch that nobody else waits for is suspended, to be resumed."""
        with self._turning:
            if not self._closed:
                self._closed = True
                self._watch.close()
                if self._fetched is None:
                    self._house.let_go(self._ticket)


# --- the steps of open ----------------------------------------------------------------------------------


class Opening:
    """From what is asked for to a file. Call `step` until it gives one; in between, `wait`, or do something else
    until *wake* is called (from any thread) or `LOOK_AGAIN_S` have passed. Close it in any case."""

    def __init__(
        self,
        house: House,
        what: str | Response,
        *,
        tag: str | None = None,
        version: str | None = None,
        wake: Callable[[], None] = lambda: None,
    ) -> None:
        self._house, self._what, self._tag, self._version = house, what, tag, version
        self._wake = wake
        self._pursuit: Pursuit | None = None
        self._holding = threading.Lock()
        self._closed = False
        self._healed = False

    def step(self) -> BinaryIO | None:
        """The file if there is one by now. Asks the catalog; waits for nobody."""
        pursuit = self._pursuit
        if pursuit is None:
            course, following = _set_out(self._house, self._what, tag=self._tag, version=self._version)
            if isinstance(following, Fetched):
                return self._stored(self._house.note(following))
            pursuit = Pursuit(self._house, course, following, wake=self._wake)
            self._hold(pursuit)
        # In this order: what is committed has ended its landing.
        landing = self._house.follow(pursuit.request_id)
        if landing is not None:
            return self._landing(landing, pursuit)
        fetched = pursuit.turn()
        if fetched is None:
            return None
        pursuit.close()
        self._hold(None)
        return self._stored(fetched)

    def _hold(self, pursuit: Pursuit | None) -> None:
        with self._holding:
            self._pursuit = pursuit
            closed = self._closed
        if closed and pursuit is not None:  # while this step was on its way
            pursuit.close()

    def _landing(self, following: Following, pursuit: Pursuit) -> BinaryIO:
        file = _Buffered(LandingFile(following, pursuit), self._house.call_soon)
        self._hold(None)  # the file closes it
        newest = self._house.catalog.newest(pursuit.request_id, now=unix_now())
        if newest is not None:
            self._house.note(Fetched(newest.url, newest, "fetched"))
        return file

    def _stored(self, fetched: Fetched) -> BinaryIO | None:
        response = response_or_raise(fetched)
        attributes = response.content_attributes
        if attributes.sha256 is None or attributes.content_size_bytes is None:
            raise StateError(f"version {response.version} has no content: it is {response.status}")
        try:
            return self._house.store.open(attributes.sha256, size_bytes=attributes.content_size_bytes)
        except ContentRotten as error:
            self._house.catalog.mark_rotten(attributes.sha256, found=str(error), now=unix_now())
            if self._healed or isinstance(self._what, Response):
                raise
            self._healed = True
            return self.step()  # what is damaged is fetched anew

    def wait(self) -> None:
        """Return when `step` may have more to say."""
        if self._pursuit is not None:
            self._pursuit.wait()

    def close(self) -> None:
        """Nobody waits for it any more. May be called while a step is under way in another thread."""
        with self._holding:
            self._closed = True
            pursuit, self._pursuit = self._pursuit, None
        if pursuit is not None:
            pursuit.close()


class _Buffered(io.BufferedReader):
    """One that nobody has closed is closed by another thread: letting go takes locks, and a finalizer may run while
    its thread holds them."""

    def __init__(self, raw: LandingFile, call_soon: Callable[[Callable[[], None]], None]) -> None:
        super().__init__(raw, _BUFFER_BYTES)
        self._call_soon = call_soon

    def __del__(self) -> None:
        if not self.closed:
            self._call_soon(self._close_quietly)

    def _close_quietly(self) -> None:
        with contextlib.suppress(Exception):
            self.close()


# --- a file that is still landing -----------------------------------------------------------------------


class LandingFile(io.RawIOBase):
    """Content that is read while it lands. A read waits for its first byte, not for all that it could hold; one of
    the last byte waits until all are there, verified and synced, one of the end also for the commit. When the
    download fails or starts over, reads raise its error, however far they are. Closing it lets go of the download.
    """

    mode = "rb"

    def __init__(self, following: Following, pursuit: Pursuit) -> None:
        self._following, self._pursuit = following, pursuit
        self._at = 0
        self._error: ForebayError | None = None

    def readable(self) -> bool:
        """True."""
        return True

    def seekable(self) -> bool:
        """True."""
        return True

    def tell(self) -> int:
        """The position in bytes."""
        self._checkClosed()
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """See `io.IOBase.seek`; relative to the end, waits until it is known where that is."""
        self._checkClosed()
        match whence:
            case io.SEEK_SET:
                start = 0
            case io.SEEK_CUR:
                start = self._at
            case io.SEEK_END:
                start = self._landed(self._total)
            case _:
                raise ValueError(f"expected whence 0, 1 or 2, got {whence}")
        if start + offset < 0:
            raise ValueError(f"expected a position in the content, got {start + offset}")
        self._at = start + offset
        return self._at

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        """See `io.RawIOBase.readinto`."""
        self._checkClosed()
        view = memoryview(buffer).cast("B")
        got = self._landed(lambda: self._following.readinto(view, self._at) or self._end(0)) if len(view) else 0
        self._at += got
        return got

    def readall(self) -> bytes:
        """All that is left, once it is there."""
        self._checkClosed()
        pieces = []
        while piece := self._landed(lambda: self._following.read(self._at, _PIECE_BYTES) or self._end(b"")):
            pieces.append(piece)
            self._at += len(piece)
        return b"".join(pieces)

    def _total(self) -> int | None:
        if self._following.look().state is State.GIVEN_UP:
            raise FollowBroken
        return self._following.total

    def _end(self, nothing: T) -> T | None:
        """*nothing*, if nothing will come any more; None: wait."""
        if not self._following.at_end(self._at):
            return None
        self._pursuit.finish()
        return nothing

    def _landed(self, look: Callable[[], T | None]) -> T:
        """What *look* gives when it gives something."""
        if self._error is not None:
            raise self._error
        try:
            while (found := look()) is None:
                fetched = self._pursuit.turn()
                if fetched is None:
                    self._pursuit.wait()
                elif self._following.look().state is not State.WHOLE:
                    raise fetched.error or FollowBroken()
        except FollowBroken as broken:
            self._error = self._pursuit.reason(broken)
            raise self._error from None
        except ForebayError as error:
            self._error = error
            raise
        return found

    def __del__(self) -> None:
        """Whoever buffers it closes it."""

    def close(self) -> None:
        """Let go of the download, unless it is done or somebody else waits for it."""
        if not self.closed:
            try:
                self._following.close()
                self._pursuit.close()
            finally:
                super().close()
