"""What a server costs that has nothing to do: 1,000 Requests, all stored, all due in an hour.

Beside it DZDBuffy 0.7.3's own server with the same Requests. CPU of all processes of each, its redis too.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

from harness import need, nginx
from servers import Server, api, buffy_python, buffy_server, forebay_server

# DZDBuffy begins one download a host and tick; many hosts spare us the wait.
_HOSTS = 50


def fill(server: Server, urls: list[str]) -> None:
    """Register *urls* and wait until each has a version."""
    ids = []
    for url in urls:
        strategy = {"strategy_name": "age", "seconds": 3600}
        body = {"url": url, "group_name": "idle", "cache_configuration": {"recaching_strategy": strategy}}
        _, made = api(server, "PUT", "request/", body)
        assert made is not None
        ids.append(made["id"])
    give_up = time.monotonic() + 900
    while ids:
        status, _ = api(server, "GET", f"request/{ids[-1]}/response/latest?status=ready")
        if status == 200:
            ids.pop()
        elif time.monotonic() > give_up:
            sys.exit(f"{len(ids)} of {len(urls)} are not fetched after a quarter of an hour")
        else:
            time.sleep(0.5)


def idle(name: str, start: Callable[[], AbstractContextManager[Server]], urls: list[str], seconds: float) -> float:
    """Print and return the share of a core that a filled server takes."""
    with start() as server:
        fill(server, urls)
        time.sleep(10)  # what the fetches left to be tidied up is not idleness
        before, began = server.cpu_seconds(), time.monotonic()
        time.sleep(seconds)
        share = 100 * (server.cpu_seconds() - before) / (time.monotonic() - began)
    print(f"  {name:34} {share:8.3f} % of a core")
    return share


def main() -> None:
    """Measure one after the other, each alone on the machine."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=60)
    options = parser.parse_args()
    need("nginx", "redis-server")
    hosts = [f"127.0.0.{number}" for number in range(1, _HOSTS + 1)]
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as work, nginx(Path(work), hosts=hosts) as origin:
        folder = Path(work)
        python = buffy_python(folder / "buffy")
        (folder / "small").write_bytes(os.urandom(1024))
        port = origin.rpartition(":")[2]
        urls = [f"http://{hosts[n % _HOSTS]}:{port}/small?{n}" for n in range(options.requests)]
        print(f"\nidle with {options.requests:,} Requests due in an hour, {options.seconds:g} s")
        ours = idle("forebay serve", lambda: forebay_server(folder / "ours"), urls, options.seconds)
        theirs = idle(
            "DZDBuffy's server with its redis",
            lambda: buffy_server(folder / "theirs", python),
            urls,
            options.seconds,
        )
        print(f"  forebay serve : DZDBuffy's server = {ours / theirs:.5f}")


if __name__ == "__main__":
    main()
