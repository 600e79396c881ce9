"""Live progress on a terminal. Imported only when stderr is one: Rich costs 70 ms."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Self
from urllib.parse import urlsplit

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskID, TextColumn, TimeRemainingColumn
from rich.text import Text

from forebay.cli.show import printable, size_text
from forebay.core.urls import show_url

if TYPE_CHECKING:
    from forebay.reports import Progress as Fetching

_REDRAW_S = 0.1
_LONGEST_NAME = 32


class _Amount(ProgressColumn):
    """``1.1 MiB/10.0 MiB  3.2 MiB/s``."""

    def render(self, task: Task) -> Text:
        whole = "" if task.total is None else f"/{size_text(task.total)}"
        rate = f"  {size_text(task.speed)}/s" if task.speed else ""
        return Text(f"{size_text(task.completed)}{whole}{rate}", style="progress.download")


class _Bars:
    """One Rich display on stderr, there from the first thing to show. Its caller draws it: there is no thread
    that Ctrl-C could meet."""

    def __init__(self) -> None:
        self._display = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            _Amount(),
            TimeRemainingColumn(compact=True),
            TextColumn("{task.fields[remark]}", markup=False, style="yellow"),
            console=Console(stderr=True),
            auto_refresh=False,
            transient=True,
            # Rich would send what we print on stdout to stderr.
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._drawn_at = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._display.stop()

    @contextmanager
    def aside(self) -> Iterator[None]:
        """The bars are gone while something else is printed, and until they are drawn again."""
        self._display.stop()
        yield

    def draw(self) -> None:
        """Redraw, unless that was just done or there is nothing to see."""
        now = time.monotonic()
        if now - self._drawn_at < _REDRAW_S or not self._display.tasks:
            return
        self._drawn_at = now
        self._display.start()
        self._display.refresh()


class FetchBars(_Bars):
    """A bar for each download that runs or waits, with its rate, time to go, attempt and last failure."""

    def __init__(self) -> None:
        super().__init__()
        self._tasks: dict[str, tuple[TaskID, int]] = {}

    def update(self, url: str, progress: Fetching) -> None:
        """Take in how far the download of *url* is."""
        if progress.state == "done":
            task, _ = self._tasks.pop(url, (None, 0))
            if task is not None:
                self._display.remove_task(task)
        elif progress.state != "queued":
            self._show(url, progress)
        self.draw()

    def _show(self, url: str, progress: Fetching) -> None:
        task, resumed = self._tasks.get(url, (None, 0))
        if task is None:
            task = self._display.add_task(_name(url), total=None, remark="")
        if progress.resumed_bytes != resumed:
            # What an earlier attempt left here did not come at this speed.
            self._display.reset(task, completed=progress.downloaded_bytes)
        self._tasks[url] = (task, progress.resumed_bytes)
        self._display.update(
            task, completed=progress.downloaded_bytes, total=progress.total_bytes, remark=_remark(progress)
        )


class CheckBar(_Bars):
    """One bar over everything that `forebay verify` reads."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self._task = self._display.add_task(name, total=None, remark="")

    def update(self, done_bytes: int, total_bytes: int) -> None:
        """Take in how much is done."""
        self._display.update(self._task, completed=done_bytes, total=total_bytes)
        self.draw()


def _name(url: str) -> str:
    """The end of the path, or the host: enough to tell the bars apart."""
    shown = show_url(url)
    parts = urlsplit(shown)
    name = parts.path.rstrip("/").rpartition("/")[2] or parts.netloc
    return name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}…"


def _remark(progress: Fetching) -> str:
    if progress.state == "waiting":
        return printable(f"waiting: {progress.reason or 'for its turn'}")
    if progress.attempt > 1:
        return f"attempt {progress.attempt}"
    return ""
