"""A person at a terminal: Ctrl-C, and bars that move."""

import os
import pty
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from test_cli_program import Program, read_to_end

from origin import FailFirst, Origin, Resource, Stall, blob

# More than the sockets' buffers hold: when the origin has sent it, the program has read most of it.
SENT = 32 * 1024 * 1024


@pytest.fixture
def program(tmp_path: Path) -> Program:
    return Program(tmp_path / "data")


@pytest.fixture
def event() -> threading.Event:
    return threading.Event()


def interruptible(program: Program) -> Program:
    """The program with SIGINT as at a terminal: in the background, a shell has it ignored."""
    set_up = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    program.command = [sys.executable, "-c", f"{set_up}; import forebay.cli; forebay.cli.main()"]
    return program


def test_ctrl_c_leaves_what_can_be_resumed(program: Program, origin: Origin, event: threading.Event) -> None:
    """SIGINT ends a download with one line and exit code 130; the next run asks only for what is missing."""
    body = blob(SENT + 1_000_000)
    stall = origin.serve("/big", Stall(Resource(body), SENT, event, times=1))
    running = interruptible(program).start(
        "get", origin.url("/big"), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert stall.reached.wait(60)
    running.send_signal(signal.SIGINT)
    out, err = running.communicate()
    assert (running.returncode, out) == (130, b"")
    assert err.decode() == "interrupted; run the same command again to resume\n"
    assert program("du", "--json").json[0]["partial_bytes"] > 0

    done = program("get", origin.url("/big"), "-o", "-")
    assert done.raw == body
    assert "resumed " in done.err
    asked = origin.requests("/big", "GET")[-1].fields
    start = int(asked["range"].removeprefix("bytes=").removesuffix("-"))
    assert 0 < start <= SENT
    assert asked["if-range"] == '"v1"'
    assert program("du", "--json").json[0]["partial_bytes"] == 0


def test_ctrl_c_among_several(program: Program, origin: Origin, event: threading.Event) -> None:
    """What was finished before is kept and on stdout; what ran is resumed."""
    body = blob(SENT + 1000)
    origin.serve("/small", Resource(b"small"))
    stall = origin.serve("/big", Stall(Resource(body), SENT, event, times=1))
    urls = [origin.url("/small"), origin.url("/big")]
    running = interruptible(program).start("get", *urls, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert running.stdout is not None
    first = running.stdout.readline()
    assert stall.reached.wait(60)
    running.send_signal(signal.SIGINT)
    out, err = running.communicate()
    assert (running.returncode, out) == (130, b"")
    assert Path(first.decode().strip()).read_bytes() == b"small"
    assert b"interrupted" in err
    assert [Path(line).read_bytes() for line in program("get", *urls).lines] == [b"small", body]


def read_until(terminal: int, *wanted: str) -> str:
    """What a pty shows until it has shown all of *wanted*."""
    seen = b""
    while not all(text.encode() in seen for text in wanted):
        seen += os.read(terminal, 65536)
    return seen.decode(errors="replace")


def test_a_bar_on_a_terminal(program: Program, origin: Origin, event: threading.Event) -> None:
    """While a download runs, stderr shows name, amount and total; then they give way to the line about it. stdout
    has the path and nothing else."""
    body = blob(SENT + 1_000_000)
    origin.serve("/big.bin", Stall(Resource(body), SENT, event))
    terminal, ours = pty.openpty()
    with program.start("get", origin.url("/big.bin"), stdout=subprocess.PIPE, stderr=ours) as running:
        os.close(ours)
        read_until(terminal, "big.bin", "/33.0 MiB")
        event.set()
        rest = read_to_end(terminal)
        assert running.stdout is not None
        out = running.stdout.read().decode()
    assert running.returncode == 0
    assert Path(out.strip()).read_bytes() == body
    assert "big.bin  33.0 MiB  sha256 " in rest
    assert "\x1b" not in out


def test_a_bar_without_colour(program: Program, origin: Origin, event: threading.Event) -> None:
    """NO_COLOR takes the colours out of the bar; it moves all the same."""
    origin.serve("/big.bin", Stall(Resource(blob(SENT + 1000)), SENT, event))
    program.env["NO_COLOR"] = "1"
    terminal, ours = pty.openpty()
    with program.start("get", origin.url("/big.bin"), stdout=subprocess.DEVNULL, stderr=ours):
        os.close(ours)
        seen = read_until(terminal, "big.bin", "/32.0 MiB")
        event.set()
        seen += read_to_end(terminal)
    assert not re.findall(r"\x1b\[(?:\d+;)*[349]\d", seen)


def test_a_wait_is_shown_with_its_reason(program: Program, origin: Origin) -> None:
    """Between two attempts the bar says that it waits and why; Ctrl-C ends the waiting at once."""
    origin.serve("/a", FailFirst(Resource(b"a"), 100, 500))
    interruptible(program).env |= {"FOREBAY_BACKOFF_BASE_S": "3600", "FOREBAY_BACKOFF_MAX_S": "3600"}
    terminal, ours = pty.openpty()
    with program.start("get", origin.url("/a"), stderr=ours) as running:
        os.close(ours)
        read_until(terminal, "waiting: ", "500")
        running.send_signal(signal.SIGINT)
        assert "interrupted; run the same command again" in read_to_end(terminal)
    assert running.returncode == 130


def test_quiet_on_a_terminal(program: Program, origin: Origin) -> None:
    """--quiet has no bars, either: a terminal sees the path only."""
    origin.serve("/a", Resource(blob(100_000)))
    shown = program.on_terminal("get", origin.url("/a"), "--quiet")
    assert Path(shown.strip()).read_bytes() == blob(100_000)
    assert "\x1b" not in shown


def test_verify_on_a_terminal(program: Program, origin: Origin) -> None:
    """The bar of `verify` gives way to its verdict."""
    origin.serve("/a", Resource(blob(100_000)))
    program("get", origin.url("/a"))
    assert "checked 1 contents, 97.7 KiB: all right" in program.on_terminal("verify")
