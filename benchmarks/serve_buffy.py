"""From `create_request` to 1 MiB on the client's disk, cold: our server and DZDBuffy's own, side by side.

Each round asks for a URL that the server does not know, with bytes that nobody has seen. Clients are processes
that run all the time, so that only the exchange counts. DZDBuffy is 0.7.3 from PyPI, with its client unchanged
against both servers.
"""

from __future__ import annotations

import argparse
import itertools
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from harness import Contest, Run, check, need, nginx, random_file, sha256_of
from servers import buffy_python, buffy_server, forebay_server

# Clients: read a URL, say the seconds until its content was a file.
_OUR_CLIENT = """
import shutil, sys, time, forebay
server, out, cache = sys.argv[1:]
with forebay.open(server, cache=cache) as bay:
    for line in sys.stdin:
        began = time.perf_counter()
        with bay.open(line.strip()) as content, open(out, "wb") as file:
            shutil.copyfileobj(content, file, 1 << 20)
        print(time.perf_counter() - began, flush=True)
"""
_BUFFY_CLIENT = """
import sys, time
from buffy.buffypyclient import BuffyPyClient
server, out = sys.argv[1:]
client = BuffyPyClient(url=server, local_download_fallback=False)
for line in sys.stdin:
    began = time.perf_counter()
    client.create_request(line.strip()).download_response_content_to(out)
    print(time.perf_counter() - began, flush=True)
"""


class Client:
    """A client process and the file that it downloads to."""

    def __init__(self, process: subprocess.Popen[str], out: Path) -> None:
        self._process = process
        self._out = out

    def get(self, url: str, digest: str) -> Run:
        """Seconds for *url*; its bytes are checked against their *digest*."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{url}\n")
        self._process.stdin.flush()
        said = self._process.stdout.readline()
        if not said:
            sys.exit(f"the client ended with {self._process.wait()}")
        check(sha256_of(self._out), digest, "the file")
        self._out.unlink()
        return Run(float(said))


@contextmanager
def client(python: str, script: str, server: str, out: Path, *more: str) -> Iterator[Client]:
    """A `Client` that runs *script*, with *more* arguments."""
    argv = [python, "-c", script, server, str(out), *more]
    process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with process:
        yield Client(process, out)


def main() -> None:
    """Run the contest."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=30)
    options = parser.parse_args()
    need("nginx", "redis-server")
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as work, nginx(Path(work)) as url:
        folder = Path(work)
        python = buffy_python(folder / "buffy")
        numbers = itertools.count()
        with (
            forebay_server(folder / "ours") as ours,
            buffy_server(folder / "theirs", python) as theirs,
            client(sys.executable, _OUR_CLIENT, ours.url, folder / "a", str(folder / "cache")) as own,
            client(python, _BUFFY_CLIENT, ours.url, folder / "b") as mixed,
            client(python, _BUFFY_CLIENT, theirs.url, folder / "c") as pure,
        ):

            def get(one: Client) -> Run:
                name = f"{next(numbers)}.bin"
                digest = random_file(folder / name, 1 << 20)
                return one.get(f"{url}/{name}", digest)

            contest = Contest(
                "from create_request to 1 MiB on disk, cold",
                options.rounds,
                {
                    "forebay's client and server": lambda: get(own),
                    "DZDBuffy's client, forebay serve": lambda: get(mixed),
                    "DZDBuffy's client and server": lambda: get(pure),
                },
            )
            contest.run()
            contest.report(against=["DZDBuffy's client and server"], work=1, unit="/s")


if __name__ == "__main__":
    main()
