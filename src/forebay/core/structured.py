"""Structured fields, as far as we use them: dictionaries and items (RFC 9651)."""

from __future__ import annotations

import base64
import re

_KEY = r"[a-z*][a-z0-9_.*-]*"
_WORD = r"[A-Za-z*][!#$%&'*+.^_`|~0-9A-Za-z:/-]*"
# Decimal, integer, string, token, byte sequence, boolean, date, display string: section 3.3.
_BARE = (
    r"(?:-?[0-9]{1,12}\.[0-9]{1,3}|-?[0-9]{1,15}"
    r'|"(?:[ !#-\[\]-~]|\\["\\])*"'
    rf"|{_WORD}|:[A-Za-z0-9+/=]*:|\?[01]|@-?[0-9]{{1,15}}"
    r'|%"(?:[ !#$&-~]|%[0-9a-f]{2})*")'
)
_PARAMETERS = rf"(?:; *{_KEY}(?:={_BARE})?)*"
_INNER_LIST = rf"\( *(?:{_BARE}{_PARAMETERS}(?: +{_BARE}{_PARAMETERS})* *)?\)"
_MEMBER = re.compile(rf"({_KEY})(?:=({_BARE}|{_INNER_LIST}))?{_PARAMETERS}")
_ITEM = re.compile(rf"({_BARE}){_PARAMETERS}")
_COMMA = re.compile(r"[ \t]*,[ \t]*")
_INTEGER = re.compile(r"-?[0-9]{1,15}")
_TOKEN = re.compile(_WORD)
_NOT_IN_STRING = re.compile(r"[^ -~]")
_MAX_INTEGER = 10**15 - 1


def parse_dictionary(text: str) -> dict[str, str] | None:
    """The members of a dictionary, each value as it is written, without parameters; `None`: malformed.

    RFC 9651 section 4.2.2: one mistake anywhere and all of the field is ignored; of equal keys the last one
    counts; a key alone is true (``?1``). An empty field is an empty dictionary.
    """
    text = text.strip(" \t")
    members: dict[str, str] = {}
    position = 0
    while position < len(text) or members:
        member = _MEMBER.match(text, position)  # at the end of the text too: nothing may follow a comma
        if member is None:
            return None
        members[member[1]] = member[2] or "?1"
        if member.end() == len(text):
            break
        comma = _COMMA.match(text, member.end())
        if comma is None:
            return None
        position = comma.end()
    return members


def parse_item(text: str | None) -> str | None:
    """The value of an item as it is written, without parameters (section 4.2.3); `None`: absent or malformed."""
    found = _ITEM.fullmatch((text or "").strip(" "))
    return None if found is None else found[1]


def parse_boolean(item: str | None) -> bool | None:
    """The boolean that *item* writes (section 3.3.6); `None`: absent or an item of another type."""
    return {"?1": True, "?0": False}.get(item or "")


def parse_integer(item: str | None) -> int | None:
    """The integer that *item* writes (section 3.3.1); `None`: absent or an item of another type."""
    return int(item) if item is not None and _INTEGER.fullmatch(item) else None


def format_integer(number: int) -> str:
    """*number*, at most the 15 digits that an integer may have (section 3.3.1)."""
    return str(min(max(number, -_MAX_INTEGER), _MAX_INTEGER))


def format_boolean(value: bool) -> str:
    """A boolean (section 3.3.6)."""
    return "?1" if value else "?0"


def format_bytes(raw: bytes) -> str:
    """A byte sequence (section 3.3.5)."""
    return f":{base64.b64encode(raw).decode()}:"


def format_text(text: str) -> str:
    """*text* as a token where it is one, else as a string (section 3.3.3), with ``?`` for what is not ASCII."""
    if _TOKEN.fullmatch(text):
        return text
    plain = _NOT_IN_STRING.sub("?", text).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{plain}"'
