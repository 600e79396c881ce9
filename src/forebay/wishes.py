"""From the arguments of a fetch to what is wanted of each URL; everything is checked here."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pydantic import ValidationError

from forebay.core.digests import HASH_NAMES, hex_length
from forebay.core.urls import show_url
from forebay.errors import InvalidValue, UnknownRequest
from forebay.models import (
    AnyStrategy,
    ReCachingStrategy,
    Request,
    RequestCacheConfiguration,
    RequestSpec,
    check_tag,
    invalid_from,
)


@dataclass(frozen=True, slots=True)
class Wish:
    """What the caller wants of a URL. *asked*: as it was given. *expected*: (algorithm, hex digest)."""

    spec: RequestSpec
    asked: str | RequestSpec
    refresh: AnyStrategy | None = None
    expected: tuple[str, str] | None = None
    tag: str | None = None
    version: str | None = None
    offline: bool = False

    @property
    def reads_content(self) -> bool:
        """Whether it may take reading all of what is stored: of that, only our own digest is known."""
        return self.expected is not None and self.expected[0] != "sha256"

    @property
    def stays(self) -> bool:
        """Whether nothing may be fetched for it: what is uploaded under a name is there or not."""
        return self.offline or self.spec.source == "upload"


def wishes(
    sha256: str | None,
    expected_hash: str | None,
    refresh: str | AnyStrategy | None,
    tag: str | None,
    version: str | None,
    offline: bool,
) -> Callable[[str | RequestSpec], Wish]:
    """A maker of wishes that differ in their URL only; what they share is checked here, once."""
    expected = _expected(sha256, expected_hash)
    strategy = None if refresh is None else strategy_of(refresh)
    if tag is not None:
        check_tag(tag)
    if tag is not None and version is not None:
        raise InvalidValue("tag", expected="a tag or a version, not both", got=tag)

    def make(url: str | RequestSpec) -> Wish:
        spec = url if isinstance(url, RequestSpec) else _spec(url, strategy)
        return Wish(spec, asked=url, refresh=strategy, expected=expected, tag=tag, version=version, offline=offline)

    return make


def _spec(url: str, strategy: AnyStrategy | None) -> RequestSpec:
    try:
        if strategy is None:
            return RequestSpec(url=url)
        return RequestSpec(url=url, cache_configuration=RequestCacheConfiguration(recaching_strategy=strategy))
    except ValidationError as error:
        raise invalid_from(error) from error


def strategy_of(refresh: str | AnyStrategy) -> AnyStrategy:
    """The strategy that *refresh* is or names."""
    return ReCachingStrategy.parse(refresh) if isinstance(refresh, str) else refresh


def _expected(sha256: str | None, expected_hash: str | None) -> tuple[str, str] | None:
    if sha256 is None and expected_hash is None:
        return None
    if sha256 is not None and expected_hash is not None:
        raise InvalidValue("expected_hash", expected="it or sha256, not both", got=expected_hash)
    name, _, digest = ("sha256", "", sha256) if sha256 is not None else (expected_hash or "").partition(":")
    field = "sha256" if sha256 is not None else "expected_hash"
    name, digest = (
        name.lower().replace("-", "") if name.lower() not in HASH_NAMES else name.lower(),
        digest.strip().lower(),
    )
    if name not in HASH_NAMES:
        raise InvalidValue(
            field, expected="ALGORITHM:HEX with one of " + ", ".join(sorted(HASH_NAMES)), got=expected_hash
        )
    size = hex_length(name)
    if not re.fullmatch(r"[0-9a-f]+", digest) or len(digest) != size:
        raise InvalidValue(field, expected=f"{size} hex digits of {name}", got=digest)
    return name, digest


def is_request_id(name: str) -> bool:
    """Whether *name* is a Request's id, and no URL."""
    return re.fullmatch(r"[0-9a-f]{32}", name) is not None


def the_one(found: Sequence[Request], url: str) -> Request:
    """The one of *found*, all of which have *url*, that is meant by it: the plain one. `UnknownRequest`;
    `InvalidValue` naming the ids when it could be several."""
    if not found:
        raise UnknownRequest(show_url(url))
    plain = [request for request in found if request.http_method == "get" and request.group_name == "default"]
    plain = [request for request in plain if not request.http_header_fields and not request.http_query_params]
    chosen = plain or found
    if len(chosen) > 1:
        ids = ", ".join(request.id for request in chosen)
        raise InvalidValue("url", expected=f"a Request's id, for several have this URL ({ids})", got=show_url(url))
    return chosen[0]
