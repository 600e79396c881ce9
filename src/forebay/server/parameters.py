"""Our own query parameters, ``forebay-…``: read before anything else, in one way wherever they are taken."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from forebay.core.targets import OWN_PREFIX, Target, target_of
from forebay.errors import InvalidUrl, InvalidValue
from forebay.models import check_tag


@dataclass(frozen=True, slots=True)
class Parameters:
    """What they say. *version* and *tag*: which version is wanted, by at most one of them; *verified*: only when
    all of it is there and verified."""

    version: str | None = None
    tag: str | None = None
    verified: bool = False


def read_target(path: bytes, query: bytes) -> Target:
    """As `target_of`. Raises `InvalidUrl` for bytes that are no text."""
    try:
        return target_of(path, query)
    except UnicodeDecodeError as error:
        raise InvalidUrl("/r/", reason="it is no UTF-8 text") from error


def parameters_of(own: Mapping[str, str], *, taken: tuple[str, ...]) -> Parameters:
    """What *own* says, of which those that are *taken* may be said. Raises `InvalidValue`."""
    for name in own:
        if name not in taken:
            expected = ", ".join(OWN_PREFIX + known for known in taken)
            raise InvalidValue(OWN_PREFIX + name, expected=f"one of {expected}", got=OWN_PREFIX + name)
    tag, version, verified = own.get("tag"), own.get("version"), own.get("verified", "0")
    if tag is not None and version is not None:
        raise InvalidValue(OWN_PREFIX + "tag", expected="a tag or a version, not both", got=tag)
    if tag is not None:
        check_tag(tag)
    if verified not in ("0", "1"):
        raise InvalidValue(OWN_PREFIX + "verified", expected="0 or 1", got=verified)
    return Parameters(version, tag, verified == "1")
