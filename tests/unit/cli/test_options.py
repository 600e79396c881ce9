"""Sizes and times as the command line takes them."""

import pytest

from forebay.cli.options import parse_size, parse_span
from forebay.errors import InvalidValue


@pytest.mark.parametrize(
    ("text", "size"),
    [("1", 1), ("500M", 500 * 1024**2), ("10g", 10 * 1024**3), ("1.5 KiB", 1536), ("10GB", 10**10), ("7B", 7)],
)
def test_sizes(text: str, size: int) -> None:
    """A bare letter and KiB are binary, KB is decimal."""
    assert parse_size(text, option="--quota") == size


@pytest.mark.parametrize("text", ["", "0", "G", "-1", "1 000", "1e9", "10X", "0.1"])
def test_what_is_no_size(text: str) -> None:
    """Anything else is refused by the option's name."""
    with pytest.raises(InvalidValue, match=r"^--quota: expected a size"):
        parse_size(text, option="--quota")


def test_spans() -> None:
    """A number and a unit."""
    assert parse_span("30d", option="--for") == 30 * 86400
    with pytest.raises(InvalidValue, match=r"^--for: expected a time"):
        parse_span("0h", option="--for")
