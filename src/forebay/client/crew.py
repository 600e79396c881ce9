"""A few threads that fetch many URLs; their answers and their progress come out in the caller's thread."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Generator, Iterator

from forebay.client.fetching import Tell
from forebay.core.urls import show_url
from forebay.models import RequestSpec
from forebay.reports import Fetched, OnProgress, Progress

PROGRESS_EVERY_S = 0.1
# Fetches under way at once in one call: the server fetches fewer, the others wait there.
_CREW = 16


class Crew:
    """Works through *urls* with *fetch*, a few at once. Disband it when done."""

    def __init__(
        self, urls: Iterator[str | RequestSpec], fetch: Callable[[str | RequestSpec, Tell | None], Fetched]
    ) -> None:
        self._urls, self._fetch = urls, fetch
        self._todo: queue.SimpleQueue[str | RequestSpec | None] = queue.SimpleQueue()
        self._done: queue.SimpleQueue[Fetched | BaseException] = queue.SimpleQueue()
        self._latest: dict[str, Progress] = {}
        self._told_at = time.monotonic()
        self._threads = self._busy = 0
        self._disbanded = False

    def answers(self, progress: OnProgress | None) -> Generator[Fetched, None, None]:
        """Each answer when it is there. *progress* is told about ten times a second, and at each end."""
        for url in self._urls:
            self._hire(tells=progress is not None)
            self._todo.put(url)
            self._busy += 1
            while self._busy >= _CREW:
                yield self._next(progress)
        while self._busy:
            yield self._next(progress)

    def _next(self, progress: OnProgress | None) -> Fetched:
        done = self._done.get() if progress is None else self._wait_and_tell(progress)
        self._busy -= 1
        if isinstance(done, BaseException):
            raise done
        if progress is not None:
            self._latest.pop(done.url, None)
            progress(done.url, Progress(state="done"))
        return done

    def _wait_and_tell(self, progress: OnProgress) -> Fetched | BaseException:
        while True:
            if time.monotonic() - self._told_at >= PROGRESS_EVERY_S:
                for url, how_far in list(self._latest.items()):
                    progress(url, how_far)
                self._told_at = time.monotonic()
            try:
                return self._done.get(timeout=PROGRESS_EVERY_S)
            except queue.Empty:
                continue

    def _hire(self, *, tells: bool) -> None:
        if self._threads < _CREW and self._threads <= self._busy:
            self._threads += 1
            # Daemons: an answer that the server still keeps back shall not keep a program from ending.
            threading.Thread(target=self._work, args=(tells,), name="forebay-remote", daemon=True).start()

    def _work(self, tells: bool) -> None:
        while (url := self._todo.get()) is not None and not self._disbanded:
            try:
                self._done.put(self._fetch(url, self._teller(url) if tells else None))
            except BaseException as error:
                self._done.put(error)

    def _teller(self, url: str | RequestSpec) -> Tell:
        shown = show_url(url if isinstance(url, str) else url.url)

        def tell(how_far: Progress) -> None:
            self._latest[shown] = how_far

        return tell

    def disband(self) -> None:
        """Nobody waits for the rest."""
        self._disbanded = True
        for _ in range(self._threads):
            self._todo.put(None)
