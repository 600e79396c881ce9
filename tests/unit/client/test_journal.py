"""What is remembered of a file that is being sent: by one at a time, for the same file only."""

import os
from pathlib import Path

import pytest

from forebay.client.journal import Begun, Journal, Part
from forebay.sources import Identity

FILE = Identity("/a", 5, 1, 2, 3)
BEGUN = {"whole": None, "parts": (Part("a", 0, 2), Part("b", 2, 5)), "sha256": "c"}


def journal(folder: Path, server: str = "http://a", identity: Identity = FILE) -> Journal:
    """One that is held."""
    made = Journal(folder, server, identity)
    assert made.take()
    return made


def test_the_next_one_goes_on(tmp_path: Path) -> None:
    """With all that was noted."""
    first = journal(tmp_path)
    first.note(**BEGUN)
    first.close(is_over=False)
    assert journal(tmp_path).begun == Begun(**BEGUN)


@pytest.mark.parametrize(
    "other",
    [
        ("http://b", FILE),
        ("http://a", Identity("/b", 5, 1, 2, 3)),
        ("http://a", Identity("/a", 6, 1, 2, 3)),
        ("http://a", Identity("/a", 5, 2, 2, 3)),
        ("http://a", Identity("/a", 5, 1, 3, 3)),
        ("http://a", Identity("/a", 5, 1, 2, 4)),
        ("http://a", Identity("/a\udcff", 5, 1, 2, 3)),
    ],
)
def test_another_file_or_server_begins_anew(tmp_path: Path, other: tuple[str, Identity]) -> None:
    """Whatever of its identity differs."""
    first = journal(tmp_path)
    first.note(**BEGUN)
    first.close(is_over=False)
    assert journal(tmp_path, *other).begun == Begun()


def test_only_one_has_it(tmp_path: Path) -> None:
    """The other one begins anew, and leaves nothing behind; then it is free again."""
    first, second = journal(tmp_path), Journal(tmp_path, "http://a", FILE)
    first.note(whole="a")
    assert not second.take()
    second.note(whole="b")
    second.close(is_over=False)
    first.close(is_over=False)
    assert journal(tmp_path).begun.whole == "a"


@pytest.mark.parametrize("is_over", [False, True])
def test_what_is_over_is_forgotten(tmp_path: Path, is_over: bool) -> None:
    """And so is what never began. Closing twice, or noting after it, does nothing."""
    first = journal(tmp_path)
    if is_over:
        first.note(**BEGUN)
    first.close(is_over=is_over)
    first.close(is_over=is_over)
    first.note(whole="late")
    assert list(tmp_path.iterdir()) == []


def test_what_nobody_goes_on_with_is_swept(tmp_path: Path) -> None:
    """After a week, unless somebody is at it."""
    old, busy = journal(tmp_path, "http://old"), journal(tmp_path, "http://busy")
    for one in (old, busy):
        one.note(whole="a")
    old.close(is_over=False)
    for path in tmp_path.iterdir():
        os.utime(path, (0, 0))
    journal(tmp_path, "http://new").close(is_over=True)
    assert len(list(tmp_path.iterdir())) == 1
    busy.close(is_over=True)
    assert list(tmp_path.iterdir()) == []
