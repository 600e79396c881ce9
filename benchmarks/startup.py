"""How long a person waits before anything happens: `import forebay`, `forebay --help`, a stored `forebay get`."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from harness import Contest, Run, nginx, process


def main() -> None:
    """Time whole processes; a bare interpreter beside them shows what is Python's own share."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as work, nginx(Path(work)) as url:
        (Path(work) / "one").write_bytes(b"x" * 4096)
        get = [sys.executable, "-m", "forebay", "get", f"{url}/one", "--data", f"{work}/bay"]

        def run(*arguments: str) -> Run:
            return process([sys.executable, *arguments])

        contest = Contest(
            "whole processes",
            options.rounds,
            {
                "python -c pass": lambda: run("-c", "pass"),
                "python -c 'import forebay'": lambda: run("-c", "import forebay"),
                "... and use forebay.open": lambda: run("-c", "import forebay; forebay.open"),
                "forebay --help": lambda: run("-m", "forebay", "--help"),
                "forebay get (stored)": lambda: process(get),
            },
        )
        contest.run()
        contest.report(against=[], work=1, unit="/s")


if __name__ == "__main__":
    main()
