"""What stands behind the door: ``/r/<url>?<query>`` -> the URL that is meant, and our own parameters."""

from __future__ import annotations

import re
from typing import NamedTuple
from urllib.parse import parse_qsl, unquote_to_bytes

OWN_PREFIX = "forebay-"
"""Query parameters that begin so are ours, and are not part of the URL."""

# A path that was normalised on its way has lost a slash: http:/host. One that was quoted whole has no colon.
_MENDED = re.compile(r"(https?|forebay):(/*)(.*)", re.IGNORECASE | re.DOTALL)
_QUOTED = re.compile(r"(?:https?|forebay)%3a", re.IGNORECASE)


class Target(NamedTuple):
    """The *url* that is meant, not yet checked, and our own parameters, the last of each name."""

    url: str
    own: dict[str, str]


def target_of(path: bytes, query: bytes) -> Target:
    """What ``/r/`` + *path* + ``?`` + *query* means; both as they came, percent-encoding and all.

    ``//`` and percent-encoding are kept: they are the origin's. ``http:/host`` is mended. A URL that is quoted as
    a whole (``https%3A%2F%2F…``, or but for its slashes) is unquoted once: all that it holds is the origin's, but
    for a fragment, which is dropped. Raises UnicodeDecodeError for bytes that are no text.
    """
    text = path.decode("utf-8")
    if _QUOTED.match(text):
        text = unquote_to_bytes(text).decode("utf-8").partition("#")[0]  # else a query would end in the fragment
    found = _MENDED.fullmatch(text)
    if found is not None and found[1].lower() != "forebay":
        text = f"{found[1]}://{found[3]}"
    rest, own = _split_query(query.decode("utf-8"))
    if rest:
        text += ("&" if "?" in text else "?") + rest
    return Target(text, own)


def _split_query(query: str) -> tuple[str, dict[str, str]]:
    """The parameters that are not ours, exactly as they came, and ours."""
    theirs, own = [], {}
    for part in query.split("&") if query else ():
        if part.lower().startswith(OWN_PREFIX):
            for name, value in parse_qsl(part, keep_blank_values=True):
                own[name.lower().removeprefix(OWN_PREFIX)] = value
        else:
            theirs.append(part)
    return "&".join(theirs), own
