"""Fixtures that every kind of test shares."""

import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any, NoReturn

import pytest

import forebay
from clients import chromium, clients, node, tuspy_python  # noqa: F401 - fixtures
from forebay import Forebay
from origin import Origin


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    """With CI set, a skipped test is a failure: everything that it needs is installed there."""
    report = yield
    if os.environ.get("CI") and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped, but CI has everything: {report.longrepr}"
    return report


@pytest.fixture
def origin() -> Iterator[Origin]:
    """A started origin; leaving stops it and fails the test when a behaviour of its own failed."""
    with Origin() as running:
        yield running


@cache
def _empty_catalog() -> bytes:
    """A catalog with nothing in it: making one takes longer than most tests, and in a new process 0.1 s."""
    with tempfile.TemporaryDirectory() as folder:
        forebay.open(folder).close()
        return (Path(folder) / "catalog.sqlite").read_bytes()


def _furnish(folder: Path) -> None:
    """Have *folder*, when it is not there yet, one in which nothing was ever fetched."""
    if not folder.exists():
        folder.mkdir(mode=0o700, parents=True)
        catalog = folder / "catalog.sqlite"
        catalog.touch(mode=0o600)
        catalog.write_bytes(_empty_catalog())


# What every script of `spawn` finds: `ask`, its keyword arguments, and `say`, to tell the test something.
_PRELUDE = """
import faulthandler, json, signal, sys
faulthandler.register(signal.SIGUSR1)
ask = json.loads(sys.argv[1])
def say(**what):
    sys.stdout.write(json.dumps(what) + "\\n")  # in one piece, whoever is killed when
    sys.stdout.flush()
"""


class Child:
    """A real process in a process group of its own. What its script says are events to wait for."""

    def __init__(self, argv: Sequence[str], *, env: dict[str, str], stderr: Path) -> None:
        self._stderr = stderr
        self._said: list[dict[str, Any]] = []
        self._changed = threading.Condition()
        self._ended = False
        with stderr.open("w") as errors:
            self._process = subprocess.Popen(
                argv,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                start_new_session=True,
                env=env,
            )
        self.pid = self._process.pid
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            with self._changed:
                self._said.append(json.loads(line))
                self._changed.notify_all()
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    @property
    def ended(self) -> bool:
        """Whether it can say no more."""
        return self._ended

    def said(self) -> list[dict[str, Any]]:
        """What it said so far."""
        with self._changed:
            return list(self._said)

    def stderr(self) -> str:
        """What it wrote there so far."""
        return self._stderr.read_text(errors="replace")

    def wait_for(
        self, what: Callable[[list[dict[str, Any]]], Any], *, or_end: bool = False, timeout: float = 60
    ) -> list[dict[str, Any]]:
        """Wait until *what* is true of what it said; returns that. With *or_end*, until it ended at the
        latest; else that is an error which shows its stderr."""
        with self._changed:
            self._changed.wait_for(lambda: what(self._said) or self._ended, timeout)
            said = list(self._said)
            if what(said) or (or_end and self._ended):
                return said
        self.fail("waited in vain")

    def fail(self, why: str) -> NoReturn:
        """Fail the test; with what it said, and where its threads stand."""
        if self._process.poll() is None:
            self.signal(signal.SIGUSR1)
            self._reader.join(0.5)  # for the stacks to be written
        raise AssertionError(f"{why}; it said {self.said()} and on stderr:\n{self.stderr()}")

    def tell(self, **what: Any) -> None:
        """Give its stdin a line of JSON."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(what) + "\n")
        self._process.stdin.flush()

    def result(self, timeout: float = 120) -> list[dict[str, Any]]:
        """Wait for its good end; what it said."""
        try:
            code = self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            code = None
        if code != 0:
            ending = "did not end" if code is None else f"ended with {code}"
            self.fail(f"it {ending}")
        self._reader.join()
        return self.said()

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to its whole process group."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, number)

    def kill(self) -> None:
        """kill -9, and wait until it is gone. Harmless when it has ended."""
        if self._process.poll() is None:
            self.signal(signal.SIGKILL)
        self._process.wait()
        self._reader.join()

    def close(self) -> None:
        """`kill`, and close the pipes."""
        self.kill()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            with suppress(BrokenPipeError):
                pipe.close()


@pytest.fixture
def spawn(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Child]]:
    """``spawn(script, *, env=None, under=(), python=sys.executable, **ask)``: a `Child` that runs a Python
    script, as an argument of the command *under* if given. None outlives the test."""
    folder = tmp_path_factory.mktemp("children")
    children: list[Child] = []

    def start(
        script: str,
        *,
        env: dict[str, str] | None = None,
        under: Sequence[str] = (),
        python: str = sys.executable,
        **ask: Any,
    ) -> Child:
        name = folder / f"{len(children)}"
        source = name.with_suffix(".py")
        source.write_text(_PRELUDE + script)
        clean = {key: value for key, value in os.environ.items() if not key.startswith("FOREBAY_")}
        argv = [*under, python, str(source), json.dumps(ask, default=str)]
        child = Child(argv, env=clean | (env or {}), stderr=name.with_suffix(".err"))
        children.append(child)
        return child

    yield start
    for child in children:
        child.close()


@pytest.fixture
def make_bay(tmp_path: Path) -> Iterator[Callable[..., Forebay]]:
    """``make_bay(folder="bay", **settings)``: an open Forebay, impatient between attempts; closed when the test
    ends."""
    with ExitStack() as bays:

        def make(folder: str = "bay", **settings: Any) -> Forebay:
            _furnish(tmp_path / folder)
            return bays.enter_context(forebay.open(tmp_path / folder, **{"backoff_base_s": 0.01, **settings}))

        yield make


@pytest.fixture
def bay(make_bay: Callable[..., Forebay]) -> Forebay:
    """A Forebay with default settings but for its small waits."""
    return make_bay()


class Served:
    """A real `forebay serve` on a port of its own. *url* has no slash at its end."""

    def __init__(self, argv: Sequence[str], *, env: dict[str, str], stderr: Path, folder: Path) -> None:
        self.folder, self._stderr = folder, stderr
        with stderr.open("w") as errors:
            self.process = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stderr=errors, env=env, start_new_session=True
            )
        self.url = ""

    def wait(self, *, ready: bool = True) -> "Served":
        """Until it says where it listens; and is *ready*."""
        found = self.wait_to_say(r"^listening on (\S+)$")
        self.url = found[1]
        deadline = time.monotonic() + 60
        while ready and not self._is_ready():
            if time.monotonic() > deadline or self.process.poll() is not None:
                self.fail("it is not ready")
            time.sleep(0.02)
        return self

    def wait_to_say(self, pattern: str) -> re.Match[str]:
        """Until its stderr has a line like that."""
        deadline = time.monotonic() + 60
        while True:
            found = re.search(pattern, self.stderr(), re.MULTILINE)
            if found is not None:
                return found
            if time.monotonic() > deadline or self.process.poll() is not None:
                self.fail(f"it did not say {pattern}")
            time.sleep(0.02)  # a file cannot be waited for

    def _is_ready(self) -> bool:
        try:
            with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(
                f"{self.url}/readyz", timeout=30
            ):
                return True
        except urllib.error.HTTPError as error:
            error.close()
            return False

    def stderr(self) -> str:
        """What it wrote there so far."""
        return self._stderr.read_text(errors="replace")

    def fail(self, why: str) -> NoReturn:
        """Fail the test, with what it wrote."""
        raise AssertionError(f"{why}; it ended with {self.process.poll()} and wrote:\n{self.stderr()}")

    def stop(self, timeout: float = 60) -> int:
        """SIGTERM; its exit code."""
        self.process.terminate()
        return self.process.wait(timeout)

    def kill(self) -> None:
        """kill -9 of the main process alone: the others end with it."""
        self.process.kill()
        self.process.wait()

    def close(self) -> None:
        """End it and whatever it started, however it is."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def _start_server(
    options: Sequence[str],
    *,
    place: Path,
    env: dict[str, str],
    port: int,
    stderr: Path,
    under: Sequence[str] = (),
    data: bool = True,
) -> Served:
    clean = {key: value for key, value in os.environ.items() if not key.startswith("FOREBAY_")}
    quick = {"FOREBAY_BACKOFF_BASE_S": "0.01", "FOREBAY_ALLOW_PRIVATE": "true", "FOREBAY_WORKERS": "1"}
    argv = [sys.executable, "-m", "forebay", "serve", "--port", str(port), *options]
    if data:
        argv += ["--data", str(place)]
        _furnish(place)
    return Served([*under, *argv], env=clean | quick | env, stderr=stderr, folder=place)


@pytest.fixture
def serve(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Served]]:
    """``serve(*options, folder="served", env=None, port=0, under=(), wait=True, data=True)``: a `Served`, started and
    ready, that may fetch from loopback and is impatient between attempts; as an argument of the command *under* if
    given; without ``--data`` if *data* is false. None outlives the test."""
    logs = tmp_path_factory.mktemp("served")
    running: list[Served] = []

    def start(
        *options: str,
        folder: str | Path = "served",
        env: dict[str, str] | None = None,
        port: int = 0,
        under: Sequence[str] = (),
        wait: bool = True,
        data: bool = True,
    ) -> Served:
        place, log = tmp_path / folder, logs / f"{len(running)}.err"
        served = _start_server(options, place=place, env=env or {}, port=port, stderr=log, under=under, data=data)
        running.append(served)
        return served.wait() if wait else served

    yield start
    for served in running:
        served.close()


@pytest.fixture(scope="module")
def shared_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """One `Served` for the tests of a module, that may fetch from loopback; each origin has a port of its own."""
    yield from _shared((), tmp_path_factory.mktemp("shared"), {"FOREBAY_MAX_ATTEMPTS": "1"})


@pytest.fixture(scope="module")
def shared_pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """The same with two API processes, and an attempt more."""
    yield from _shared(("--workers", "2"), tmp_path_factory.mktemp("shared"), {"FOREBAY_MAX_ATTEMPTS": "2"})


def _shared(options: Sequence[str], folder: Path, env: dict[str, str]) -> Iterator[Served]:
    served = _start_server(options, place=folder / "data", env=env, port=0, stderr=folder / "err")
    try:
        yield served.wait()
    finally:
        served.close()


@pytest.fixture(scope="module")
def serve_shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Served]]:
    """``serve_shared(*options, env=None)``: a `Served` for the tests of a module, with the options that they need."""
    with ExitStack() as running:

        def start(*options: str, env: dict[str, str] | None = None) -> Served:
            folder = tmp_path_factory.mktemp("shared")
            usual = {"FOREBAY_MAX_ATTEMPTS": "1"}
            return running.enter_context(contextmanager(_shared)(options, folder, usual | (env or {})))

        yield start


@pytest.fixture
def certificate(tmp_path: Path) -> Iterator[tuple[Path, Path]]:
    """A certificate for localhost, and its key."""
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    argv = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    more = ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-keyout", str(key), "-out", str(cert)]
    subprocess.run([*argv, *more], check=True, capture_output=True)
    yield cert, key


_TIMES = {
    "requests": ("first_requested_at", "latest_requested_at", "checked_at", "confirmed_at", "next_due_at"),
    "responses": ("requested_at", "cached_at", "last_used_at", "deleted_at", "pinned_until"),
    "contents": ("stored_at", "rotten_at"),
}


@pytest.fixture
def let_pass() -> Callable[[Forebay, float], None]:
    """``let_pass(bay, seconds)``: time passes for a catalog, by moving every stored time back."""

    def move(bay: Forebay, seconds: float) -> None:
        with closing(sqlite3.connect(bay.folder / "catalog.sqlite", timeout=30)) as catalog, catalog:
            for table, columns in _TIMES.items():
                moved = ", ".join(f"{column} = {column} - {int(seconds * 1_000_000)}" for column in columns)
                catalog.execute(f"UPDATE {table} SET {moved}")

    return move
