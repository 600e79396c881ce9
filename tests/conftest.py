"""Fixtures that every kind of test shares."""

from collections.abc import Iterator

import pytest

from origin import Origin


@pytest.fixture
def origin() -> Iterator[Origin]:
    """A started origin; leaving stops it and fails the test when a behaviour of its own failed."""
    with Origin() as running:
        yield running
