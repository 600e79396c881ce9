"""`fetch_many`: errands for many URLs at once, driven in the caller's thread.

The async face drives the same errands (`forebay.abay`), a server has its fetch worker run their jobs.
"""

from __future__ import annotations

import queue
from collections.abc import Callable, Generator, Iterator, Sequence
from functools import partial
from itertools import islice
from typing import Protocol

from forebay.catalog.catalog import Registered
from forebay.core.urls import show_url
from forebay.errand import Errand, outcome_of
from forebay.errors import ForebayError
from forebay.fetch.tickets import Ticket
from forebay.fetch.transfer import Job
from forebay.models import RequestSpec
from forebay.reports import Fetched, OnProgress
from forebay.wishes import Wish

_PROGRESS_EVERY_S = 0.1
# Errands under way at once in one call: enough to keep every connection busy, few enough for any memory.
_WINDOW = 256


class House(Protocol):
    """What driving needs of a `forebay.bay.Forebay`; see there."""

    def register(self, wishes: Sequence[Wish]) -> Sequence[Registered | None]: ...
    def errand(self, wish: Wish) -> Errand: ...
    def submit_all(self, jobs: Sequence[Job]) -> list[Ticket]: ...
    def let_go(self, ticket: Ticket) -> None: ...
    def note(self, fetched: Fetched) -> Fetched: ...


class Drive:
    """One call of `fetch_many`. *make*: what is wanted of a URL."""

    def __init__(
        self, house: House, make: Callable[[str | RequestSpec], Wish], progress: OnProgress | None
    ) -> None:
        self._house, self._make, self._progress = house, make, progress
        self._done: queue.SimpleQueue[tuple[Errand, Ticket]] = queue.SimpleQueue()
        self._running: dict[Errand, Ticket] = {}

    def answers(self, urls: Iterator[str | RequestSpec]) -> Generator[Fetched, None, None]:
        """What came of each of *urls*, as it comes. Closing it lets go of what is under way."""
        try:
            while True:
                if len(self._running) <= _WINDOW // 2:  # refilled in bulk: many look-ups cost little more than one
                    fetched = self._begin(list(islice(urls, _WINDOW - len(self._running))))
                    yield from fetched
                    if not self._running and not fetched:
                        return
                for errand, ticket in self._settled():
                    following = errand.settled(outcome_of(ticket))
                    if isinstance(following, Job):
                        self._run([(errand, following)])
                    else:
                        yield self._house.note(following)
        finally:
            for ticket in self._running.values():
                self._house.let_go(ticket)

    def _begin(self, urls: Sequence[str | RequestSpec]) -> list[Fetched]:
        """Look at what is stored for *urls*: the answers that there are; for the others, run what must be."""
        fetched: list[Fetched] = []
        jobs: list[tuple[Errand, Job]] = []
        wishes: list[Wish] = []
        for url in urls:
            try:
                wishes.append(self._make(url))
            except ForebayError as error:
                shown = show_url(url if isinstance(url, str) else url.url)
                fetched.append(Fetched(shown, None, "failed", error, asked=url))
        for wish, registered in zip(wishes, self._house.register(wishes), strict=True):
            errand = self._house.errand(wish)
            following = errand.begin(registered)
            if isinstance(following, Job):
                jobs.append((errand, following))
            else:
                fetched.append(self._house.note(following))
        self._run(jobs)
        return fetched

    def _run(self, jobs: list[tuple[Errand, Job]]) -> None:
        if not jobs:
            return
        for (errand, _), ticket in zip(jobs, self._house.submit_all([job for _, job in jobs]), strict=True):
            self._running[errand] = ticket
            ticket.when_settled(partial(self._done.put, (errand, ticket)))

    def _settled(self) -> Iterator[tuple[Errand, Ticket]]:
        """Wait for at least one of those that run, then take all that are there."""
        while self._running:
            try:
                errand, ticket = self._done.get(timeout=None if self._progress is None else _PROGRESS_EVERY_S)
            except queue.Empty:
                self._report()
                continue
            if self._progress is not None:
                self._progress(errand.url, ticket.progress())
            del self._running[errand]
            yield errand, ticket
            if self._done.empty():
                return

    def _report(self) -> None:
        if self._progress is not None:
            for errand, ticket in self._running.items():
                self._progress(errand.url, ticket.progress())
