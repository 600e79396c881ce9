"""1 GiB over loopback: stored, hashed with SHA-256, durable. Peers: curl, curl | sha256sum, aria2 -x1."""

from __future__ import annotations

import argparse
import itertools
import tempfile
from pathlib import Path

from harness import Contest, Run, check, need, nginx, process, python, random_file, sha256_of, warm_memory

FETCH = """
import sys, time, forebay
bay = forebay.open(sys.argv[2])
began = time.perf_counter()
response = bay.fetch(sys.argv[1])
print(time.perf_counter() - began)
assert response.content_attributes.sha256 == sys.argv[3], "the bytes are wrong"
bay.close()
"""


def main() -> None:
    """Run the contest."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mib", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    need("nginx", "curl", "aria2c", "sha256sum")
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as work, nginx(Path(work)) as url:
        folder = Path(work)
        digest = random_file(folder / "big", options.mib << 20)
        numbers = itertools.count()

        def fresh() -> Path:
            # Nothing is removed between runs: a disk that gives a gigabyte back is slow for whoever syncs next.
            place = folder / str(next(numbers))
            place.mkdir()
            return place

        def checked(run: Run, out: Path) -> Run:
            check(sha256_of(out), digest, "a peer's file")
            return run

        def forebay_fetch() -> Run:
            bay = fresh()
            run = python(FETCH, f"{url}/big", str(bay), digest)
            check(sha256_of(bay / "content" / digest), digest, "the stored version")
            return run

        def curl() -> Run:
            out = fresh() / "out"
            return checked(process(["curl", "-s", "-f", "-o", str(out), f"{url}/big"]), out)

        def curl_hashed() -> Run:
            command = f"curl -s -f {url}/big | sha256sum --check <(echo '{digest}  -')"  # hashed, not even stored
            return process(["bash", "-o", "pipefail", "-c", command])

        def aria2() -> Run:
            place = fresh()
            command = ["aria2c", "-q", "-x1", "--file-allocation=none", f"--checksum=sha-256={digest}"]
            return checked(process([*command, "-d", str(place), "-o", "out", f"{url}/big"]), place / "out")

        warm_memory(folder)
        contest = Contest(
            f"{options.mib} MiB from nginx on loopback",
            options.rounds,
            {
                "forebay (hashed, durable)": forebay_fetch,
                "curl -o": curl,
                "curl | sha256sum": curl_hashed,
                "aria2c --checksum": aria2,
            },
        )
        contest.run()
        peers = ["curl -o", "curl | sha256sum", "aria2c --checksum"]
        contest.report(against=peers, work=options.mib, unit="MiB/s")


if __name__ == "__main__":
    main()
