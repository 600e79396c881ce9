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
    from forebay.reports import Sending

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


class _TransferBars(_Bars):
    """A bar for each transfer that runs or waits, with its rate and time to go."""

    def __init__(self) -> None:
        super().__init__()
        self._tasks: dict[str, tuple[TaskID, int]] = {}

    def _over(self, key: str) -> None:
        task, _ = self._tasks.pop(key, (None, 0))
        if task is not None:
            self._display.remove_task(task)

    def _show(self, key: str, name: str, done: int, total: int | None, *, resumed: int, remark: str) -> None:
        task, before = self._tasks.get(key, (None, 0))
        if task is None:
            task = self._display.add_task(name, total=None, remark="")
        if resumed != before:
            # What an earlier attempt left did not come at this speed.
            self._display.reset(task, completed=done)
        self._tasks[key] = (task, resumed)
        self._display.update(task, completed=done, total=total, remark=remark)


class FetchBars(_TransferBars):
    """A bar for each download, with its attempt and last failure."""

    def update(self, url: str, progress: Fetching) -> None:
        """Take in how far the download of *url* is."""
        if progress.state == "done":
            self._over(url)
        elif progress.state != "queued":
            done, total = progress.downloaded_bytes, progress.total_bytes
            self._show(url, _name(url), done, total, resumed=progress.resumed_bytes, remark=_remark(progress))
        self.draw()


class SendBars(_TransferBars):
    """A bar for each file on its way, with its attempt and last failure."""

    def update(self, file: str, sending: Sending) -> None:
        """Take in how far *file* is."""
        if sending.state == "done":
            self._over(file)
        else:
            name = _shortened(printable(file.rstrip("/").rpartition("/")[2]))
            done, total, resumed = sending.sent_bytes, sending.total_bytes, sending.resumed_bytes
            self._show(file, name, done, total, resumed=resumed, remark=_remark_on(sending))
        self.draw()


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
    return _shortened(parts.path.rstrip("/").rpartition("/")[2] or parts.netloc)


def _shortened(name: str) -> str:
    return name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}…"


def _remark(progress: Fetching) -> str:
    if progress.state == "waiting":
        return printable(f"waiting: {progress.reason or 'for its turn'}")
    if progress.attempt > 1:
        return f"attempt {progress.attempt}"
    return ""


def _remark_on(sending: Sending) -> str:
    if sending.state != "sending":
        return sending.state
    return printable(f"attempt {sending.attempt}: {sending.reason}") if sending.attempt > 1 else ""
