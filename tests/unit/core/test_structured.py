"""Structured fields: dictionaries to read, items to write (RFC 9651)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forebay.core.structured import (
    format_bytes,
    format_integer,
    format_text,
    parse_dictionary,
    parse_integer,
)

DICTIONARIES = [
    ("", {}),
    (" \t", {}),
    ("a=1", {"a": "1"}),
    ("a=1,b=2", {"a": "1", "b": "2"}),
    ("a=1 ,\t b=2 ", {"a": "1", "b": "2"}),
    ("a=1, b, c=?0", {"a": "1", "b": "?1", "c": "?0"}),
    ("a=1, b=2, a=3", {"a": "3", "b": "2"}),
    ("a;x;y=2, b=1; z", {"a": "?1", "b": "1"}),
    ("*a.b-c_d*=1", {"*a.b-c_d*": "1"}),
    ('a="x, \\"y\\" \\\\", b=tok*/:en', {"a": '"x, \\"y\\" \\\\"', "b": "tok*/:en"}),
    ("a=:aGk=:, b=::", {"a": ":aGk=:", "b": "::"}),
    ("a=-1.500, b=-999999999999999", {"a": "-1.500", "b": "-999999999999999"}),
    ('a=@1659578233, b=%"f%c3%bc"', {"a": "@1659578233", "b": '%"f%c3%bc"'}),
    ('a=( 1  "b" c;d=1 ), b=()', {"a": '( 1  "b" c;d=1 )', "b": "()"}),
]

MALFORMED = [
    "a=1,",
    ",a=1",
    "a=1,,b=2",
    "a=1 b=2",
    "a = 1",
    "a=",
    "=1",
    "A=1",
    "1=a",
    "a=1234567890123456",
    "a=1.2345",
    "a=1.",
    "a=.5",
    "a=--1",
    "a=+1",
    'a="x',
    'a="\\x"',
    'a="é"',
    "a='x'",
    "a=:a b:",
    "a=:aGk=",
    "a=?2",
    "a=@1.5",
    'a=%"%C3"',
    "a=(1",
    "a=1)",
    "a=(1,2)",
    "a=((1))",
    "a=1;",
    "a=1;X",
    "a=1 ;x",
    "a=١",
    "a=1\n",
]


@pytest.mark.parametrize(("text", "members"), DICTIONARIES)
def test_a_dictionary_has_its_members(text: str, members: dict[str, str]) -> None:
    """Section 4.2.2: the last of equal keys counts, a key alone is true, parameters are passed over."""
    assert parse_dictionary(text) == members


@pytest.mark.parametrize("text", MALFORMED)
def test_one_mistake_spoils_a_dictionary(text: str) -> None:
    """Section 4.2: when parsing fails, all of the field is ignored."""
    assert parse_dictionary(text) is None


@given(st.text() | st.text(alphabet='ab=1, ;"\\:()?%@-.\t'))
def test_any_text_is_taken(text: str) -> None:
    """No text makes the parser raise."""
    parse_dictionary(text)


@pytest.mark.parametrize(
    ("item", "number"),
    [
        ("0", 0),
        ("-0", 0),
        ("007", 7),
        ("-999999999999999", -999999999999999),
        ("1.0", None),
        ('"1"', None),
        ("?1", None),
        ("a", None),
        (None, None),
    ],
)
def test_only_an_integer_is_an_integer(item: str | None, number: int | None) -> None:
    """Section 3.3.1: decimals, strings and the rest are other types."""
    assert parse_integer(item) == number


@given(st.integers())
def test_an_integer_has_at_most_15_digits(number: int) -> None:
    """Section 3.3.1: what is larger becomes the largest."""
    shown = format_integer(number)
    assert parse_integer(shown) == max(min(number, 10**15 - 1), -(10**15) + 1)


@given(st.binary())
def test_bytes_are_a_byte_sequence(raw: bytes) -> None:
    """Section 3.3.5: base64 between colons."""
    shown = format_bytes(raw)
    assert parse_dictionary(f"a={shown}") == {"a": shown}


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("origin_busy", "origin_busy"),
        ("a/b:c*", "a/b:c*"),
        ("", '""'),
        ("1a", '"1a"'),
        ("a b", '"a b"'),
        ('a"b\\c', '"a\\"b\\\\c"'),
        ("é\n\x7f", '"???"'),
    ],
)
def test_text_is_a_token_or_a_string(text: str, shown: str) -> None:
    """Sections 3.3.3 and 3.3.4: a string is ASCII; what is not is a question mark."""
    assert format_text(text) == shown


@given(st.text())
def test_any_text_can_be_written(text: str) -> None:
    """What is written is a well-formed item."""
    shown = format_text(text)
    assert parse_dictionary(f"a={shown}") == {"a": shown}
