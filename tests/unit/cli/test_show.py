"""How the command line writes sizes, ages, times and errors."""

from datetime import UTC, datetime, timedelta

import pytest

from forebay import errors
from forebay.cli import show

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (None, "-"),
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (99.94 * 1024, "99.9 KiB"),
        (100 * 1024, "100 KiB"),
        (1024**2 - 1, "1.0 MiB"),
        (1.1 * 1024**2, "1.1 MiB"),
        (5 * 1024**4, "5.0 TiB"),
        (5000 * 1024**4, "5000 TiB"),
    ],
)
def test_sizes(size: float | None, text: str) -> None:
    """Binary units, three digits at most below the largest one; never 1024 of a unit."""
    assert show.size_text(size) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.004, "4 ms"),
        (0.0994, "99 ms"),
        (0.4, "0.4 s"),
        (9.96, "10 s"),
        (59.4, "59 s"),
        (59.6, "1 min 0 s"),
        (185, "3 min 5 s"),
        (7800, "2 h 10 min"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    """Two units at most, none of them full."""
    assert show.duration_text(seconds) == text


@pytest.mark.parametrize(
    ("age", "text"),
    [
        (-5, "just now"),
        (0.9, "just now"),
        (1, "1 s ago"),
        (59, "59 s ago"),
        (60, "1 min ago"),
        (3 * 3600 + 3599, "3 h ago"),
        (86400, "1 d ago"),
        (800 * 86400, "2 y ago"),
    ],
)
def test_ages(age: float, text: str) -> None:
    """The whole units that have passed; a clock that was set back makes nothing older than now."""
    assert show.age_text(NOW - timedelta(seconds=age), now=NOW) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(90, "90s"), (900, "15m"), (21600, "6h"), (604800, "7d"), (0.5, "0.5s")]
)
def test_spans(seconds: float, text: str) -> None:
    """A time as options take it, in the largest unit that fits without a rest."""
    assert show.span_text(seconds) == text


def test_no_time() -> None:
    """What has no time shows a dash."""
    assert (show.age_text(None), show.moment_text(None)) == ("-", "-")
    assert show.moment_text(NOW) == "2026-11-21 12:00:00 UTC"


def test_printable() -> None:
    """One line, without anything that steers a terminal."""
    assert show.printable("a\r\nb\tc") == "a  b c"
    assert show.printable("\x1b[2J\u202e") == "\ufffd[2J\ufffd"
    assert show.printable("naïve 漢字") == "naïve 漢字"


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.NotStored("https://example.org/"), 1),
        (errors.StateError("closed"), 1),
        (errors.OriginRefused("h", address="::1", reason="loopback", remedy="allow it"), 1),
        (errors.OriginError("origin_cut", "cut"), 2),
        (errors.HashMismatch("u", algorithm="md5", expected="a", got="b"), 2),
        (errors.DiskFull("/data"), 2),
    ],
)
def test_exit_codes(error: errors.ForebayError, code: int, capsys: pytest.CaptureFixture[str]) -> None:
    """1 is the caller's, 2 the origin's or the storage's; the line on stderr ends with the error's code."""
    assert show.complain(error) == code
    first, *_ = capsys.readouterr().err.splitlines()
    assert first == f"error: {error} [{error.code}]"


def test_whose_error_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    """The URL stands before an error that does not name it, and once in one that does."""
    show.complain(errors.OriginError("origin_cut", "cut off"), about="https://example.org/a")
    show.complain(errors.NotStored("https://example.org/a"), about="https://example.org/a")
    err = capsys.readouterr().err
    assert "error: https://example.org/a: cut off [origin_cut]" in err
    assert err.count("https://example.org/a") == 2


@pytest.mark.parametrize("debug", [False, True])
def test_an_error_that_nobody_foresaw(
    debug: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line and exit code 2; with FOREBAY_DEBUG the traceback stands above it."""
    from forebay import cli

    monkeypatch.setenv("FOREBAY_DEBUG", "1" if debug else "")
    try:
        raise KeyError("no such thing")
    except KeyError as error:
        assert cli._unexpected(error) == 2
    captured = capsys.readouterr()
    assert "error: this should not happen: KeyError: 'no such thing' [unexpected]" in captured.err
    assert ("Traceback" in captured.err) is debug
    assert captured.out == ""
