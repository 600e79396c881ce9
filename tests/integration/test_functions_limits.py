"""How long a call may take, how many there may be, what becomes of who goes away, and of what fails halfway."""

import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import httpx
import pytest

from processes import PROC, api_processes
from raw import Cut, dial

FUNCTIONS = Path(__file__).parents[1] / "exposed.py"
MIB = 1 << 20


@pytest.fixture(scope="module")
def served(serve_shared: Any) -> Any:
    """One server for the module."""
    return serve_shared("--functions", str(FUNCTIONS))


@pytest.fixture
def http(served: Any) -> Iterator[httpx.Client]:
    """A client of it."""
    with httpx.Client(base_url=served.url, timeout=60, trust_env=False) as client:
        yield client


def code(answer: httpx.Response) -> tuple[int, str]:
    """Status and code of a problem."""
    assert answer.headers["content-type"] == "application/problem+json", answer.text
    return answer.status_code, answer.json()["code"]


def wait_for_note(http: httpx.Client, note: str, *, times: int = 1) -> list[str]:
    """Until functions have noted it so many *times*; all notes."""
    deadline = time.monotonic() + 60
    noted: list[str] = []
    while noted.count(note) < times:
        assert time.monotonic() < deadline, noted
        time.sleep(0.02)  # what another process does cannot be waited for
        noted = http.get("/v1/call/noted").json()
    return noted


# --- time -------------------------------------------------------------------------------------------------


def test_a_function_that_takes_too_long_is_cancelled(http: httpx.Client) -> None:
    """504, which may be tried again, with the id of a log entry."""
    answer = http.get("/v1/call/late")
    assert code(answer) == (504, "function_timeout")
    assert answer.json()["retryable"] is True
    assert "0.2 s" in answer.json()["detail"]
    assert "id" in answer.json()
    wait_for_note(http, "late ended")


def test_a_generator_that_takes_too_long_is_given_up(http: httpx.Client) -> None:
    """As another function; it is closed when its piece is made."""
    assert code(http.get("/v1/call/late_pieces?wait_s=0.5")) == (504, "function_timeout")
    wait_for_note(http, "late pieces ended")


def test_what_a_thread_writes_too_late_goes_nowhere(http: httpx.Client) -> None:
    """It cannot be stopped, but learns that nobody listens; the connection stays as it was."""
    assert code(http.get("/v1/call/late_in_a_thread")) == (504, "function_timeout")
    assert http.post("/v1/call/let_go").status_code == 204
    wait_for_note(http, "ClientGone")
    assert http.get("/v1/call/text").text == "x" * 1024


def test_a_function_that_stops_going_on_is_broken_off(serve: Any) -> None:
    """Once its answer has begun, nothing else is left."""
    env = {"FOREBAY_FUNCTION_STALL_LIMIT_S": "0.3"}
    served = serve("--functions", str(FUNCTIONS), env=env)
    with dial(served.url, "GET", "/v1/call/silent") as answer:
        assert answer.read(5) == b"begun"
        with pytest.raises(Cut):
            answer.rest()
    served.wait_to_say(r"/v1/call/silent: expected the answer to go on within 0\.3 s")


def test_a_reader_that_takes_nothing_is_broken_off(serve: Any) -> None:
    """It would keep its function for ever."""
    env = {"FOREBAY_FUNCTION_STALL_LIMIT_S": "0.3"}
    served = serve("--functions", str(FUNCTIONS), env=env)
    with (
        dial(served.url, "GET", "/v1/call/endless?name=stalled") as answer,
        httpx.Client(base_url=served.url, timeout=60, trust_env=False) as http,
    ):
        answer.read(1)
        wait_for_note(http, "stalled: ClientGone")


# --- numbers ------------------------------------------------------------------------------------------------


def test_beyond_threads_and_queue_calls_are_refused(serve: Any) -> None:
    """503, with when to try again; coroutines and everything else go on."""
    env = {"FOREBAY_FUNCTION_THREADS": "2", "FOREBAY_FUNCTION_QUEUE": "1"}
    served = serve("--functions", str(FUNCTIONS), env=env)
    with (
        httpx.Client(base_url=served.url, timeout=60, trust_env=False) as http,
        ThreadPoolExecutor(8) as pool,
    ):
        holding = [pool.submit(http.get, "/v1/call/hold") for _ in range(8)]
        refused = [future.result() for future in _first(holding, 5)]
        assert [code(answer) for answer in refused] == [(503, "functions_busy")] * 5
        assert all(answer.headers["retry-after"] == "1" for answer in refused)
        assert wait_for_note(http, "held", times=2) == ["held"] * 2
        assert http.get("/readyz").status_code == 200
        assert http.post("/v1/call/let_go").status_code == 204
        assert sorted(future.result().status_code for future in holding) == [200] * 3 + [503] * 5
        assert http.get("/v1/call/text").status_code == 200


def test_generators_wait_for_threads_as_well(serve: Any) -> None:
    """Their first pieces do; what goes on is not refused."""
    env = {"FOREBAY_FUNCTION_THREADS": "2", "FOREBAY_FUNCTION_QUEUE": "1"}
    served = serve("--functions", str(FUNCTIONS), env=env)
    with (
        httpx.Client(base_url=served.url, timeout=60, trust_env=False) as http,
        ThreadPoolExecutor(8) as pool,
    ):
        holding = [pool.submit(http.get, "/v1/call/hold_pieces") for _ in range(8)]
        refused = [future.result() for future in _first(holding, 5)]
        assert [code(answer) for answer in refused] == [(503, "functions_busy")] * 5
        assert http.post("/v1/call/let_go").status_code == 204
        assert (
            sorted(future.result().text for future in holding if future.result().status_code == 200) == ["held"] * 3
        )


def test_a_generator_that_never_goes_on_does_not_keep_the_server(serve: Any) -> None:
    """It ends when it is told to."""
    served = serve("--functions", str(FUNCTIONS), env={"FOREBAY_DRAIN_S": "600"})
    with httpx.Client(base_url=served.url, timeout=60, trust_env=False) as http:
        assert code(http.get("/v1/call/late_pieces?wait_s=900")) == (504, "function_timeout")
    assert served.stop() == 0


def _first(futures: list[Any], count: int) -> list[Any]:
    """The first *count* of *futures* to end."""
    done: set[Any] = set()
    left = set(futures)
    while len(done) < count:
        ended, left = wait(left, timeout=60, return_when=FIRST_COMPLETED)
        assert ended
        done |= ended
    return list(done)


def test_a_body_that_is_too_large_is_refused(serve: Any) -> None:
    """Told or found out, parsed here or read by the function; the connection goes on where it can."""
    env = {"FOREBAY_FUNCTION_BODY_BYTES": "10000"}
    served = serve("--functions", str(FUNCTIONS), env=env)
    large = b"x" * 20_000
    with httpx.Client(base_url=served.url, timeout=60, trust_env=False) as http:
        for path, ask in (
            ("report", {"json": {"year": "1" * 20_000}}),
            ("report", {"data": {"year": "1" * 20_000}}),
            ("uploaded", {"files": {"file": large}}),
            ("letters", {"content": large}),
            ("letters", {"content": iter([large[:9000], large[:9000]])}),
        ):
            answer = http.post(f"/v1/call/{path}", **ask)  # type: ignore[arg-type]
            assert code(answer) == (413, "body_too_large"), path
        assert http.post("/v1/call/letters", content=b"x" * 9000).json() == 9000


def test_who_breaks_off_a_body_leaves_nothing(http: httpx.Client, served: Any) -> None:
    """Neither a call nor an entry in the log."""
    before = served.stderr()
    port = int(served.url.rpartition(":")[2])
    for path, kind in (
        ("report", "application/json"),
        ("uploaded", "multipart/form-data; boundary=x"),
        ("letters", "a/b"),
    ):
        with socket.create_connection(("127.0.0.1", port)) as connection:
            head = f"POST /v1/call/{path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind}\r\nContent-Length: 9999\r\n\r\n"
            connection.sendall(head.encode() + b"[1")
        assert http.get("/v1/call/noted").status_code == 200
    assert served.stderr() == before


# --- clients that go away -------------------------------------------------------------------------------------


def test_who_goes_away_cancels_a_coroutine(http: httpx.Client, served: Any) -> None:
    """Before anything was sent."""
    with dial_quietly(served, "/v1/call/waiting?name=gone"):
        wait_for_note(http, "gone began")
    wait_for_note(http, "gone ended")


@pytest.mark.parametrize(
    ("name", "note"),
    [
        ("endless", "gone: ClientGone"),
        ("endless_pieces", "endless_pieces closed"),
        ("endless_apieces", "endless_apieces closed"),
    ],
)
def test_who_goes_away_ends_a_stream(http: httpx.Client, served: Any, name: str, note: str) -> None:
    """A writer at its next flush, an iterator where it stands."""
    with dial(served.url, "GET", f"/v1/call/{name}?name={note.partition(':')[0].partition(' ')[0]}") as answer:
        answer.read(1000)
    wait_for_note(http, note)


class dial_quietly:  # noqa: N801 - as `dial`, which waits for a head that does not come here
    """A connection that has asked, and hangs up."""

    def __init__(self, served: Any, target: str) -> None:
        self._curl = subprocess.Popen(["curl", "-s", served.url + target], stdout=subprocess.DEVNULL)

    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None:
        self._curl.kill()
        self._curl.wait()


# --- failing halfway --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["half", "half_written"])
def test_no_client_takes_a_half_for_the_whole(http: httpx.Client, served: Any, name: str) -> None:
    """A function that fails after the head was sent breaks the connection off: with a length and without."""
    with dial(served.url, "GET", f"/v1/call/{name}") as answer, pytest.raises(Cut) as cut:
        answer.rest()
    assert cut.value.body == b"half"
    with pytest.raises(httpx.RemoteProtocolError):
        http.get(f"/v1/call/{name}")
    curl = subprocess.run(["curl", "-s", f"{served.url}/v1/call/{name}"], capture_output=True)
    assert curl.returncode in (18, 52)  # cut, perhaps before the head that was held back went out
    served.wait_to_say(rf"/v1/call/{name}: hunter2 \[[0-9a-f]+\]")


@pytest.mark.parametrize("version", ["--http1.1", "--http2"])
def test_real_clients_over_tls_get_what_was_written(
    serve: Any, certificate: tuple[Path, Path], tmp_path: Path, version: str
) -> None:
    """HTTP/1.1 and HTTP/2: whole answers, streams, uploads; and no half for the whole."""
    cert, key = certificate
    served = serve("--functions", str(FUNCTIONS), "--tls-cert", str(cert), "--tls-key", str(key), wait=False)
    served.wait(ready=False)

    def curl(*argv: str) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            ["curl", "-s", "--cacert", str(cert), version, *argv], capture_output=True, timeout=60
        )

    base = f"https://localhost:{served.url.rpartition(':')[2]}/v1/call"
    assert curl(f"{base}/text").stdout == b"x" * 1024
    body = b"".join(bytes([number]) * MIB for number in range(3))
    assert curl(f"{base}/written?mib=3").stdout == body
    (tmp_path / "f").write_bytes(body)
    sent = curl("-F", f"file=@{tmp_path / 'f'};type=a/b", f"{base}/uploaded").stdout
    assert sent == b'["",["f","a/b",3145728,"00000000"]]'
    assert (
        curl("--data-binary", f"@{tmp_path / 'f'}", "-H", "Content-Type: a/b", f"{base}/letters").stdout
        == b"3145728"
    )
    for name in ("half", "half_written"):
        assert curl(f"{base}/{name}").returncode in (18, 92)  # 92: the HTTP/2 stream was reset
    head = curl("-I", f"{base}/text").stdout
    assert head.startswith(b"HTTP/2 200" if version == "--http2" else b"HTTP/1.1 200")
    with httpx.Client(verify=ssl.create_default_context(cafile=str(cert)), trust_env=False) as http:
        assert http.get(f"{base}/rows?count=1000").text.count("\r\n") == 1000


# --- memory -----------------------------------------------------------------------------------------------------


@PROC
@pytest.mark.parametrize("target", ["written?mib=256", "rows?count=1000000"])
def test_a_stream_takes_no_memory(served: Any, target: str) -> None:
    """However much goes out, written and flushed or yielded: less than 64 MiB more than before."""
    (process,) = api_processes(served.process.pid)
    with dial(served.url, "GET", "/v1/call/written?mib=8") as answer:
        answer.rest()
    before = process.rss_bytes()
    process.forget_peak()
    with dial(served.url, "GET", f"/v1/call/{target}") as answer:
        size = len(answer.rest())
    assert size > 24 * MIB
    assert process.peak_bytes() - before < 64 * MIB


@PROC
def test_a_slow_reader_takes_no_memory(served: Any) -> None:
    """What it has not taken yet is not written yet."""
    (process,) = api_processes(served.process.pid)
    before = process.rss_bytes()
    process.forget_peak()
    with dial(served.url, "GET", "/v1/call/written?mib=1024") as answer:
        for _ in range(64):
            answer.read(65536)
    assert process.peak_bytes() - before < 64 * MIB
