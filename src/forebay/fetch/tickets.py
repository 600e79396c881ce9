"""What a caller holds of a job that it handed in, and what became of the job."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import dataclass
from typing import Literal

from forebay.errors import ForebayError
from forebay.fetch.transfer import Job, Transfer
from forebay.models import Response
from forebay.reports import Progress


@dataclass(frozen=True, slots=True)
class Settled:
    """What became of a job. ``elsewhere``: another process ran it; look again at what is stored."""

    status: Literal["ready", "duplicate", "unchanged", "failed", "elsewhere"]
    response: Response | None = None
    error: ForebayError | None = None


class Ticket:
    """A job that was handed in: what becomes of it, and how far it is. Several callers may hold one."""

    def __init__(self, job: Job, look_elsewhere: Callable[[], Progress]) -> None:
        self.job = job
        self._future: Future[Settled] = Future()
        self._look_elsewhere = look_elsewhere
        self.transfer: Transfer | None = None
        self.holders = 1

    def wait(self, timeout: float | None = None) -> Settled | None:
        """What became of it; None when *timeout* seconds passed before. Raises what broke Forebay itself."""
        try:
            return self._future.result(timeout)
        except FutureTimeout:
            return None

    def when_settled(self, call: Callable[[], None]) -> None:
        """Have *call* called when it is settled, from any thread."""
        self._future.add_done_callback(lambda _: call())

    def progress(self) -> Progress:
        """How far it is, here or in the process that runs it."""
        return self._look_elsewhere() if self.transfer is None else self.transfer.progress

    def settle(self, what: Settled | ForebayError) -> None:
        """Tell everyone who waits; what comes later than the first is not told."""
        if self._future.done():
            return
        if isinstance(what, Settled):
            self._future.set_result(what)
        else:
            self._future.set_exception(what)
