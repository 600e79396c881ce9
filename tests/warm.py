"""The program in forks of one process that has imported it: an interpreter of its own imports for half a second.

    done = warm().run(["ls", "--json"], env={...})

It is a process of its own all the same, with its own arguments, environment, descriptors and end.
"""

from __future__ import annotations

import atexit
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import ExitStack
from functools import cache
from pathlib import Path

# What a command imports only when it is needed; nothing that looks at the environment, or starts a thread.
_WARM = """
import atexit, gc, json, os, socket, sys, threading
import forebay.cli, forebay.bay, forebay.catalog.migrate, forebay.client.remote

gc.freeze()
control = socket.socket(fileno=0)
while True:
    message, descriptors, _, _ = socket.recv_fds(control, 1 << 20, 3)
    if not message:
        os._exit(0)
    pid = os.fork()
    if pid == 0:
        break
    for descriptor in descriptors:
        os.close(descriptor)
    _, status = os.waitpid(pid, 0)
    control.send(b"%d" % os.waitstatus_to_exitcode(status))

ask = json.loads(message)
for number, descriptor in enumerate(descriptors):
    os.dup2(descriptor, number)  # the first one takes the place of the control socket
    os.close(descriptor)
control.detach()
os.environ.clear()
os.environ.update(ask["env"])
os.chdir(ask["folder"])
sys.argv = ["forebay", *ask["arguments"]]
code = 1
try:
    forebay.cli.main()
except SystemExit as end:
    code = end.code
except BaseException:
    sys.excepthook(*sys.exc_info())
# As an interpreter ends, but without the taking apart of all that is imported, which takes longer than most commands.
threading._shutdown()
atexit._run_exitfuncs()
sys.stdout.flush()
sys.stderr.flush()
os._exit(code)
"""


class Warm:
    """A process that waits, to be forked. One run at a time."""

    def __init__(self) -> None:
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen([sys.executable, "-c", _WARM], stdin=theirs)
        self._lock = threading.Lock()

    def run(self, arguments: Sequence[str], *, env: dict[str, str]) -> tuple[int, bytes, bytes]:
        """The exit code of ``forebay`` with *arguments*, its stdout and its stderr, both pipes; its stdin is one that
        has ended."""
        ask = json.dumps({"arguments": arguments, "env": env, "folder": str(Path.cwd())}).encode()
        with self._lock, ExitStack() as ours:
            (stdin, ended), (out, stdout), (err, stderr) = os.pipe(), os.pipe(), os.pipe()
            os.close(ended)
            read = [ours.enter_context(os.fdopen(descriptor, "rb")) for descriptor in (out, err)]
            socket.send_fds(self._control, [ask], [stdin, stdout, stderr])
            for descriptor in (stdin, stdout, stderr):
                os.close(descriptor)
            talk: list[bytes] = []
            listening = threading.Thread(target=lambda: talk.append(read[1].read()))
            listening.start()
            data = read[0].read()
            listening.join()
            return int(self._control.recv(16)), data, talk[0]

    def close(self) -> None:
        """End it."""
        self._control.close()
        self._process.wait()


@cache
def warm() -> Warm:
    """The one of this test process, started when it is first asked for."""
    started = Warm()
    atexit.register(started.close)
    return started
