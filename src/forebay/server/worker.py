"""The process that fetches for a folder: it owns transfers, scheduler and leases; API processes ask it.

It may be killed at any instant: what it had is taken over by whoever comes next.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator
from pathlib import Path

from forebay.bay import Forebay
from forebay.errors import ForebayError
from forebay.settings import Settings

log = logging.getLogger(__name__)

WORKER_KEY = "worker"
"""What is rung when a Request was asked for."""

# What a killed process had is due again within this, when nobody waits for it.
_TEND_EVERY_S = 30.0


def work(settings: Settings, *, wait: Callable[[float], bool]) -> None:
    """Fetch what is due and what is asked for, until *wait* (for so many seconds) says that it is enough. Then
    what runs is suspended, to be resumed by whoever comes next."""
    with Forebay(settings) as bay, registered(bay):
        work_for(bay, wait=wait)


def work_for(bay: Forebay, *, wait: Callable[[float], bool]) -> None:
    """The same for *bay*, which is `registered` by then; what runs at the end goes on until that is closed."""
    bay.wakeups.sweep()
    scheduler = bay.scheduler()
    watch = bay.wakeups.watch(WORKER_KEY, scheduler.poke)  # before the first look: no ask falls between
    scheduler.start()
    while True:
        try:
            bay.tend()
        except ForebayError as error:  # the catalog is out of reach for now
            log.warning("could not tidy up: %s", error)
        if wait(_TEND_EVERY_S):
            break
    watch.close()
    scheduler.stop()


@contextlib.contextmanager
def registered(bay: Forebay) -> Iterator[None]:
    """This process is one that `is_working` for the folder. What is asked of it before it works is due in the
    catalog when it does."""
    place = _folder(bay) / bay.owner.id
    place.parent.mkdir(mode=0o700, exist_ok=True)
    place.touch(mode=0o600)
    try:
        yield
    finally:
        place.unlink(missing_ok=True)


def is_working(bay: Forebay) -> bool:
    """Whether a fetch worker of the folder is alive."""
    try:
        names = [path.name for path in _folder(bay).iterdir()]
    except FileNotFoundError:
        return False
    alive = False
    for name in names:
        if bay.owner.is_alive(name):
            alive = True
        else:
            (_folder(bay) / name).unlink(missing_ok=True)  # killed
    return alive


def _folder(bay: Forebay) -> Path:
    return bay.folder / "workers"
