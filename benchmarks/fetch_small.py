"""2,000 files of 4 KiB from one host over 16 connections, each a durable version. Peer: curl --parallel."""

from __future__ import annotations

import argparse
import shutil
import tempfile
from pathlib import Path

from harness import Contest, Run, check, need, nginx, process, python, random_file, sha256_of

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


def main() -> None:
    """Run the contest."""
    import json

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    need("nginx", "curl")
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as work, nginx(Path(work)) as url:
        folder = Path(work)
        digests = {f"f{number}": random_file(folder / f"f{number}", 4096) for number in range(options.files)}
        wanted, config, bay, out = folder / "wanted.json", folder / "curl.txt", folder / "bay", folder / "out"
        wanted.write_text(json.dumps(digests))
        config.write_text("".join(f'url="{url}/{name}"\noutput="{out}/{name}"\n' for name in digests))

        def forebay_fetch() -> Run:
            shutil.rmtree(bay, ignore_errors=True)
            return python(FETCH, url, str(bay), str(wanted))

        def curl() -> Run:
            shutil.rmtree(out, ignore_errors=True)
            out.mkdir()
            run = process(["curl", "-s", "-f", "--parallel", "--parallel-max", "16", "-K", str(config)])
            for name, digest in digests.items():
                check(sha256_of(out / name), digest, name)
            return run

        contest = Contest(
            f"{options.files} files of 4 KiB over 16 connections",
            options.rounds,
            {"forebay (hashed, durable)": forebay_fetch, "curl --parallel": curl},
        )
        contest.run()
        contest.report(against=["curl --parallel"], work=options.files, unit="files/s")


if __name__ == "__main__":
    main()
