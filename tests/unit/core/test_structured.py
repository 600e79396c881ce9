"""Structured fields: dictionaries and items (RFC 9651)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forebay.core.structured import (
    format_boolean,
    format_bytes,
    format_integer,
    format_text,
    parse_boolean,
    parse_dictionary,
    parse_integer,
    parse_item,
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


@pytest.mark.parametrize(
    ("text", "item"),
    [
        ("5", "5"), (" 5 ", "5"), ("-5", "-5"), ("5;a;b=2", "5"), ("?1", "?1"), (":aGk=:;x", ":aGk=:"),
        (None, None), ("", None), ("5, 6", None), ("5 6", None), ("5;", None), ("?2", None), ("1" * 16, None),
        ("\t5", None), ("5\n", None), ("(5)", None), ("\u0665", None),
    ],
)  # fmt: skip
def test_4_2_3_an_item_has_one_value(text: str | None, item: str | None) -> None:
    """Its parameters are left out; anything beside it, such as a second field line, and there is none."""
    assert parse_item(text) == item


def test_3_3_6_booleans() -> None:
    """They are written ?1 and ?0; anything else is none."""
    assert [parse_boolean(item) for item in ("?1", "?0", "1", "true", None, "")] == [True, False, *[None] * 4]
    assert [format_boolean(value) for value in (True, False)] == ["?1", "?0"]
