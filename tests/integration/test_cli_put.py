"""`forebay put`: names on stdout, the rest on stderr, whatever becomes of the files."""

import os
import pty
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from test_cli_program import Program, read_to_end
from test_cli_terminal import interruptible

from conftest import Served
from origin import blob
from raw import ask
from wire import Wire

MIB = 1 << 20
LARGE = 33 * MIB
CUT = 20 * MIB


@pytest.fixture
def program(tmp_path: Path) -> Program:
    return Program(tmp_path / "data", FOREBAY_CACHE=str(tmp_path / "cache"))


@pytest.fixture
def a(tmp_path: Path) -> Path:
    path = tmp_path / "a.csv"
    path.write_bytes(b"x,y\n1,2\n")
    return path


def test_put_prints_the_name_that_it_has(program: Program, a: Path) -> None:
    """On stdout alone; `get`, `show` and `log` take it."""
    done = program("put", a, "--tag", "raw")
    assert done.lines == ["forebay:a.csv"]
    assert done.err.startswith("a.csv  8 B  sha256 ")
    assert program("get", "forebay:a.csv", "-o", "-").raw == a.read_bytes()
    (shown,) = program("show", "forebay:a.csv", "--tag", "raw", "--json").json
    assert shown["content_attributes"]["filename"] == "a.csv"
    assert program("put", a, "--quiet").err == ""


def test_stdin_needs_a_name(program: Program) -> None:
    """And is put under it."""
    assert program("put", "-", "--name", "from/stdin", stdin=b"hello").lines == ["forebay:from/stdin"]
    assert program("get", "forebay:from/stdin", "-o", "-").raw == b"hello"
    assert "--name: expected a name for what comes from stdin" in program("put", "-", stdin=b"hello", code=1).err


def test_several_files(program: Program, a: Path, tmp_path: Path) -> None:
    """Each under its own name, also when another one cannot be; the exit code is that of the worst."""
    other = tmp_path / "b.csv"
    other.write_bytes(b"other")
    assert program("put", a, other).lines == ["forebay:a.csv", "forebay:b.csv"]
    done = program("put", a, tmp_path / "none", other, "--json", code=1)
    assert [line.get("url") for line in done.json] == ["forebay:a.csv", None, "forebay:b.csv"]
    assert done.json[1]["error"]["code"] == "value_invalid"
    assert "no such file or directory" in done.err
    assert "is a directory" in program("put", tmp_path, code=1).err
    assert "--name: expected one file" in program("put", a, other, "--name", "x", code=1).err


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--tag", "!"], "tag: expected"),
        (["--name", ""], "name: expected"),
        (["--parallel", "2"], "--parallel: expected"),
        (["--server", "http://127.0.0.1:1"], "cannot be reached"),
    ],
)
def test_what_cannot_be_asked(program: Program, a: Path, options: list[str], expected: str) -> None:
    """Is one sentence, with its code."""
    code = 2 if "--server" in options else 1
    done = program("put", a, *options, code=code)
    assert done.out == ""
    assert done.err.count("\n") == 1
    assert expected in done.err


def test_a_server_that_refuses(program: Program, serve: Callable[..., Served], tmp_path: Path, a: Path) -> None:
    """Says why, with its stable code: 1 for what the caller has too much of, 2 for a full disk."""
    served = serve(env={"FOREBAY_MAX_UPLOAD_BYTES": "10"})
    large = tmp_path / "large"
    large.write_bytes(blob(11))
    assert "[upload_too_large]" in program("put", large, "--server", served.url, code=1).err
    served.stop()
    served = serve(env={"FOREBAY_MIN_FREE_DISK_BYTES": "1000T"})
    assert "[disk_reserved]" in program("put", a, "--server", served.url, code=2).err


def test_ctrl_c_leaves_what_can_be_resumed(program: Program, shared_server: Served, tmp_path: Path) -> None:
    """SIGINT ends it with one line and exit code 130; the same command goes on there."""
    large = tmp_path / "large.bin"
    large.write_bytes(blob(LARGE))
    with Wire(shared_server.url) as wire:
        options = ["put", large, "--server", wire.url]
        running = interruptible(program).start(*options, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        wire.cut_after_sent(CUT, then=lambda: (running.send_signal(signal.SIGINT), running.wait()))
        out, err = running.communicate()
        wire.wait_for_cut()
        assert (running.returncode, out) == (130, b"")
        assert err.decode() == "interrupted; run the same command again to resume\n"
        before = wire.sent
        done = program(*options)
        assert "resumed " in done.err
        assert wire.sent - before < LARGE - MIB
    assert ask(shared_server.url, "GET", "/r/forebay:large.bin").body == blob(LARGE)


def test_a_cut_says_how_to_go_on(program: Program, shared_server: Served, tmp_path: Path) -> None:
    """When the server stays away."""
    large = tmp_path / "cut.bin"
    large.write_bytes(blob(LARGE))
    with Wire(shared_server.url) as wire:
        wire.cut_after_sent(CUT, then=wire.refuse)
        done = program("put", large, "--server", wire.url, code=2)
        assert "hint: what has arrived there is kept" in done.err


def test_a_bar_moves_while_a_file_is_sent(program: Program, shared_server: Served, tmp_path: Path) -> None:
    """On a terminal, with the name and how much is there; it is gone at the end."""
    large = tmp_path / "large.bin"
    large.write_bytes(blob(LARGE))
    with Wire(shared_server.url) as wire:
        terminal, ours = pty.openpty()
        running = program.start("put", large, "--server", wire.url, "--name", "bar", stdout=ours, stderr=ours)
        os.close(ours)
        seen = read_to_end(terminal)
        running.wait()
    assert running.returncode == 0
    assert "large.bin" in seen
    assert "/33.0 MiB" in seen
    assert "forebay:bar" in seen.splitlines()[-1]
