"""The program as a whole: help, usage errors, exit codes, pipes, terminals. `Program` runs it for all CLI tests."""

import json
import os
import pty
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from origin import Origin, Resource, blob
from warm import warm

COMMANDS = ("get", "put", "ls", "log", "show", "tag", "pin", "rm", "config", "gc", "verify", "du", "token")


class Done(NamedTuple):
    """How a run ended. `out` and `err` are text; `raw` is stdout as bytes."""

    code: int
    raw: bytes
    err: str

    @property
    def out(self) -> str:
        return self.raw.decode()

    @property
    def lines(self) -> list[str]:
        return self.out.splitlines()

    @property
    def json(self) -> list[dict[str, Any]]:
        """One object a line."""
        return [json.loads(line) for line in self.lines]


class Program:
    """``python -m forebay`` with a data folder of its own, and with patience cut short; a fork of one that has imported
    it, unless it is given something to read, is to be seen on a terminal, or is let run."""

    def __init__(self, data: Path, **env: str) -> None:
        self.data = data
        self.env = {name: value for name, value in os.environ.items() if not name.startswith("FOREBAY_")}
        self.env.pop("NO_COLOR", None)
        self.env |= {
            "FOREBAY_DATA": str(data), "FOREBAY_MAX_ATTEMPTS": "2", "FOREBAY_BACKOFF_BASE_S": "0.001",
            "TERM": "xterm-256color", "COLUMNS": "120", "LINES": "40",
        } | env  # fmt: skip
        self.command = [sys.executable, "-m", "forebay"]

    def __call__(self, *arguments: str | Path, stdin: bytes = b"", code: int = 0, **env: str) -> Done:
        """Run it to its end, which must be exit code *code* and no traceback."""
        if stdin:
            ended = subprocess.run(
                [*self.command, *map(str, arguments)], input=stdin, capture_output=True, env=self.env | env
            )
            done = Done(ended.returncode, ended.stdout, ended.stderr.decode())
        else:
            ended_with, out, err = warm().run([*map(str, arguments)], env=self.env | env)
            done = Done(ended_with, out, err.decode())
        assert "Traceback" not in done.err
        assert done.code == code, done
        return done

    def start(self, *arguments: str | Path, **popen: Any) -> subprocess.Popen[bytes]:
        """Let it run."""
        return subprocess.Popen([*self.command, *map(str, arguments)], env=self.env, **popen)

    def on_terminal(self, *arguments: str | Path, **env: str) -> str:
        """What it writes when stdout and stderr are one terminal."""
        terminal, ours = pty.openpty()
        with subprocess.Popen([*self.command, *map(str, arguments)], env=self.env | env, stdout=ours, stderr=ours):
            os.close(ours)
            return read_to_end(terminal)


def read_to_end(terminal: int) -> str:
    """Everything that comes from a pty until its last user is gone; closes it."""
    seen = b""
    with os.fdopen(terminal, "rb", buffering=0) as file:
        while True:
            try:
                piece = file.read(65536)
            except OSError:  # Linux says EIO where others say end of file
                break
            if not piece:
                break
            seen += piece
    return seen.decode()


@pytest.fixture
def program(tmp_path: Path) -> Program:
    return Program(tmp_path / "data")


# --- help -------------------------------------------------------------------------------------------------


def test_help_lists_every_command(program: Program) -> None:
    """`--help` names each command, on stdout, with exit code 0."""
    done = program("--help")
    assert all(f" {command} " in done.out for command in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_has_an_example(program: Program, command: str) -> None:
    """The help of a command shows one that can be copied."""
    assert f"Example: forebay {command}" in program(command, "--help").out


def test_version_of_the_program(program: Program) -> None:
    """`--version` prints the name and the version, and touches no folder."""
    assert program("--version").out == "forebay 0.1.0\n"
    assert not program.data.exists()


def test_without_arguments_it_helps(program: Program) -> None:
    """The bare command shows the help, and exit code 1: nothing was done."""
    assert "Usage:" in program(code=1).out


# --- usage errors -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--frobnicate"], "--frobnicate"),
        (["frobnicate"], "frobnicate"),
        (["get", "--frobnicate"], "--frobnicate"),
        (["get", "https://example.org/", "--max-downloads", "many"], "--max-downloads"),
        (["get", "https://example.org/", "--per-host", "0"], "--per-host"),
        (["tag", "https://example.org/"], "TAG"),
        (["log"], "URL"),
    ],
)
def test_a_command_line_that_cannot_be_read(program: Program, arguments: list[str], named: str) -> None:
    """A usage error names what is wrong and where the help is; exit code 1, and stdout stays empty."""
    done = program(*arguments, code=1)
    assert done.err.startswith("error: ")
    assert named in done.err
    assert "[usage_invalid]" in done.err
    assert "--help` says" in done.err
    assert done.out == ""


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["get"], "URL"),
        (["get", "https://example.org/", "--quota", "lots"], "--quota"),
        (["get", "https://example.org/", "--refresh", "sometimes"], "refresh"),
        (["get", "https://example.org/", "--refresh", "cron:61 * * * *"], "refresh"),
        (["get", "https://example.org/", "--sha256", "abc"], "sha256"),
        (["get", "https://example.org/", "--hash", "crc32:abc"], "expected_hash"),
        (["get", "https://example.org/", "--allow-network", "home"], "allow_networks"),
        (["get", "https://example.org/", "-o", "no/such/folder/file"], "-o"),
        (["get", "https://example.org/", "-i", "no-such-list"], "-i"),
        (["get", "https://example.org/", "--json", "-o", "-"], "-o"),
        (["get", "https://example.org/a", "https://example.org/b", "--sha256", "0" * 64], "--sha256"),
        (["get", "https://example.org/a", "https://example.org/b", "-o", "file"], "-o"),
    ],
)
def test_a_value_that_breaks_its_rule(program: Program, arguments: list[str], named: str) -> None:
    """A bad value is refused before anything is fetched, naming the option and the rule; exit code 1."""
    done = program(*arguments, code=1)
    assert done.err.startswith(f"error: {named}")
    assert "expected" in done.err
    assert "[value_invalid]" in done.err
    assert done.out == ""


@pytest.mark.parametrize("command", ["get", "log", "show", "rm", "pin", "config"])
def test_a_url_without_a_scheme(program: Program, command: str) -> None:
    """`example.org/x` is an error that says to add https://, with the whole URL to copy."""
    program.data.mkdir()
    done = program(command, "example.org/x", code=1)
    assert "[url_invalid]" in done.err
    assert "hint: add https://, as in https://example.org/x" in done.err


# --- the folder -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["ls", "du", "gc", "verify"])
def test_a_folder_that_is_not_there(program: Program, tmp_path: Path, command: str) -> None:
    """Only `get` makes a folder: elsewhere a name that is not there is a slip, and stays not there."""
    done = program(command, "--data", tmp_path / "typo", code=1)
    assert "[value_invalid]" in done.err
    assert not (tmp_path / "typo").exists()


def test_the_folder_can_be_named_anywhere(program: Program, origin: Origin, tmp_path: Path) -> None:
    """`--data` before the command, behind it, and FOREBAY_DATA mean the same; the nearest wins."""
    origin.serve("/a", Resource(b"a"))
    program("get", origin.url("/a"), "--data", tmp_path / "one")
    assert program("--data", tmp_path / "one", "ls").lines
    assert program("ls", FOREBAY_DATA=str(tmp_path / "one")).lines
    assert program("--data", tmp_path / "typo", "ls", "--data", tmp_path / "one").lines
    assert not program.data.exists()


# --- pipes, terminals, start-up ---------------------------------------------------------------------------


def _with_closed_stdout(program: Program, *arguments: str) -> tuple[int, str]:
    reader, writer = os.pipe()
    os.close(reader)
    with program.start(*arguments, stdout=writer, stderr=subprocess.PIPE) as running:
        os.close(writer)
        _, err = running.communicate()
    return running.returncode, err.decode()


@pytest.mark.parametrize("more", [["-o", "-"], [], ["--json"]])
def test_a_closed_stdout_of_get(program: Program, origin: Origin, more: list[str]) -> None:
    """`forebay get … | head` ends quietly with what SIGPIPE would give, and what was fetched is kept."""
    url = origin.url("/a")
    origin.serve("/a", Resource(blob(1_000_000)))
    code, err = _with_closed_stdout(program, "get", url, "--quiet", *more)
    assert (code, err) == (141, "")
    assert program("ls").lines[0].startswith(url)


def test_a_closed_stdout_of_ls(program: Program, origin: Origin) -> None:
    """`forebay ls | head` ends quietly, too."""
    origin.serve("/a", Resource(b"a"))
    program("get", origin.url("/a"))
    assert _with_closed_stdout(program, "ls") == (141, "")


def test_colour_only_where_it_is_wanted(program: Program) -> None:
    """A terminal gets colour; with NO_COLOR, on a dumb terminal, or in a pipe there is not one escape."""
    assert "\x1b[31merror:\x1b[0m" in program.on_terminal("get", "x")
    assert "\x1b" not in program.on_terminal("get", "x", NO_COLOR="1")
    assert "\x1b" not in program.on_terminal("get", "x", TERM="dumb")
    assert "\x1b" not in program("get", "x", code=1).err


def test_a_table_on_a_terminal(program: Program, origin: Origin) -> None:
    """A terminal gets columns under headings; a pipe gets tabs and no headings."""
    origin.serve("/a", Resource(b"a"))
    program("get", origin.url("/a"))
    first, second = program.on_terminal("ls", TERM="dumb").splitlines()
    assert first.split() == ["URL", "SIZE", "VERSIONS", "LATEST", "PINNED"]
    assert second.split()[:4] == [origin.url("/a"), "1", "B", "1"]
    (line,) = program("ls").lines
    assert line.split("\t")[:3] == [origin.url("/a"), "1 B", "1"]


def _modules_after(program: Program, *arguments: str) -> set[str]:
    """What is imported when a command has ended."""
    code = (
        "import sys\nfrom forebay.cli import main\n"
        "try:\n    main()\nexcept SystemExit:\n    print(*sys.modules, file=sys.stderr)"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code, *arguments], env=program.env, capture_output=True, text=True, check=True
    )
    return set(ended.stderr.splitlines()[-1].split())


def test_help_imports_little(program: Program) -> None:
    """`--help` loads neither the database nor the HTTP library: it is there at once."""
    assert not _modules_after(program, "--help") & {"sqlalchemy", "pycurl", "alembic", "forebay.bay"}


def test_get_imports_no_rich_without_a_terminal(program: Program, origin: Origin) -> None:
    """What draws bars is loaded only where someone sees them."""
    origin.serve("/a", Resource(b"a"))
    modules = _modules_after(program, "get", origin.url("/a"))
    assert "forebay.bay" in modules
    assert "rich" not in modules
