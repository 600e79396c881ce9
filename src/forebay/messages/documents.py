"""Bodies of JSON (RFC 8259): those that can be written again, and no others."""

from __future__ import annotations

import json
from typing import Any

from forebay.errors import BodyInvalid

# Python reads nearly 1,000 levels, but not at every depth of its own stack; nothing sensible has ten.
MAX_LEVELS = 64


def read_document(body: bytes) -> Any:
    """What *body* says. Raises `BodyInvalid` for what Python takes for JSON and nobody could write again: NaN,
    half a character, a tower of brackets."""
    try:
        value = json.loads(body.decode("utf-8-sig"))
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode("utf-8")
    except (ValueError, RecursionError) as error:
        raise BodyInvalid from error
    level, levels = [value], 0
    while level := [one for one in level if isinstance(one, dict | list)]:
        levels += 1
        if levels > MAX_LEVELS:
            raise BodyInvalid
        level = [inner for one in level for inner in (one.values() if isinstance(one, dict) else one)]
    return value
