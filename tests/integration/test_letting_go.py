"""Every cancel leads to an end: nobody waits for what nobody runs."""

import sqlite3
import threading
from collections.abc import Callable

import pytest

from forebay import Forebay, StorageError
from forebay.errors import StateError
from origin import Held, Origin, Resource

MakeBay = Callable[..., Forebay]


def test_a_download_that_waits_for_its_host_can_be_let_go_and_asked_for_again(
    make_bay: MakeBay, origin: Origin
) -> None:
    """It was never launched: it is over at once, and the next who asks gets it."""
    bay = make_bay(max_downloads_per_host=1)
    held = origin.serve("/slow", Held(Resource(b"slow")))
    origin.serve("/next", Resource(b"next"))
    running = bay.fetch_many([origin.url("/slow"), origin.url("/next")])
    first = threading.Thread(target=lambda: next(running, None))
    first.start()
    held.arrived()
    held.release()
    first.join()
    running.close()
    with bay.open(origin.url("/next")) as file:
        assert file.read() == b"next"


def test_closing_with_a_queue_ends(make_bay: MakeBay, origin: Origin) -> None:
    """One runs, others wait for its slot: close suspends them all, and whoever waited is told."""
    bay = make_bay(max_downloads_per_host=1)
    held = origin.serve("/slow", Held(Resource(b"slow")))
    told: list[object] = []

    def ask() -> None:
        told.extend(one.error for one in bay.fetch_many([origin.url(f"/{n}") for n in ("slow", "b", "c")]))

    thread = threading.Thread(target=ask)
    thread.start()
    held.arrived()
    bay.close()
    thread.join()
    held.release()
    assert len(told) == 3
    assert all(isinstance(error, StateError) for error in told)


def test_a_catalog_out_of_reach_fails_what_waits_and_nothing_later(make_bay: MakeBay, origin: Origin) -> None:
    """A table that is gone for a while: a named error, no hang; when it is back, fetches work, close ends."""
    bay = make_bay(max_downloads_per_host=1)
    origin.serve("/a", Resource(b"a"))
    origin.serve("/b", Resource(b"b"))
    database = sqlite3.connect(bay.folder / "catalog.sqlite")
    database.execute("ALTER TABLE slots RENAME TO slots_away")
    with pytest.raises(StorageError):
        bay.fetch(origin.url("/a"))
    database.execute("ALTER TABLE slots_away RENAME TO slots")
    database.close()
    for name in ("a", "b"):
        with bay.open(origin.url(f"/{name}")) as file:
            assert file.read() == name.encode()
