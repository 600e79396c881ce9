"""The stubborn download as one state machine, long because its rules hang together.

Events in, actions out, no I/O and no clock.

``step(state, event, now, jitter) -> (state, actions)``. The shell (`forebay.fetch.fetcher`) performs the actions in
order and reports what happened as events. Times are seconds of a clock that never jumps; ``Head.wall_unix``
alone is wall time, for Retry-After dates.

What must never be false (DESIGN.md, invariant 3): bytes are appended to a prefix only when a ``206`` names
the right start *and* total, under If-Range with a strong validator or the same Last-Modified. A ``200``
restarts as a new generation. A wrong total, a changed validator or a short body fail the attempt.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum
from typing import assert_never

from forebay.core import fields as f
from forebay.core.answers import Ambiguous, declared_length, is_stored, represent, resume_problem
from forebay.core.exchange import (
    Abandon,
    Action,
    Ask,
    Commit,
    Eof,
    Event,
    Failed,
    Head,
    Landed,
    Limits,
    Mismatched,
    Representation,
    Send,
    Unchanged,
    Wait,
    Woke,
    Write,
)
from forebay.core.ranges import ContentRange, parse_content_range, range_from
from forebay.core.retry import backoff_delay
from forebay.core.reuse import StoredVersion, Validators
from forebay.core.urls import origin_of, resolve_redirect, show_url
from forebay.errors import ContentTooLarge, HashMismatch, InvalidUrl, OriginError

REDIRECT_STATUSES = frozenset({301, 302, 303, 307, 308})
# RFC 9110 section 15.5/15.6: these may pass; others tell that asking again is of no use.
RETRYABLE_STATUSES = frozenset({408, 425, 429, 500, 502, 503, 504, 520, 521, 522, 523, 524})
BUSY_STATUSES = frozenset({429, 503})
# A representation that keeps changing under us is given up after so many restarts without a new high water.
_RESTARTS_PER_ATTEMPT = 4
# What may follow a redirect to another origin: nothing that could be a credential.
CROSS_ORIGIN_FIELDS = frozenset({"accept", "accept-language", "content-type", "user-agent"})


# --- the state ------------------------------------------------------------------------------------------


class Phase(Enum):
    SENT = "sent"
    RECEIVING = "receiving"
    WAITING = "waiting"
    DONE = "done"


@dataclass(frozen=True, slots=True)
class Download:
    """The state of one download. Made by `begin`, changed only by `step`."""

    ask: Ask
    limits: Limits
    stored: StoredVersion | None
    probe: bool
    previous_media_type: str | None
    started_at: float
    phase: Phase = Phase.SENT
    # the prefix that a partial file holds, and what its origin said of it
    prefix: Representation | None = None
    length: int = 0
    generation: int = 1
    # the exchange under way
    url: str = ""
    method: str = "GET"
    cross_origin: bool = False
    redirects: int = 0
    range_start: int | None = None
    conditional: bool = False
    # patience
    attempts: int = 0
    failures: int = 0
    restarts: int = 0
    continues: bool = False
    progressed: bool = False
    high_water: int = 0
    resumed_bytes: int = 0
    started_over: bool = False


Step = tuple[Download, list[Action]]


def begin(
    ask: Ask,
    *,
    limits: Limits,
    now: float,
    stored: StoredVersion | None = None,
    probe: bool = False,
    previous_media_type: str | None = None,
    prefix: Representation | None = None,
    length: int = 0,
    generation: int = 1,
) -> Step:
    """The first state and its `Send`.

    *stored*: ask conditionally, against this version. *probe*: it has no validator; look with HEAD first.
    *prefix*, *length*, *generation*: what an earlier process left of this download. What cannot be gone on with
    gives its number to nobody: readers know a generation by it.
    """
    usable = prefix if length and ask.method == "GET" else None
    left = length if usable is not None else 0
    state = Download(
        ask=ask,
        limits=limits,
        stored=stored,
        probe=probe and stored is not None and not stored.validators and ask.method == "GET",
        previous_media_type=previous_media_type,
        started_at=now,
        prefix=usable,
        length=left,
        high_water=left,
        generation=generation + (usable is not prefix),
    )
    return _send_first(state)


def step(state: Download, event: Event, now: float, jitter: float = 0.5) -> Step:
    """What *event* makes of *state*, and what is to be done, in order. *jitter* in ``[0, 1)``."""
    after = _decide(state, event, now)
    if not isinstance(after, _Failure):
        return after
    return _fail(after, now, jitter)


@dataclass(frozen=True, slots=True)
class _Failure:
    """One attempt failed; whether another follows is `_fail`'s."""

    state: Download
    error: OriginError
    retry_after_s: float | None = None


def _decide(state: Download, event: Event, now: float) -> Step | _Failure:
    match event:
        case Head():
            return _on_head(state, event)
        case Landed(length):
            return _on_landed(state, length, now)
        case Eof(length):
            return _on_eof(state, length, now)
        case Failed(code, detail, length, permanent):
            state = _measure(state, length)
            error = OriginError(code, detail, retryable=not permanent or code == "origin_deadline")
            return _give_up(state, error) if permanent else _Failure(state, error)
        case Woke():
            if _past_deadline(state, now):
                return _give_up(state, _deadline_error(state))
            return _send_first(state)
        case Mismatched(error):
            return _on_mismatch(state, error)
        case _:
            assert_never(event)


# --- sending --------------------------------------------------------------------------------------------


def _send_first(state: Download) -> Step:
    """A new attempt, at the registered URL: a redirect may lead elsewhere by now."""
    state = replace(
        state,
        phase=Phase.SENT,
        url=state.ask.url,
        method="HEAD" if state.probe else state.ask.method,
        cross_origin=False,
        redirects=0,
        attempts=state.attempts + 1,
        progressed=False,
        continues=False,
    )
    return _send(state)


def _send(state: Download) -> Step:
    fields: list[tuple[str, str]] = [
        (name, value)
        for name, value in state.ask.fields
        if (not state.cross_origin or name.lower() in CROSS_ORIGIN_FIELDS)
        and (state.method == state.ask.method or not name.lower().startswith("content-"))
    ]
    range_start, known = None, None
    if state.method == "GET":
        validator = state.prefix.resume_validator if state.prefix is not None and state.length else None
        if _is_complete(state) and state.prefix is not None:
            known = Validators(state.prefix.etag, state.prefix.last_modified)
        elif validator is not None:
            range_start = state.length
            fields += [("Range", range_from(state.length)), ("If-Range", validator)]
        elif state.stored is not None and not state.probe:
            known = state.stored.validators
    if known is not None and known.etag:
        fields.append(("If-None-Match", known.etag))
    if known is not None and known.last_modified:
        fields.append(("If-Modified-Since", known.last_modified))
    conditional = bool(known)
    body = state.ask.body if state.method in ("POST", "PUT") else None
    state = replace(state, range_start=range_start, conditional=conditional)
    return state, [Send(state.method, state.url, tuple(fields), body)]


def _is_complete(state: Download) -> bool:
    """Whether every byte is there and only the commit is missing: a process died between the two. Then the
    origin is asked whether they are still current; there is no range to ask for."""
    prefix = state.prefix
    return prefix is not None and prefix.resume_validator is not None and prefix.total == state.length > 0


# --- the head of an answer ------------------------------------------------------------------------------


def _on_head(state: Download, head: Head) -> Step | _Failure:
    if head.status == 304 and state.method != "HEAD":
        return _on_not_modified(state, head)
    if head.status in REDIRECT_STATUSES:
        return _on_redirect(state, head)
    if head.status == 206 and state.range_start is not None:
        return _on_partial(state, head)
    if head.status == 416 and state.range_start is not None:
        # The origin has nothing beyond our prefix: it was not this representation's, or not a prefix.
        return _restart(state, OriginError("origin_range_invalid", "the origin refused to resume (416)"))
    if head.status == 206 or not 200 <= head.status < 300:
        return _on_no_content(state, head)
    if state.method == "HEAD":
        return _on_probe(state, head)
    return _on_whole(state, head)


def _on_not_modified(state: Download, head: Head) -> Step | _Failure:
    if not state.conditional:
        error = OriginError(
            "origin_protocol", "the origin answered 304 to an unconditional request", retryable=True
        )
        return _Failure(state, error)
    if _is_complete(state) and state.prefix is not None:
        return _done(replace(state, resumed_bytes=state.length), Commit(state.prefix, state.length))
    return _done(state, Unchanged(head.status, state.url))


def _on_redirect(state: Download, head: Head) -> Step:
    location = head.fields.get("Location")
    if not location:
        return _give_up(
            state, OriginError("origin_redirects", f"the origin answered {head.status} without a Location")
        )
    if state.redirects >= state.limits.max_redirects:
        detail = f"more than {state.limits.max_redirects} redirects, the last one to {show_url(location)}"
        return _give_up(state, OriginError("origin_redirects", detail))
    try:
        target = resolve_redirect(state.url, location)
    except InvalidUrl as error:
        return _give_up(state, OriginError("origin_redirects", f"a redirect that cannot be followed: {error}"))
    # RFC 9110 section 15.4: 303 turns everything into GET, 301 and 302 turn POST into GET.
    method = state.method
    if (head.status == 303 and method != "HEAD") or (head.status in (301, 302) and method == "POST"):
        method = "GET"
    elsewhere = origin_of(target) != origin_of(state.ask.url)
    if elsewhere and state.ask.body is not None and method in ("POST", "PUT"):
        # A body may be a credential (a login form), and nobody said that a stranger may have it.
        detail = f"a redirect would take the request's body to {show_url(target)}, another origin"
        return _give_up(state, OriginError("origin_redirects", detail))
    return _send(
        replace(
            state,
            phase=Phase.SENT,
            url=target,
            method=method,
            redirects=state.redirects + 1,
            # Once dropped, credentials stay dropped: a chain may lead back through a stranger's hands.
            cross_origin=state.cross_origin or elsewhere,
        )
    )


def _on_partial(state: Download, head: Head) -> Step | _Failure:
    """RFC 9110 section 15.3.7, and invariant 3."""
    assert state.prefix is not None
    prefix, got = state.prefix, parse_content_range(head.fields.get("Content-Range"))
    problem = resume_problem(prefix, got, head.fields, state.length)
    if problem is not None:
        return _restart(state, problem)
    assert isinstance(got, ContentRange)
    try:
        declared = declared_length(head)
    except Ambiguous as error:
        return _restart(state, error.error)
    if declared is not None and declared != got.stop - got.start:
        detail = f"a range of {got.stop - got.start} bytes in a body of {declared}"
        return _restart(state, OriginError("origin_range_invalid", detail, retryable=True))
    too_large = _too_large(state, got.total)
    if too_large is not None:
        return _give_up(state, too_large, keep_partial=False)
    prefix = replace(prefix, total=got.total)
    state = replace(
        state,
        phase=Phase.RECEIVING,
        prefix=prefix,
        continues=True,
        resumed_bytes=state.length,
    )
    return state, [Write(state.length, state.generation, prefix)]


def _on_no_content(state: Download, head: Head) -> Step | _Failure:
    if state.method == "HEAD":
        # The probe is not supported: look with GET.
        return _send(replace(state, probe=False, method="GET", url=state.ask.url, cross_origin=False))
    if head.status == 206:
        error = OriginError("origin_protocol", "the origin answered 206 to a request for the whole", retryable=True)
        return _Failure(state, error)
    status = f"the origin answered {head.status}"
    if head.status not in RETRYABLE_STATUSES:
        return _give_up(state, OriginError("origin_status", status), keep_partial=head.status not in (404, 410))
    code = "origin_busy" if head.status in BUSY_STATUSES else "origin_status"
    asked = None
    if head.status in BUSY_STATUSES:
        asked = f.parse_retry_after(
            head.fields.get("Retry-After"), now_unix=head.wall_unix, date=head.fields.get("Date")
        )
    return _Failure(state, OriginError(code, status, retryable=True), asked)


def _on_probe(state: Download, head: Head) -> Step:
    """A HEAD that shows the stored length and no validator leaves things as they are; else GET."""
    assert state.stored is not None
    try:
        declared = declared_length(head)
    except Ambiguous:
        declared = None
    validators = head.fields.get("ETag") or head.fields.get("Last-Modified")
    if declared == state.stored.size_bytes and not validators:
        return _done(state, Unchanged(head.status, state.url, confirmed=False))
    return _send(replace(state, probe=False, method="GET", url=state.ask.url, cross_origin=False))


def _on_whole(state: Download, head: Head) -> Step | _Failure:
    """A 2xx that is not an asked-for 206: the whole representation, from its first byte."""
    representation, problem = represent(head, url=state.url, previous_media_type=state.previous_media_type)
    if problem is not None:
        return _Failure(state, problem)
    if state.stored is not None and state.ask.method == "GET" and is_stored(state.stored, representation):
        return _done(state, Unchanged(head.status, state.url))
    too_large = _too_large(state, representation.total)
    if too_large is not None:
        return _give_up(state, too_large, keep_partial=False)
    if state.prefix is not None:
        state = _without_prefix(state)
    state = replace(
        state,
        phase=Phase.RECEIVING,
        prefix=representation,
        resumed_bytes=0,
    )
    return state, [Write(0, state.generation, representation)]


def _too_large(state: Download, size: int | None) -> ContentTooLarge | None:
    limit = state.limits.max_size_bytes
    if limit is None or size is None or size <= limit:
        return None
    return ContentTooLarge(limit_bytes=limit, size_bytes=size)


# --- the body -------------------------------------------------------------------------------------------


def _measure(state: Download, length: int) -> Download:
    """Take note of *length*. Progress is a prefix that was continued, or what no generation before had reached:
    an origin that ignores Range and cuts would else keep us busy for ever."""
    if length == state.length:
        return state
    if length > state.high_water:
        return replace(state, length=length, high_water=length, failures=0, restarts=0, progressed=True)
    return replace(state, length=length, progressed=state.progressed or (state.continues and length > state.length))


def _on_landed(state: Download, length: int, now: float) -> Step:
    state = _measure(state, length)
    limit = state.limits.max_size_bytes
    if limit is not None and length > limit:
        return _give_up(state, ContentTooLarge(limit_bytes=limit, size_bytes=None), keep_partial=False)
    if _past_deadline(state, now):
        return _give_up(state, _deadline_error(state))
    return state, []


def _on_eof(state: Download, length: int, now: float) -> Step | _Failure:
    if state.phase is not Phase.RECEIVING:
        return _Failure(state, OriginError("origin_cut", "the answer broke off in its head", retryable=True))
    state, actions = _on_landed(state, length, now)
    if actions:
        return state, actions
    assert state.prefix is not None
    total = state.prefix.total
    if total is not None and length != total:
        if length > total:
            # A 206 whose chunks go on past its range: what it brought proves nothing.
            detail = f"got {length} bytes of a content of {total}"
            return _restart(state, OriginError("origin_range_invalid", detail, retryable=True))
        error = OriginError("origin_short", f"got {length} of {total} bytes", retryable=True)
        return _Failure(state, error)
    return _done(state, Commit(replace(state.prefix, total=length), length))


def _on_mismatch(state: Download, error: HashMismatch) -> Step:
    if state.resumed_bytes == 0 or state.started_over:
        return _give_up(state, error, keep_partial=False)
    # It was put together from pieces: once more, in one piece.
    return _send_first(_without_prefix(replace(state, resumed_bytes=0, started_over=True)))


# --- failing --------------------------------------------------------------------------------------------


def _without_prefix(state: Download) -> Download:
    return replace(state, prefix=None, length=0, generation=state.generation + 1, restarts=state.restarts + 1)


def _restart(state: Download, error: OriginError) -> _Failure:
    """This attempt failed, and its prefix cannot be continued."""
    return _Failure(_without_prefix(state), error)


def _fail(failure: _Failure, now: float, jitter: float) -> Step:
    """Wait and try again, or give up."""
    state, error, retry = failure.state, failure.error, failure.state.limits.retry
    failures = 0 if state.progressed else state.failures + 1
    state = replace(state, failures=failures)
    if failures >= retry.max_attempts or state.restarts >= _RESTARTS_PER_ATTEMPT * retry.max_attempts:
        tries = "once" if state.attempts == 1 else f"{state.attempts} times"
        return _give_up(state, OriginError(error.code, f"{error.detail} (tried {tries})", retryable=True))
    delay = backoff_delay(failures, policy=retry, jitter=jitter)
    if failure.retry_after_s:
        if failure.retry_after_s > retry.retry_after_max_s:
            detail = (
                f"{error.detail} and asks to wait {failure.retry_after_s:.0f} s "
                f"(we wait {retry.retry_after_max_s:.0f} s at most)"
            )
            return _give_up(state, OriginError(error.code, detail, retryable=True))
        delay = failure.retry_after_s
    if state.limits.deadline_s is not None and now + delay > state.started_at + state.limits.deadline_s:
        return _give_up(state, _deadline_error(state, last=error))
    return replace(state, phase=Phase.WAITING), [Wait(delay, error.detail)]


def _past_deadline(state: Download, now: float) -> bool:
    return state.limits.deadline_s is not None and now > state.started_at + state.limits.deadline_s


def _deadline_error(state: Download, last: OriginError | None = None) -> OriginError:
    said = "" if last is None else f"; last: {last.detail}"
    return OriginError("origin_deadline", f"not done within {state.limits.deadline_s:g} s{said}", retryable=True)


def _done(state: Download, action: Action) -> Step:
    return replace(state, phase=Phase.DONE), [action]


def _give_up(state: Download, error: OriginError, *, keep_partial: bool = True) -> Step:
    resumable = state.prefix is not None and state.prefix.resume_validator is not None and state.length > 0
    keep = keep_partial and resumable
    return _done(state, Abandon(error, keep_partial=keep))
