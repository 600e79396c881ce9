"""How things look to people and programs: sizes, ages, tables, JSON, errors. stdout is data, stderr is talk."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Literal

from forebay.errors import (
    ForebayError,
    HashMismatch,
    InvalidUrl,
    OriginError,
    RemoteError,
    StorageError,
)

EXIT_DONE, EXIT_CALLER, EXIT_OURS, EXIT_INTERRUPTED = 0, 1, 2, 130
# What a shell reports for a program that SIGPIPE ended, as `cat` in `cat big | head` is.
EXIT_PIPE_CLOSED = 141

Colour = Literal["red", "yellow", "dim"]
_COLOURS: dict[Colour, str] = {"red": "31", "yellow": "33", "dim": "2"}


class PipeClosed(Exception):
    """Whoever read our stdout has gone; there is nobody left to write to."""


# --- values as text -----------------------------------------------------------------------------------


def size_text(size_bytes: float | None) -> str:
    """``1.1 MiB``: binary units, as the numbers of disks and memory are; ``-`` when unknown."""
    if size_bytes is None:
        return "-"
    size = float(size_bytes)
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if size < 1023.95 or unit == "TiB":
            break
        size /= 1024
    return f"{size:.0f} {unit}" if unit == "B" or size >= 99.95 else f"{size:.1f} {unit}"


def duration_text(seconds: float) -> str:
    """``14 ms``, ``0.4 s``, ``12 s``, ``3 min 5 s``, ``2 h 10 min``."""
    if seconds < 0.0995:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes == 0:
        return f"{rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def span_text(seconds: float) -> str:
    """``6h``, ``7d``, ``90s``: the shortest of the words that options take for a time."""
    for unit, length_s in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= length_s and seconds % length_s == 0:
            return f"{seconds / length_s:g}{unit}"
    return f"{seconds:g}s"


def age_text(moment: datetime | None, *, now: datetime | None = None) -> str:
    """``3 h ago``: the whole units that have passed since *moment*; ``-`` when there is none."""
    if moment is None:
        return "-"
    seconds = ((now or datetime.now(UTC)) - moment).total_seconds()
    if seconds < 1:
        return "just now"
    for unit, length_s in (("y", 365 * 86400), ("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length_s:
            return f"{int(seconds // length_s)} {unit} ago"
    return f"{int(seconds)} s ago"


def moment_text(moment: datetime | None) -> str:
    """``2026-11-21 08:27:45 UTC``; ``-`` when there is none."""
    return "-" if moment is None else moment.strftime("%Y-%m-%d %H:%M:%S UTC")


def printable(text: str) -> str:
    """*text* as one line that cannot steer a terminal: what an origin sent is shown, never obeyed."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else " " if char in "\r\n\t" else "\ufffd" for char in text)


# --- stdout: data -------------------------------------------------------------------------------------


def emit(text: str) -> None:
    """One or more lines of data on stdout, at once. Raises PipeClosed."""
    try:
        sys.stdout.write(text + "\n")
        sys.stdout.flush()
    except BrokenPipeError:
        raise PipeClosed from None


def emit_json(value: Mapping[str, Any]) -> None:
    """*value* as one line of JSON; in ASCII, which survives every locale and paths that are no text."""
    emit(json.dumps(value))


def emit_table(headings: Sequence[str], rows: Sequence[Sequence[str]], *, right: Sequence[str] = ()) -> None:
    """*rows* under *headings* on a terminal; tab-separated and without headings for a program.

    *right*: the headings of the columns that are aligned right.
    """
    cells = [[printable(cell) for cell in row] for row in rows]
    if not cells:
        return
    if not sys.stdout.isatty():
        emit("\n".join("\t".join(row) for row in cells))
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for heading in headings:
        table.add_column(heading, justify="right" if heading in right else "left", overflow="fold")
    for row in cells:
        table.add_row(*(Text(cell) for cell in row))
    Console(highlight=False).print(table)


def emit_facts(facts: Mapping[str, str]) -> None:
    """One line each of *facts*, the names padded to one width."""
    width = max(map(len, facts), default=0)
    emit("\n".join(f"{name:{width}}  {printable(value)}" for name, value in facts.items()))


# --- stderr: talk -------------------------------------------------------------------------------------


def talks_to_a_person() -> bool:
    """Whether stderr is a terminal."""
    return sys.stderr is not None and sys.stderr.isatty()


def draws_bars() -> bool:
    """Whether stderr is a terminal that can take back what it shows."""
    return talks_to_a_person() and os.environ.get("TERM") != "dumb"


def _painted(text: str, colour: Colour) -> str:
    # https://no-color.org: any value but the empty one.
    if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb" or not talks_to_a_person():
        return text
    return f"\x1b[{_COLOURS[colour]}m{text}\x1b[0m"


def say(text: str) -> None:
    """One line on stderr."""
    if sys.stderr is not None:  # closed by `2>&-`; print() would then write to stdout
        print(printable(text), file=sys.stderr, flush=True)  # noqa: T201


def say_as_it_is(text: str) -> None:
    """Lines of our own making, such as a traceback, on stderr."""
    if sys.stderr is not None:
        print(text, file=sys.stderr, flush=True)  # noqa: T201


def _say_headed(word: str, colour: Colour, text: str) -> None:
    if sys.stderr is not None:
        print(f"{_painted(word, colour)} {printable(text)}", file=sys.stderr, flush=True)  # noqa: T201


def note(text: str) -> None:
    """Something worth knowing, nothing wrong."""
    _say_headed("note:", "dim", text)


def warn(text: str) -> None:
    """Something to look into; the command has done what was asked."""
    _say_headed("warning:", "yellow", text)


def hint(text: str) -> None:
    """The way out, below an error."""
    _say_headed("hint:", "dim", text)


def complain(error: ForebayError, *, about: str | None = None) -> int:
    """*error* on stderr with its code and, where it helps, a hint; gives the exit code.

    *about*: the URL that it happened to, when several were asked for.
    """
    text = str(error)
    if about is not None and about not in text:
        text = f"{about}: {text}"
    _say_headed("error:", "red", f"{text} [{error.code}]")
    way_out = _hint_for(error)
    if way_out is not None:
        hint(way_out)
    return exit_code(error)


def complain_of_usage(text: str, *, command: str) -> None:
    """A command line that cannot be read, on stderr."""
    _say_headed("error:", "red", f"{text} [usage_invalid]")
    hint(f"`{command} --help` says what it takes")


def complain_of_bug(error: Exception) -> None:
    """An error that nobody foresaw, on stderr in one line."""
    _say_headed("error:", "red", f"this should not happen: {type(error).__name__}: {error} [unexpected]")
    if not os.environ.get("FOREBAY_DEBUG"):
        hint("`forebay --debug` with the same command shows where; please report it")


def exit_code(error: ForebayError) -> int:
    """1 for what the caller has to change, 2 for what the origin or our storage did."""
    remote = isinstance(error, RemoteError) and error.status >= 500
    return EXIT_OURS if remote or isinstance(error, OriginError | StorageError) else EXIT_CALLER


_RESUME = "what has arrived is kept: the same command goes on where this one stopped"
_HINTS = {
    "origin_unreachable": "check the host name and the network, then run the same command again",
    "origin_cut": _RESUME,
    "origin_short": _RESUME,
    "origin_stalled": _RESUME,
    "origin_deadline": _RESUME,
    "origin_status": "check the URL; a browser shows what the origin says about it",
    "origin_busy": "the origin asks for patience: run the same command again later",
    "origin_changed": "the origin is publishing just now: run the same command again in a while",
    "content_rotten": "`forebay verify` looks through everything, `forebay get URL` fetches it anew",
}


def _hint_for(error: ForebayError) -> str | None:
    """The way out, where the sentence of *error* does not say it already."""
    if isinstance(error, InvalidUrl):
        no_scheme = "://" not in error.shown and not error.shown.startswith("/")
        return f"add https://, as in https://{error.shown}" if no_scheme else None
    if isinstance(error, HashMismatch):
        return "the origin has other bytes than the hash was made of: check where the hash is from"
    return _HINTS.get(error.code)
