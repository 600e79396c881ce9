"""The head of an answer, as the server sends it."""

import pytest

from forebay.core.delivery import Answer
from forebay.server.deliver import _start


def test_a_field_that_is_said_twice_is_a_bug() -> None:
    """One of the two would be lost in silence."""
    assert (b"link", b"x") in _start(Answer(200, (("Link", "x"),), ()))["headers"]  # type: ignore[operator]
    with pytest.raises(AssertionError):
        _start(Answer(200, (("Link", "x"), ("link", "y")), ()))
