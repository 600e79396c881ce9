"""2,000 files of 4 KiB from one host over 16 connections, each a durable version. Peer: curl --parallel.

curl syncs nothing. What syncing alone costs is shown beside it: the same files written and synced by 16 threads,
without network, digest or catalog.
"""

from __future__ import annotations

import argparse
import itertools
import json
import tempfile
from pathlib import Path

from harness import Contest, Run, check, need, nginx, process, python, random_file, sha256_of, warm_memory

FETCH = """
import json, sys, time, forebay
url, folder, wanted = sys.argv[1], sys.argv[2], json.load(open(sys.argv[3]))
bay = forebay.open(folder, max_downloads=16, max_downloads_per_host=16)
began = time.perf_counter()
got = {one.url: one for one in bay.fetch_many(f"{url}/{name}" for name in wanted)}
print(time.perf_counter() - began)
for name, digest in wanted.items():
    assert got[f"{url}/{name}"].response.content_attributes.sha256 == digest, name
assert bay.verify().rotten == []
bay.close()
"""

SYNC = """
import os, sys, time
from concurrent.futures import ThreadPoolExecutor
folder, count, data = sys.argv[1], int(sys.argv[2]), os.urandom(4096)
os.mkdir(folder)
def store(number):
    file = os.open(f"{folder}/{number}", os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    os.write(file, data)
    os.fsync(file)
    os.close(file)
began = time.perf_counter()
with ThreadPoolExecutor(16) as pool:
    list(pool.map(store, range(count)))
print(time.perf_counter() - began)
"""


def main() -> None:
    """Run the contest."""

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    need("nginx", "curl")
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as work, nginx(Path(work)) as url:
        folder = Path(work)
        digests = {f"f{number}": random_file(folder / f"f{number}", 4096) for number in range(options.files)}
        wanted, config, numbers = folder / "wanted.json", folder / "curl.txt", itertools.count()
        wanted.write_text(json.dumps(digests))

        def fresh() -> Path:
            # Nothing is removed between runs: ext4 searches long for an inode that was not freed just now.
            return folder / str(next(numbers))

        def forebay_fetch() -> Run:
            return python(FETCH, url, str(fresh()), str(wanted))

        def curl() -> Run:
            out = fresh()
            out.mkdir()
            config.write_text("".join(f'url="{url}/{name}"\noutput="{out}/{name}"\n' for name in digests))
            run = process(["curl", "-s", "-f", "--parallel", "--parallel-max", "16", "-K", str(config)])
            for name, digest in digests.items():
                check(sha256_of(out / name), digest, name)
            return run

        warm_memory(folder)
        contest = Contest(
            f"{options.files} files of 4 KiB over 16 connections",
            options.rounds,
            {
                "forebay (hashed, durable)": forebay_fetch,
                "curl --parallel": curl,
                "written and synced, nothing else": lambda: python(SYNC, str(fresh()), str(options.files)),
            },
        )
        contest.run()
        contest.report(against=["curl --parallel"], work=options.files, unit="files/s")


if __name__ == "__main__":
    main()
