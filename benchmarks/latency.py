"""A cold 1 MiB file: from `bay.fetch()` to a durable version. Beside it curl as a process, to compare with."""

from __future__ import annotations

import argparse
import hashlib
import statistics
import tempfile
import time
from pathlib import Path

import forebay
from harness import check, need, nginx, process, random_file, sha256_of


def main() -> None:
    """Fetch again and again, each time another URL of the same file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=100)
    options = parser.parse_args()
    need("nginx", "curl")
    ours: list[float] = []
    theirs: list[float] = []
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as work, nginx(Path(work)) as url:
        folder = Path(work)
        digest = random_file(folder / "one", 1 << 20)
        with forebay.open(folder / "bay") as bay:
            for number in range(options.rounds):
                began = time.perf_counter()
                response = bay.fetch(f"{url}/one?{number}")
                ours.append((time.perf_counter() - began) * 1e3)
                with bay.open(response) as file:
                    check(hashlib.sha256(file.read()).hexdigest(), digest, "the version")
                theirs.append(process(["curl", "-s", "-o", str(folder / "out"), f"{url}/one"]).seconds * 1e3)
                check(sha256_of(folder / "out"), digest, "curl's file")
    print(f"\n1 MiB, cold, to a durable version ({options.rounds} rounds)")
    for name, values in (("bay.fetch", ours), ("curl -o (a process)", theirs)):
        middle, worst = statistics.median(values), sorted(values)[int(len(values) * 0.99)]
        print(f"  {name:22} p50 {middle:7.2f} ms  p99 {worst:7.2f} ms  min {min(values):7.2f} ms")


if __name__ == "__main__":
    main()
