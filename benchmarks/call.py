"""What calling a function costs, and what streaming takes. Peer: the same function in a bare Starlette, on granian.

Both servers run on one core, the load on another: wrk for requests per second of a function that returns 1 KiB of
text, as a coroutine and as a function that runs in a thread. Then 1 GiB goes out of a `BufferedServerResponse`,
flushed MiB by MiB, to a reader that takes what comes and to one that takes 1 MB/s: the memory of the API process.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import socket
import sys
import tempfile
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from harness import Contest, Run, check, need
from serve import LOAD_CORE, REQUESTS, SERVERS_CORE, api_memory_mib, on_core, wrk
from servers import Server, forebay_server, free_port, running

_WANTED = 0.60
_MEMORY_WANTED_MIB = 64
_SLOW_BYTES_PER_S = 1_000_000
_TEXT = "x" * 1024

_FUNCTIONS = f"""
import forebay
from forebay import BufferedServerResponse, OutgoingMessage

bay = forebay.open("data")
TEXT = {_TEXT!r}
PIECE = bytes(1 << 20)

@bay.expose(get=True)
async def text() -> OutgoingMessage:
    return OutgoingMessage(TEXT)

@bay.expose(get=True)
def text_in_a_thread() -> OutgoingMessage:
    return OutgoingMessage(TEXT)

@bay.expose(get=True)
async def text_as_json() -> str:
    return TEXT

@bay.expose(get=True)
def written(mib: int, response: BufferedServerResponse) -> None:
    for _ in range(mib):
        response.write(PIECE)
        response.flush()
"""

_STARLETTE = f"""
from starlette.applications import Starlette
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.routing import Route

TEXT = {_TEXT!r}

async def text(request):
    return PlainTextResponse(TEXT)

def text_in_a_thread(request):
    return PlainTextResponse(TEXT)

async def text_as_json(request):
    return JSONResponse(TEXT)

calls = (text, text_in_a_thread, text_as_json)
app = Starlette(routes=[Route("/v1/call/" + call.__name__, call) for call in calls])
"""


@contextlib.contextmanager
def starlette_server(folder: Path) -> Iterator[str]:
    """A bare Starlette with the same functions, on the server that ours runs on; gives its URL."""
    folder.mkdir()
    (folder / "app.py").write_text(_STARLETTE)
    port = free_port()
    argv = [sys.executable, "-m", "granian", "--interface", "asgi", "--port", str(port), "--workers", "1"]
    argv += ["--no-ws", "--http", "1", "--loop", "asyncio", "--log-level", "error", "app:app"]
    with running(argv, port=port, log=folder / "log"):
        yield f"http://127.0.0.1:{port}"


def fetched(url: str) -> bytes:
    """The body of an answer."""
    with urllib.request.urlopen(url, timeout=60) as answer:
        body: bytes = answer.read()
        return body


def stream(server: Server, mib: int, *, bytes_per_s: int | None, seconds: float) -> None:
    """Take *mib*, or what comes in so many *seconds*; tell what the API process had of memory at most."""
    parts = urllib.parse.urlsplit(server.url)
    before, _ = api_memory_mib(server)
    most = before
    with on_core(LOAD_CORE), socket.create_connection((parts.hostname, parts.port), timeout=60) as connection:
        ask = f"GET /v1/call/written?mib={mib} HTTP/1.1\r\nHost: {parts.netloc}\r\nConnection: close\r\n\r\n"
        connection.sendall(ask.encode())
        began, taken, room, looked_at = time.perf_counter(), 0, bytearray(1 << 20), 0.0
        while time.perf_counter() - began < seconds:
            want = len(room) if bytes_per_s is None else bytes_per_s // 20
            got = connection.recv_into(room, want)
            if not got:
                break
            taken += got
            now = time.perf_counter()
            if now - looked_at > 0.5:
                most, looked_at = max(most, api_memory_mib(server)[0]), now
            if bytes_per_s is not None:
                time.sleep(max(0.0, began + taken / bytes_per_s - time.perf_counter()))
        took = time.perf_counter() - began
    most = max(most, api_memory_mib(server)[0])
    if bytes_per_s is None and taken < mib << 20:
        sys.exit(f"it ended after {taken} bytes")
    reader = (
        "a reader that takes what comes" if bytes_per_s is None else f"one that takes {bytes_per_s / 1e6:g} MB/s"
    )
    rate = taken / (1 << 20) / took
    print(
        f"  {taken / (1 << 20):7.0f} MiB of {mib} to {reader}: {took:.1f} s, {rate:,.0f} MiB/s; memory "
        f"{before:.1f} MiB before, {most:.1f} MiB at most (wanted: {_MEMORY_WANTED_MIB} more at most)"
    )


def main() -> None:
    """Run the contests, then the streams."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--seconds", type=int, default=2, help="how long wrk runs")
    parser.add_argument("--connections", type=int, default=16)
    parser.add_argument("--mib", type=int, default=1024)
    parser.add_argument("--slow-seconds", type=float, default=60.0, help="how long the slow reader reads")
    options = parser.parse_args()
    need("wrk")
    if os.cpu_count() == 1:
        sys.exit("it takes two cores: one for the server, one for the load")
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=Path.cwd())))
        functions = folder / "functions.py"
        functions.write_text(_FUNCTIONS)
        with on_core(SERVERS_CORE):
            peer = stack.enter_context(starlette_server(folder / "starlette"))
            argv = ("--workers", "1", "--functions", str(functions))
            server = stack.enter_context(forebay_server(folder / "ours", *argv))
        for name in ("text", "text_in_a_thread", "text_as_json"):
            urls = {"forebay": f"{server.url}/v1/call/{name}", "starlette": f"{peer}/v1/call/{name}"}
            bodies = {fetched(url) for url in urls.values()}
            check(str(len(bodies)), "1", name)

            def load(url: str) -> Run:
                return wrk(url, seconds=options.seconds, connections=options.connections)

            contest = Contest(
                f"{name}: 1 KiB, {options.connections} connections, {REQUESTS:,} requests; wanted: {_WANTED:.2f}",
                options.rounds,
                {title: (lambda url=url: load(url)) for title, url in urls.items()},
            )
            contest.run()
            contest.report(against=["starlette"], work=REQUESTS, unit="/s")
        print(f"\n{options.mib} MiB out of a BufferedServerResponse")
        stream(server, options.mib, bytes_per_s=None, seconds=600)
        stream(server, options.mib, bytes_per_s=_SLOW_BYTES_PER_S, seconds=options.slow_seconds)


if __name__ == "__main__":
    main()
