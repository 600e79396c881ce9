"""One API process of `forebay serve`: how it begins, until when it is not told to stop, and what ends with it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import multiprocessing
import multiprocessing.connection
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from typing import Any

from forebay.errors import FunctionsNotLoaded
from forebay.settings import ServerSettings

log = logging.getLogger(__name__)

_LOOK_AGAIN_S = 0.02


def load(settings: ServerSettings, number: int | None = None) -> Any:
    """The application; called in a new API process, before its event loop runs. *number*: that of the Forebay with
    functions (`forebay.server.loading.Found`)."""
    _finish_first()
    threading.Thread(target=_end_with_parent, daemon=True).start()
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    from forebay.server.app import Application

    bay = None
    if number is not None:
        from forebay.server.loading import load_functions

        try:
            bay = load_functions(settings, number=number)
        except FunctionsNotLoaded as error:  # though it could be a moment ago
            log.error("%s", error)
            raise SystemExit(1) from None
    return Application(settings, bay=bay, started=_heed)


def _finish_first() -> None:
    """Have no thread of this process interrupted by another that it wakes; those to come take after this one.

    Each request goes from a thread of granian's to ours and back. On one core, each was interrupted as soon as it
    had woken the other, for one request at a time: 14,600 a second. Now it hands over all that are there first:
    25,100 (1 KiB, 16 connections). On an idle core whoever is woken runs at once as before; beside processes that
    keep all cores busy a reader waits a little longer (p50 of 1 KiB: 1.5 ms instead of 1.0 beside four of them)."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError):  # a sandbox that forbids it
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


def _heed(turns: int = 10) -> None:
    """Be told to stop, after so many turns of the event loop. It is run twice: while the application starts, when
    granian would wait for ever to be told that it must stop, and then to serve, from the fourth turn on."""
    if turns:
        asyncio.get_running_loop().call_soon(_heed, turns - 1)
    else:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
        _bound_silence()


def _bound_silence() -> None:
    """Have the system end connections whose client takes nothing: granian has no limit of its own, and keeps them
    even when nobody sends on them any more. What is accepted has this from the socket that accepts it."""
    from forebay.messages.outflow import STALL_S

    option: int | None = getattr(socket, "TCP_USER_TIMEOUT", None)
    if option is None:
        return  # not Linux
    listeners = list(_listeners())
    for listener in listeners:
        listener.setsockopt(socket.IPPROTO_TCP, option, int(STALL_S * 1000))
        listener.detach()
    if not listeners:  # yet: granian makes it in a thread of its own
        asyncio.get_running_loop().call_later(_LOOK_AGAIN_S, _bound_silence)


def _listeners() -> Iterator[socket.socket]:
    """The sockets of this process that accept TCP connections; to be detached, for they are granian's."""
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208 - numbers
        try:
            found = socket.socket(fileno=int(name))
        except OSError:  # it is no socket
            continue
        accepts = False
        with contextlib.suppress(OSError):  # closed meanwhile
            of_ip = found.family in (socket.AF_INET, socket.AF_INET6)
            accepts = of_ip and bool(found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))
        if accepts:
            yield found
        else:
            found.detach()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    multiprocessing.connection.wait([parent.sentinel])
    os._exit(1)
