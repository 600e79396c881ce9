"""`forebay serve` as processes: how it starts, what it refuses, how it ends, and who dies with whom."""

import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from origin import Held, Origin, Resource, Stall, blob

Serve = Callable[..., Any]


def children(pid: int) -> dict[int, str]:
    """The processes that *pid* has started, and theirs, with their command lines."""
    listed = subprocess.run(
        ["ps", "-A", "-ww", "-o", "pid=,ppid=,args="], capture_output=True, text=True, check=True
    )
    rows = [line.split(None, 2) for line in listed.stdout.splitlines()]
    found: dict[int, str] = {}
    wanted = {pid}
    while wanted:
        wanted = {int(row[0]) for row in rows if int(row[1]) in wanted and int(row[0]) not in found}
        found |= {int(row[0]): row[2] for row in rows if int(row[0]) in wanted}
    return found


def the_one(pid: int, word: str) -> int:
    """The process of *pid* with that word in its command line."""
    (found,) = [child for child, command in children(pid).items() if word in command]
    return found


def wait_until_gone(pids: list[int]) -> None:
    """Return when none of *pids* is alive."""
    for pid in pids:
        with suppress(ProcessLookupError):
            while True:
                os.kill(pid, 0)
                if (
                    "Z"
                    in subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True).stdout
                ):
                    break  # dead, and nobody's: its parent is


def stall(origin: Origin, body: bytes, *, after: int) -> Stall:
    """Serve *body* at ``/f``, but no more than *after* bytes of it before its `event` is set."""
    return origin.serve("/f", Stall(Resource(body), after, threading.Event()))


def client(served: Any) -> httpx.Client:
    """A client that keeps no connection."""
    limits = httpx.Limits(max_keepalive_connections=0)
    return httpx.Client(base_url=served.url, timeout=60, trust_env=False, limits=limits)


def fetch(served: Any, url: str) -> dict[str, Any]:
    """The version of *url* that the server has fetched."""
    with client(served) as http:
        request_id = http.put("/v1/request/", json={"url": url}).json()["id"]
        answer = http.post(f"/v1/request/{request_id}/fetch", json={"wait_sec": 30})
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()["response"]
        return found


# --- start ------------------------------------------------------------------------------------------------


def test_it_says_where_it_is_and_how_to_try_it(serve: Serve) -> None:
    """stdout stays empty; the first line on stderr is the address."""
    served = serve()
    served.wait_to_say(r"^API: ")
    first, *rest = served.stderr().splitlines()
    assert first == f"listening on {served.url}"
    assert f"data: {served.folder}" in rest
    assert any(line.startswith(f"try: curl {served.url}/r/https://") for line in rest)


def complains(served: Any, *, code: int) -> str:
    """What a server says that could not start."""
    assert served.process.wait(60) == code
    said: str = served.stderr()
    assert len([line for line in said.splitlines() if line.startswith("error: ")]) == 1, said
    assert "Traceback" not in said
    return said


def test_a_port_that_is_taken_is_refused(serve: Serve, tmp_path: Path) -> None:
    """Also by another server of ours, whose processes share theirs."""
    port = int(serve().url.rpartition(":")[2])
    assert "choose another with --port" in complains(serve(port=port, folder="other", wait=False), code=1)
    with closing(socket.create_server(("127.0.0.1", 0))) as other:
        taken = other.getsockname()[1]
        assert f"port {taken}" in complains(serve(port=taken, folder="other", wait=False), code=1)


def test_an_address_that_others_reach_needs_a_token(serve: Serve, tmp_path: Path) -> None:
    """Or --insecure, said on purpose."""
    said = complains(serve("--host", "0.0.0.0", wait=False), code=1)
    assert "forebay token add" in said
    assert "--insecure" in said
    argv = [sys.executable, "-m", "forebay", "token", "add", "me", "--scope", "read"]
    subprocess.run([*argv, "--data", str(tmp_path / "served")], check=True, capture_output=True)
    with_token = serve("--host", "0.0.0.0")
    assert with_token.url.startswith("http://127.0.0.1:")
    assert f'try: curl -H "Authorization: Bearer $FOREBAY_TOKEN" {with_token.url}/r/' in with_token.stderr()
    assert serve("--host", "0.0.0.0", "--insecure", folder="open").stop() == 0


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (("--host", "203.0.113.1", "--insecure"), "203.0.113.1"),
        (("--host", "no such host"), "host"),
        (("--allow-host", "a b"), "allow_hosts"),
        (("--allow-origin", "app.example.org"), "allow_origins"),
        (("--tls-cert", "missing.pem", "--tls-key", "missing.pem"), "tls_cert"),
        (("--tls-cert", "only.pem"), "tls_key"),
        (("--allow-network", "10.0.0.0/99"), "10.0.0.0/99"),
        (("--workers", "1000"), "workers"),
    ],
)
def test_what_cannot_be_is_one_sentence(serve: Serve, options: tuple[str, ...], word: str) -> None:
    """With the name of what is wrong, and the exit code of what the caller can change."""
    assert word in complains(serve(*options, wait=False), code=1)


def test_a_folder_that_cannot_be_is_ours_to_tell(serve: Serve, tmp_path: Path) -> None:
    """A file is where the folder should be."""
    (tmp_path / "file").write_text("")
    assert "file" in complains(serve(folder="file", wait=False), code=2)


def test_https_with_http_1_and_2(serve: Serve, certificate: tuple[Path, Path]) -> None:
    """ALPN decides."""
    cert, key = certificate
    served = serve("--tls-cert", str(cert), "--tls-key", str(key), wait=False)
    url = served.wait(ready=False).url
    assert url.startswith("https://")
    context = ssl.create_default_context(cafile=str(cert))
    with httpx.Client(base_url=url, verify=context, trust_env=False) as http:
        assert http.get("/healthz").json() == {"status": "ok"}
    context.set_alpn_protocols(["h2"])
    host, _, port = url.removeprefix("https://").rpartition(":")
    with (
        socket.create_connection((host, int(port))) as plain,
        context.wrap_socket(plain, server_hostname=host) as tls,
    ):
        assert tls.selected_alpn_protocol() == "h2"


def test_origins_on_private_networks_are_refused_by_default(serve: Serve, origin: Origin) -> None:
    """Whoever reaches the server could reach them: unlike on the command line, they must be allowed."""
    origin.serve("/f", Resource(b"content"))
    for served, allowed in (
        (serve(env={"FOREBAY_ALLOW_PRIVATE": ""}), False),
        (serve("--allow-network", "127.0.0.0/8", env={"FOREBAY_ALLOW_PRIVATE": ""}, folder="network"), True),
        (serve("--no-allow-private", folder="no"), False),
        (serve("--allow-private", env={"FOREBAY_ALLOW_PRIVATE": "false"}, folder="private"), True),
    ):
        with client(served) as http:
            request_id = http.put("/v1/request/", json={"url": origin.url("/f")}).json()["id"]
            answer = http.post(f"/v1/request/{request_id}/fetch", json={"wait_sec": 30})
        assert answer.status_code == (200 if allowed else 403), answer.text
        if not allowed:
            assert answer.json()["code"] == "origin_refused"
        served.stop()


def test_several_processes_answer_for_one_folder(serve: Serve, origin: Origin) -> None:
    """Whichever accepts knows what the others were told, and a cold URL costs one GET."""
    held = origin.serve("/f", Held(Resource(b"content")))
    served = serve("--workers", "3")
    assert len([c for c in children(served.process.pid).values() if "spawn_main" in c]) == 3
    done: list[dict[str, Any]] = []
    threads = [threading.Thread(target=lambda: done.append(fetch(served, origin.url("/f")))) for _ in range(12)]
    for thread in threads:
        thread.start()
    held.arrived()
    held.release()
    for thread in threads:
        thread.join(60)
    assert len({found["version"] for found in done}) == 1
    assert len(done) == 12
    assert len(origin.requests("/f")) == 1


def test_two_servers_share_a_folder(serve: Serve, origin: Origin) -> None:
    """What one was asked for the other has; one GET for both, also when the one whose worker ran it dies."""
    body = blob(3_000_000)
    stalled = stall(origin, body, after=2_000_000)
    servers = [serve(), serve()]
    assert servers[0].folder == servers[1].folder
    found: list[dict[str, Any]] = []

    def ask(served: Any) -> None:
        with suppress(httpx.TransportError):  # the one that is killed
            found.append(fetch(served, origin.url("/f")))

    asking = [threading.Thread(target=ask, args=(served,)) for served in servers]
    for thread in asking:
        thread.start()
    assert stalled.reached.wait(30)
    with client(servers[0]) as http:
        (request,) = http.get("/v1/request/").json()
        assert http.get(f"/v1/request/{request['id']}/response/latest").json()["status"] in ("wait", "in_progress")
    # Whichever of the two workers has it: after this only the other server is left.
    survivor = servers[1]
    servers[0].kill()
    stalled.event.set()
    for thread in asking:
        thread.join(60)
    assert survivor.stop() == 0
    assert [version["content_attributes"]["content_size_bytes"] for version in found] == [len(body)]
    assert len({version["version"] for version in found}) == 1


def test_what_fails_in_the_storage_names_no_folder(serve: Serve, origin: Origin, tmp_path: Path) -> None:
    """Neither to who asks, nor to who reads of it or asks for that version later; the log has all of it."""
    origin.serve("/f", Resource(blob(4_000_000)))
    served = serve(under=("sh", "-c", 'ulimit -f 2048; exec "$@"', "sh"))  # no file larger than 1 MiB
    with client(served) as http:
        request_id = http.put("/v1/request/", json={"url": origin.url("/f")}).json()["id"]
        asked = http.post("/v1/fetch", json={"request": {"url": origin.url("/f")}, "wait_sec": 30})
        version, *_ = http.get(f"/v1/request/{request_id}/response").json()
        content = http.get(f"/v1/request/{request_id}/response/v/{version['version']}/content")
    assert version["download_stats"]["error_code"] == "disk_full"
    for answer in (asked, content):
        assert (answer.status_code, answer.json()["code"]) == (507, "disk_full")
        assert str(tmp_path) not in answer.text
    assert str(tmp_path) not in str(version)
    served.wait_to_say(f"no space left in {tmp_path}")
    assert served.stop() == 0


# --- who dies with whom -----------------------------------------------------------------------------------


def test_a_fetch_worker_that_is_killed_is_started_again(serve: Serve, origin: Origin) -> None:
    """And goes on where the killed one was: whoever waits has the content."""
    body = blob(3_000_000)
    stalled = stall(origin, body, after=2_000_000)
    served = serve()
    found: list[dict[str, Any]] = []
    waiting = threading.Thread(target=lambda: found.append(fetch(served, origin.url("/f"))))
    waiting.start()
    assert stalled.reached.wait(30)
    killed = the_one(served.process.pid, "forebay worker")
    os.kill(killed, signal.SIGKILL)
    served.wait_to_say("the fetch worker ended with signal 9; it is started again")
    stalled.event.set()
    waiting.join(60)
    assert found[0]["content_attributes"]["content_size_bytes"] == len(body)
    assert the_one(served.process.pid, "forebay worker") != killed
    assert served.stop() == 0


def test_asks_for_one_slow_host_hold_up_no_other(serve: Serve, origin: Origin) -> None:
    """However many: a cold read of another one is answered meanwhile."""
    held = origin.serve("/slow", Held(Resource(b"slow")))
    served = serve(env={"FOREBAY_MAX_DOWNLOADS": "4", "FOREBAY_MAX_DOWNLOADS_PER_HOST": "2"})
    with Origin() as other, client(served) as http:
        other.serve("/good", Resource(b"good"))
        for number in range(60):
            assert http.put("/v1/request/", json={"url": origin.url(f"/slow?{number}")}).status_code == 201
        held.arrived(2)
        assert http.get(f"/r/{other.url('/good')}").content == b"good"
    held.release()
    assert served.stop() == 0


def test_an_api_process_that_is_killed_is_started_again(serve: Serve) -> None:
    """The others answer meanwhile."""
    served = serve("--workers", "2")
    before = {pid for pid, command in children(served.process.pid).items() if "spawn_main" in command}
    os.kill(min(before), signal.SIGKILL)
    while True:
        now = {pid for pid, command in children(served.process.pid).items() if "spawn_main" in command}
        if len(now) == 2 and min(before) not in now:
            break
    with client(served) as http:
        for _ in range(20):
            with suppress(httpx.TransportError):  # a connection that the dead one had not accepted yet
                assert http.get("/readyz").status_code == 200
    assert served.stop() == 0


def test_nothing_outlives_a_server_that_is_killed(serve: Serve, origin: Origin) -> None:
    """Its port is free at once; the next server on the folder resumes what ran."""
    stalled = stall(origin, blob(3_000_000), after=2_000_000)
    served = serve("--workers", "2")
    with client(served) as http:
        http.put("/v1/request/", json={"url": origin.url("/f")})
    assert stalled.reached.wait(30)
    started = list(children(served.process.pid))
    assert len(started) >= 3
    served.kill()
    wait_until_gone(started)
    stalled.event.set()
    again = serve(port=int(served.url.rpartition(":")[2]))
    assert again.url == served.url
    assert fetch(again, origin.url("/f"))["content_attributes"]["content_size_bytes"] == 3_000_000


def test_sigterm_lets_answers_end(serve: Serve, origin: Origin) -> None:
    """A reader in the middle of what lands gets all of it, then the server is gone; exit code 0."""
    body = blob(2_000_000)
    stalled = stall(origin, body, after=1_000_000)
    served = serve()
    with client(served) as http, http.stream("GET", f"/r/{origin.url('/f')}") as answer:
        assert answer.status_code == 200
        pieces = answer.iter_bytes()
        got = next(pieces)
        served.process.terminate()
        port = int(served.url.rpartition(":")[2])
        while True:  # nobody new is let in
            try:
                socket.create_connection(("127.0.0.1", port), timeout=5).close()
            except OSError:
                break
        stalled.event.set()
        assert got + b"".join(pieces) == body
    assert served.process.wait(60) == 0
    assert "Traceback" not in served.stderr()


def test_an_answer_that_does_not_end_is_broken_off(serve: Serve, origin: Origin) -> None:
    """After the limit; the fetch is suspended and the next server resumes it."""
    stalled = stall(origin, blob(3_000_000), after=2_000_000)
    served = serve(env={"FOREBAY_DRAIN_S": "1"})
    with client(served) as http, http.stream("GET", f"/r/{origin.url('/f')}") as answer:
        pieces = answer.iter_bytes()
        next(pieces)
        assert served.stop() == 0
        with pytest.raises(httpx.TransportError):
            for _ in pieces:
                pass
    stalled.event.set()
    assert fetch(serve(), origin.url("/f"))["content_attributes"]["content_size_bytes"] == 3_000_000
    assert origin.requests("/f")[-1].fields["range"].startswith("bytes=")


def test_a_second_signal_ends_at_once(serve: Serve, origin: Origin) -> None:
    """Whatever still runs; nothing is left."""
    stalled = stall(origin, blob(2_000_000), after=1_000_000)
    served = serve(env={"FOREBAY_DRAIN_S": "600"})
    with client(served) as http, http.stream("GET", f"/r/{origin.url('/f')}") as answer:
        next(answer.iter_bytes())
        started = list(children(served.process.pid))
        served.process.send_signal(signal.SIGINT)
        port = int(served.url.rpartition(":")[2])
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=5).close()
            except OSError:
                break
        served.process.send_signal(signal.SIGINT)
        assert served.process.wait(60) == 128 + signal.SIGINT
        wait_until_gone(started)
    stalled.event.set()


def test_a_worker_alone_fetches_what_is_due(tmp_path: Path, origin: Origin) -> None:
    """`forebay worker` on a folder; SIGTERM suspends, exit code 0."""
    origin.serve("/f", Resource(b"content"))
    folder = str(tmp_path / "data")
    env = {**os.environ, "FOREBAY_ALLOW_PRIVATE": "true"}
    script = "import sys, forebay; bay = forebay.open(sys.argv[1]); bay.catalog.find_or_create([forebay.RequestSpec(url=sys.argv[2])], now=0)"
    subprocess.run([sys.executable, "-c", script, folder, origin.url("/f")], check=True, env=env)
    argv = [sys.executable, "-m", "forebay", "worker", "--data", folder]
    with subprocess.Popen(argv, env=env) as worker:
        origin.wait_for(1, "/f")
        worker.terminate()
        assert worker.wait(60) == 0


# --- bounds -----------------------------------------------------------------------------------------------


def test_heads_and_bodies_are_bounded(serve: Serve) -> None:
    """431 for a head and 413 for a body that are too large, before they are read; 400 for no HTTP."""
    served = serve()
    host, _, port = served.url.removeprefix("http://").rpartition(":")

    def says(data: bytes) -> bytes:
        with socket.create_connection((host, int(port)), timeout=30) as plain:
            plain.sendall(data)
            return plain.recv(65536).partition(b"\r\n")[0]

    start = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n"
    assert says(start + b"X: " + b"x" * 1_000_000 + b"\r\n\r\n").startswith(b"HTTP/1.1 431 ")
    assert says(start + b"X: y\r\n" * 500 + b"\r\n").startswith(b"HTTP/1.1 431 ")
    assert says(b"NO HTTP\r\n\r\n").startswith(b"HTTP/1.1 400 ")
    put = b"PUT /v1/request/ HTTP/1.1\r\nHost: localhost\r\n"
    assert says(put + b"Content-Length: 2000000\r\n\r\n").startswith(b"HTTP/1.1 413 ")
    chunked = b"Transfer-Encoding: chunked\r\n\r\n" + b"100000\r\n" + b"x" * 0x100000 + b"\r\n10\r\n"
    assert says(put + chunked + b"x" * 16 + b"\r\n0\r\n\r\n").startswith(b"HTTP/1.1 413 ")
    assert says(put + b"Content-Length: 2\r\n\r\n{}").startswith(b"HTTP/1.1 422 ")


def test_whoever_goes_in_the_middle_of_a_body_is_let_go(serve: Serve) -> None:
    """Nothing is logged, and the server answers on."""
    served = serve()
    host, _, port = served.url.removeprefix("http://").rpartition(":")
    for _ in range(3):
        with socket.create_connection((host, int(port)), timeout=30) as plain:
            plain.sendall(b"PUT /v1/request/ HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{")
    with client(served) as http:
        assert http.get("/readyz").status_code == 200
    assert served.stop() == 0
    assert "this should not happen" not in served.stderr()
