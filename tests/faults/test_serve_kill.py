"""kill -9 of a server, or of a part of it, at any instant: whoever reads tries again and gets the right bytes.

What is killed is a real `forebay serve`; those who read know each byte that they should get.
"""

import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import forebay
from origin import Drip, Exchange, Origin, Resource, Stall, blob
from processes import PROC, api_processes, family, fetch_worker, wait_until_ended
from raw import Cut, dial

pytestmark = [pytest.mark.faults, PROC]

Serve = Callable[..., Any]
MIB = 1 << 20
SEED = int(os.environ.get("FAULTS_SEED", "20261121"))


# --- who reads --------------------------------------------------------------------------------------------


class Crowd:
    """Readers of one server, and where that is."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.url = ""  # it is down
        self.readers: list[Reader] = []

    def tell(self, url: str) -> None:
        """The server is at *url*; or, with none, down."""
        with self.changed:
            self.url = url
            self.changed.notify_all()

    def wait_for(self, what: Callable[["Reader"], bool], timeout: float = 120) -> None:
        """Until *what* is true of all readers. Raises what one of them found wrong."""

        def errors() -> list[BaseException]:
            return [reader.error for reader in self.readers if reader.error is not None]

        with self.changed:
            met = self.changed.wait_for(lambda: errors() or all(map(what, self.readers)), timeout)
        if errors():
            raise errors()[0]
        assert met, [f"{reader.target}: at {reader.at}, cut {reader.cuts} times" for reader in self.readers]

    def finish(self) -> None:
        """Until each has all that it wanted."""
        self.wait_for(lambda reader: reader.done)
        for reader in self.readers:
            reader.thread.join()


class Reader:
    """Reads *target*, which is *body*. Whenever it is cut off it tries again: from where it was, if it *resumes*."""

    def __init__(self, crowd: Crowd, target: str, body: bytes, *, resumes: bool) -> None:
        self.crowd, self.target, self.body, self.resumes = crowd, target, body, resumes
        self.at = self.cuts = 0
        self.etag = ""
        self.done = False
        self.error: BaseException | None = None
        crowd.readers.append(self)
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        try:
            while not self.done:
                with self.crowd.changed:
                    self.crowd.changed.wait_for(lambda: self.crowd.url)
                    url = self.crowd.url
                try:
                    self._read(url)
                except (Cut, OSError):
                    self.cuts += 1
                    self._tell()
        except BaseException as error:
            self.error = error
        self._tell()

    def _tell(self) -> None:
        with self.crowd.changed:
            self.crowd.changed.notify_all()

    def _read(self, url: str) -> None:
        goes_on = [("Range", f"bytes={self.at}-"), ("If-Range", self.etag)] if self.at and self.resumes else []
        with dial(url, "GET", self.target, *goes_on) as answer:
            if answer.status == 206:
                assert answer.fields["etag"] == self.etag
                assert answer.fields["content-range"].startswith(f"bytes {self.at}-")
            else:
                assert answer.status == 200, (answer.status, answer.rest())
                self.at, self.etag = 0, answer.fields["etag"]
            while piece := answer.some():
                assert self.body.startswith(piece, self.at), f"{self.target}: wrong from {self.at} on"
                self.at += len(piece)
                self._tell()
        assert self.at == len(self.body), f"{self.target}: a short success of {self.at} bytes"
        self.done = True


def port_of(url: str) -> int:
    return int(url.rpartition(":")[2])


def kill_all(served: Any) -> None:
    """kill -9 of all its processes at once; return when they are gone."""
    members = family(served.process.pid)
    os.killpg(served.process.pid, signal.SIGKILL)
    served.process.wait()
    wait_until_ended(members)


def verify(folder: Path) -> None:
    """`forebay verify` finds nothing damaged, and nothing is left half done."""
    argv = [sys.executable, "-m", "forebay", "verify", "--data", str(folder)]
    done = subprocess.run(argv, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# --- the server as a whole --------------------------------------------------------------------------------


def test_fifty_read_and_ten_are_fetched(serve: Serve, origin: Origin) -> None:
    """All processes are killed while fifty clients read what ten fetches bring: each sees that its answer is cut,
    and its next one, from a new server on the folder and the port, has the right bytes. The fetches go on where
    they were; the origin sends nothing twice."""
    go_on = threading.Event()
    bodies = {f"/{number}": blob(3 * MIB + number, number) for number in range(10)}
    stalls = {
        path: origin.serve(path, Stall(Resource(body), 2 * MIB, go_on, times=1)) for path, body in bodies.items()
    }
    options = {"FOREBAY_MAX_DOWNLOADS_PER_HOST": "10", "FOREBAY_WORKERS": "2"}
    served = serve(env=options)
    crowd = Crowd()
    crowd.tell(served.url)
    for number in range(50):
        path = f"/{number % 10}"
        Reader(crowd, f"/r/{origin.url(path)}", bodies[path], resumes=number % 20 < 10)
    for stall in stalls.values():
        assert stall.reached.wait(60)
    crowd.wait_for(lambda reader: reader.at == 2 * MIB)
    crowd.tell("")
    kill_all(served)
    crowd.wait_for(lambda reader: reader.cuts == 1)
    again = serve(env=options, port=port_of(served.url))
    assert again.url == served.url
    go_on.set()
    crowd.tell(again.url)
    crowd.finish()
    assert again.stop() == 0
    for path in bodies:
        asked = [request.fields.get("range") for request in origin.requests(path)]
        assert asked == [None, f"bytes={2 * MIB}-"]
    verify(served.folder)
    with forebay.open(served.folder) as bay:
        for path in bodies:
            assert [version.status for version in bay.versions(origin.url(path))] == ["ready"]


class Tap:
    """Lets a number of pieces through, and no more."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._left: float = 0

    def acquire(self, *, timeout: float) -> bool:
        """Let one piece through."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._left > 0, timeout):
                return False
            self._left -= 1
            self._changed.notify_all()
            return True

    def let(self, pieces: float) -> None:
        """Let so many more through, and return when the last one goes; without end: at once."""
        with self._changed:
            self._left += pieces
            self._changed.notify_all()
            if pieces != float("inf"):
                assert self._changed.wait_for(lambda: self._left == 0, 60), f"{self._left} pieces were not fetched"


def chunked(body: bytes, tap: Tap) -> Callable[[Exchange], None]:
    """*body* without a length, which cannot be gone on with."""

    def behave(exchange: Exchange) -> None:
        exchange.send_head(200, [("Content-Type", "text/plain"), ("Transfer-Encoding", "chunked")])
        for start in range(0, len(body), 256 << 10):
            exchange.acquire(tap)
            piece = body[start : start + (256 << 10)]
            exchange.send(b"%x\r\n%b\r\n" % (len(piece), piece))
        exchange.send(b"0\r\n\r\n")

    return behave


# Who is killed in one life of a server. Its API processes may not die too often: that ends it (see below).
LIVES = [
    ["all"],
    ["main"],
    ["fetching", "fetching", "main"],
    ["answering", "all"],
    ["fetching", "answering", "main"],
]


def test_any_process_is_killed_at_any_instant(serve: Serve, origin: Origin) -> None:
    """Again and again one of the server's processes, or all, are killed in the middle of something. No reader ever
    takes a part for the whole, or gets a wrong byte; in the end all have all, and nothing is damaged."""
    chance, tap, crowd = random.Random(SEED), Tap(), Crowd()
    bodies = {f"/{number}": blob(4 * MIB + number, number) for number in range(8)}
    for number, (path, body) in enumerate(bodies.items()):
        origin.serve(path, Drip(Resource(body), 256 << 10, tap) if number % 4 else chunked(body, tap))
    options = {"FOREBAY_MAX_DOWNLOADS_PER_HOST": "8", "FOREBAY_WORKERS": "2"}
    served = serve(env=options)
    crowd.tell(served.url)
    for number in range(24):
        path = f"/{number % 8}"
        Reader(crowd, f"/r/{origin.url(path)}", bodies[path], resumes=number % 2 == 0)
    chance.shuffle(LIVES)
    for victim in [victim for life in LIVES for victim in life]:
        tap.let(chance.randrange(1, 12))
        crowd.tell("")
        match victim:
            case "all":
                kill_all(served)
            case "main":
                members = family(served.process.pid)
                served.kill()
                wait_until_ended(members)
            case "fetching":
                served.wait()  # what was let through may have gone to one that had just been killed
                os.kill(fetch_worker(served.process.pid).pid, signal.SIGKILL)
                served.wait_to_say("the fetch worker ended with signal 9")
            case "answering":
                killed = chance.choice(api_processes(served.process.pid))
                os.kill(killed.pid, signal.SIGKILL)
                wait_until_ended([killed])
        if victim in ("all", "main"):
            served = serve(env=options, port=port_of(served.url))
        crowd.tell(served.url)
    assert all(reader.cuts for reader in crowd.readers)
    tap.let(float("inf"))
    crowd.finish()
    assert served.stop() == 0
    verify(served.folder)


# --- signals ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP, signal.SIGTERM])
def test_what_a_terminal_sends_reaches_every_process(number: signal.Signals, serve: Serve, origin: Origin) -> None:
    """Ctrl-C, or the end of the terminal: answers under way come to their end all the same, nobody new is let in,
    nothing is left and nothing is complained of."""
    body = blob(2 * MIB)
    stall = origin.serve("/f", Stall(Resource(body), MIB, threading.Event()))
    served = serve("--workers", "2")
    members = family(served.process.pid)
    with dial(served.url, "GET", f"/r/{origin.url('/f')}") as answer:
        got = answer.read(MIB)
        os.killpg(served.process.pid, number)
        while True:
            try:
                dial(served.url, "GET", "/healthz").close()
            except (OSError, Cut):
                break
        stall.event.set()
        assert got + answer.rest() == body
    assert served.process.wait(60) == 0
    wait_until_ended(members)
    assert len(served.stderr().splitlines()) == 4, served.stderr()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_server_that_has_just_started_ends_well(number: signal.Signals, serve: Serve) -> None:
    """All its processes are told to, and some do not answer yet: none waits for what will never come, or has
    ended before it was meant to."""
    for _ in range(2):
        served = serve("--workers", "3", env={"FOREBAY_DRAIN_S": "600"}, wait=False)
        served.wait(ready=False)
        members = family(served.process.pid)
        os.killpg(served.process.pid, number)
        assert served.process.wait(60) == 0, served.stderr()
        assert "Traceback" not in served.stderr()
        wait_until_ended(members)


def test_nohup_outlives_its_terminal(serve: Serve) -> None:
    """Whoever ignores that signal when it is started goes on doing so."""
    served = serve(under=["nohup"])
    before = family(served.process.pid)
    os.killpg(served.process.pid, signal.SIGHUP)
    with dial(served.url, "GET", "/readyz") as answer:
        assert answer.status == 200
    assert family(served.process.pid) == before
    assert served.stop() == 0


def test_api_processes_that_die_again_and_again_end_the_server(serve: Serve) -> None:
    """With a sentence, an exit code of ours, and nothing left: whoever started it may start it anew."""
    served = serve()
    killed: set[int] = set()
    while served.process.poll() is None:
        for process in api_processes(served.process.pid):
            if process.pid not in killed:
                killed.add(process.pid)
                members = family(served.process.pid)
                os.kill(process.pid, signal.SIGKILL)
    assert served.process.wait() == 2
    assert len(killed) == 2
    assert "had just been started anew ended again; the server ends" in served.stderr()
    assert "Traceback" not in served.stderr()
    wait_until_ended(members)
