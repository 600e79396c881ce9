"""1,000,000 Requests: find-or-create, the next due one, and what an idle scheduler costs."""

from __future__ import annotations

import argparse
import os
import random
import sqlite3
import statistics
import tempfile
import time
import uuid
from pathlib import Path

import forebay
from forebay.catalog.catalog import Catalog
from forebay.catalog.database import Database
from forebay.catalog.frontier import Frontier
from forebay.models import RequestSpec


def fill(path: Path, count: int, now: float) -> None:
    """*count* Requests, spread over 1,000 hosts, due in one to six hours; written behind the API's back."""
    database = sqlite3.connect(path)
    configuration = RequestSpec(url="http://x/").cache_configuration.model_dump_json()

    def rows() -> object:
        for number in range(count):
            url = f"http://host{number % 1000}.example/file/{number}"
            due = int((now + 3600 + random.random() * 18000) * 1e6)
            at = int(now * 1e6)
            spec = RequestSpec(url=url)
            yield (
                uuid.uuid4().hex, spec.signature(), url, "get", "http", "default", "", "", "sha256", configuration,
                f"http://host{number % 1000}.example:80", at, at, at, at, due,
            )  # fmt: skip

    database.executemany(
        "INSERT INTO requests (id, signature, url, http_method, source, group_name, description,"
        " documentation_link, validation_hash_type, cache_configuration, host, first_requested_at,"
        " latest_requested_at, checked_at, confirmed_at, next_due_at) VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)",
        rows(),  # type: ignore[arg-type]
    )
    database.commit()
    database.execute("ANALYZE")
    database.close()


def timed(title: str, calls: list[float]) -> None:
    """Print a row in milliseconds."""
    calls.sort()
    middle, worst = statistics.median(calls) * 1e3, calls[int(len(calls) * 0.99)] * 1e3
    print(f"  {title:34} p50 {middle:7.3f} ms  p99 {worst:7.3f} ms")


def main() -> None:
    """Fill a catalog and measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=1_000_000)
    parser.add_argument("--idle-seconds", type=float, default=10)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as work:
        forebay.open(work).close()
        path = Path(work) / "catalog.sqlite"
        fill(path, options.requests, time.time())
        database = Database(path)
        catalog, frontier = Catalog(database), Frontier(database)
        print(f"\n{options.requests:,} Requests in SQLite")

        def clock(call: object, *arguments: object) -> float:
            began = time.perf_counter()
            call(*arguments)  # type: ignore[operator]
            return time.perf_counter() - began

        def find(number: int) -> None:
            url = f"http://host{number % 1000}.example/file/{number}"
            (found,) = catalog.find_or_create([RequestSpec(url=url)], now=time.time())
            assert not found.created, url

        def create(number: int) -> None:
            (made,) = catalog.find_or_create([RequestSpec(url=f"http://new.example/{number}")], now=time.time())
            assert made.created

        timed("find", [clock(find, random.randrange(options.requests)) for _ in range(2000)])
        timed("create", [clock(create, number) for number in range(2000)])
        timed(
            "the next due one", [clock(lambda: frontier.due(now=time.time() + 30000, limit=1)) for _ in range(500)]
        )
        timed("when the next is due", [clock(frontier.next_due_at) for _ in range(500)])
        database.close()
        _idle(work, options.idle_seconds)


def _idle(folder: str, seconds: float) -> None:
    """CPU of a process whose scheduler has nothing due."""
    with sqlite3.connect(Path(folder) / "catalog.sqlite") as database:
        database.execute("DELETE FROM requests WHERE url LIKE 'http://new.example/%'")  # due since their creation
    database.close()
    with forebay.open(folder) as bay:
        scheduler = bay.scheduler()
        scheduler.start()
        time.sleep(5)  # it reads every row once when it starts
        before = os.times()
        time.sleep(seconds)
        after = os.times()
        scheduler.stop()
    used = (after.user - before.user) + (after.system - before.system)
    print(f"  {'an idle scheduler':34} {100 * used / seconds:.3f} % of a core")


if __name__ == "__main__":
    main()
