"""Fetching through a server: ask, wait, hear how far it is, until it is over or can be followed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import TypeAdapter

from forebay.api_models import FetchAnswer, FetchUnderWay
from forebay.client.exchange import ANSWER_S, Call, Flow, Wait, ask, model_in
from forebay.core.retry import RetryPolicy, backoff_delay
from forebay.core.urls import show_url
from forebay.errors import ForebayError, ServerUnreachable
from forebay.models import AnyStrategy, RequestSpec, Response
from forebay.reports import Fetched, Progress
from forebay.retold import error_of
from forebay.wishes import Wish

Tell = Callable[[Progress], None]

# How long the server may keep an answer back: until something happens; or as often as a progress bar moves.
WAIT_S = 10.0
WATCH_S = 0.2
# A server that was there a moment ago is starting anew, or the network changes: some 10 s of patience.
AGAIN = RetryPolicy(max_attempts=7, backoff_base_s=0.1, backoff_max_s=4.0)

_STRATEGY: TypeAdapter[AnyStrategy] = TypeAdapter(AnyStrategy)


@dataclass(frozen=True, slots=True)
class Begun:
    """A fetch under way: its version can be followed. *asked_at*: to go on with it."""

    response: Response
    asked_at: float


class Patience:
    """How often to try again when a server that answered cannot be reached any more."""

    def __init__(self) -> None:
        self._failures = 0

    def renewed(self) -> None:
        """Something was achieved."""
        self._failures = 0

    def after(self, error: ForebayError) -> Flow[None]:
        """Wait, or raise *error* when there is no patience left."""
        self._failures += 1
        if self._failures >= AGAIN.max_attempts:
            raise error
        yield Wait(backoff_delay(self._failures, policy=AGAIN, jitter=0.5))


def fetch(wish: Wish, *, tell: Tell | None = None, asked_at: float | None = None) -> Flow[Fetched]:
    """What comes of *wish*. Raises `ServerUnreachable`; what else fails is a value. *asked_at*: go on with what was
    begun."""
    outcome = yield from _fetch(wish, tell=tell, asked_at=asked_at, until="over")
    assert isinstance(outcome, Fetched)
    return outcome


def begin(wish: Wish, *, tell: Tell | None = None, grace_s: float = 0.0) -> Flow[Fetched | Begun]:
    """As `fetch`, but only until there is something to follow; what is over within *grace_s* is not followed."""
    return (yield from _fetch(wish, tell=tell, asked_at=None, until="begun", grace_s=grace_s))


def _fetch(
    wish: Wish,
    *,
    tell: Tell | None,
    asked_at: float | None,
    until: Literal["over", "begun"],
    grace_s: float = 0.0,
) -> Flow[Fetched | Begun]:
    patience = Patience()
    wait_s = WAIT_S if tell is None else WATCH_S
    while True:
        if asked_at is None and grace_s:
            call = _call(wish, asked_at=None, wait_s=grace_s, until="over")
        else:
            call = _call(wish, asked_at=asked_at, wait_s=wait_s, until=until)
        try:
            answer = yield from ask(call)
        except ServerUnreachable as error:
            if asked_at is None:
                raise
            yield from patience.after(error)
            continue
        except ForebayError as error:
            return Fetched(show_url(wish.spec.url), None, "failed", error, asked=wish.asked)
        if answer.status != 202:
            return _fetched(wish, model_in(call, answer, FetchAnswer))
        patience.renewed()
        under_way = model_in(call, answer, FetchUnderWay)
        asked_at, response = under_way.asked_at, under_way.response
        if tell is not None:
            tell(_progress(under_way))
        if until == "begun" and response is not None and response.status == "in_progress":
            return Begun(response, asked_at)


def _call(wish: Wish, *, asked_at: float | None, wait_s: float, until: str) -> Call:
    body: dict[str, Any] = {
        "request": asked_for(wish.spec),
        "refresh": None if wish.refresh is None else _STRATEGY.dump_python(wish.refresh, mode="json"),
        "expected_hash": None if wish.expected is None else ":".join(wish.expected),
        "tag": wish.tag,
        "version": wish.version,
        "offline": wish.offline,
        "wait_sec": wait_s,
        "asked_at": asked_at,
        "until": until,
    }
    given = {name: value for name, value in body.items() if value is not None}
    # Asked twice, the fetch is joined or what it brought is found; at worst the origin is asked once more.
    return Call("POST", "/v1/fetch", body=given, patience_s=wait_s + ANSWER_S, idempotent=True)


def asked_for(spec: RequestSpec) -> dict[str, Any]:
    """*spec* as JSON. What was not said is left to the server: a token may have a group of its own."""
    return {name: value for name, value in spec.model_dump(mode="json").items() if name in spec.model_fields_set}


def _progress(under_way: FetchUnderWay) -> Progress:
    told_of = under_way.progress
    return Progress(
        state=told_of.state,
        downloaded_bytes=told_of.downloaded_bytes,
        total_bytes=told_of.total_bytes,
        attempt=told_of.attempt,
        reason=told_of.reason,
    )


def _fetched(wish: Wish, answer: FetchAnswer) -> Fetched:
    failure = answer.error
    error = None if failure is None else error_of(failure.code, failure.detail)
    return Fetched(show_url(wish.spec.url), answer.response, answer.how, error, asked=wish.asked)
