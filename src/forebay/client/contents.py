"""Content from a server into the cache: once, resumed where it broke off, followed while it still lands there,
verified before it counts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Protocol
from urllib.parse import quote

from forebay.client import fetching
from forebay.client.cache import ContentCache, Part
from forebay.client.exchange import Answer, Call, Flow, Wait, ask, do, good, model_in, send
from forebay.client.fetching import Begun, Patience, Tell
from forebay.core.fields import AmbiguousLength, Fields, content_length, is_strong_etag
from forebay.core.ranges import ContentRange, parse_content_range, range_from
from forebay.errors import (
    ContentRotten,
    FollowBroken,
    ForebayError,
    ServerAnswerInvalid,
    ServerUnreachable,
    StateError,
    StorageError,
)
from forebay.models import UNDER_WAY, Response
from forebay.reports import Fetched, Progress
from forebay.wishes import Wish

# While another process or thread brings the same: an flock cannot be waited for together with anything else.
_LOOK_AGAIN_S = 0.05
# A reader of what still lands on the server waits for so long for somebody else's transfer of it: most are over by
# then. Beyond that it gets one of its own, for the other may take as long as the origin does.
_BESIDE_AFTER_S = 10.0
# From the last byte of a version to its commit it is milliseconds; a stuck server is not waited for for ever.
_SETTLE_S, _SETTLE_TRIES = 0.02, 500
# A server that pauses for so long is gone: while it waits for the origin, it says so by nothing.
_SILENT_S = 600.0

# What is over so soon is had faster whole than followed, which takes a round more (benchmarks: 1 MiB, cold).
_GRACE_S = 0.05

Settle = Callable[[], Flow[Response]]


class Watcher(Protocol):
    """Sees a content land."""

    def head(self, part: Part, total: int | None) -> None:
        """Bytes come now: the first ones, more behind those of before, or all anew under another ETag."""
        ...

    def landed(self) -> None:
        """There are more bytes."""
        ...


class Teller:
    """A `Watcher` that tells how far it is."""

    def __init__(self, tell: Tell) -> None:
        self._tell = tell
        self._part: Part | None = None
        self._total: int | None = None
        self._resumed = self._attempt = 0

    def head(self, part: Part, total: int | None) -> None:
        """See `Watcher.head`."""
        self._part, self._total, self._resumed, self._attempt = part, total, part.landed, self._attempt + 1
        self.landed()

    def landed(self) -> None:
        """See `Watcher.landed`."""
        if self._part is not None:
            self._tell(Progress("downloading", self._part.landed, self._total, self._attempt, self._resumed))


class _Unseen:
    def head(self, part: Part, total: int | None) -> None:
        pass

    def landed(self) -> None:
        pass


UNSEEN: Watcher = _Unseen()


@dataclass(frozen=True, slots=True)
class Place:
    """Where on a server a version is. *sha256*, *size_bytes*: None while they are not known."""

    server: str
    request_id: str
    version: str
    sha256: str | None
    size_bytes: int | None

    @property
    def path(self) -> str:
        """The path of the version, below the server's base."""
        return f"/v1/request/{quote(self.request_id, safe='')}/response/v/{quote(self.version, safe='')}"

    @property
    def key(self) -> str:
        """What its partial file is found by. Not the digest, which a version under way has not."""
        return f"{self.server} {self.request_id} {self.version}"


def place_of(server: str, response: Response) -> Place:
    """Where *response* is. Raises `StateError` when it has no content and will have none."""
    attributes = response.content_attributes
    if response.status in UNDER_WAY:
        return Place(server, response.request_id, response.version, None, None)
    if attributes.sha256 is None:
        raise StateError(f"version {response.version} has no content: it is {response.status}")
    return Place(server, response.request_id, response.version, attributes.sha256, attributes.content_size_bytes)


# --- from a wish to its content -------------------------------------------------------------------------


def fetch_content(cache: ContentCache, server: str, wish: Wish, *, tell: Tell | None) -> Flow[Fetched]:
    """What comes of *wish*, with its content in the cache: what is still landing on the server lands here as well.
    Raises `ServerUnreachable` and errors of our storage; what else fails is a value."""
    watcher = UNSEEN if tell is None else Teller(tell)
    outcome = yield from fetching.begin(wish, tell=tell, grace_s=_GRACE_S)
    if isinstance(outcome, Begun):
        ending = Ending(wish, outcome.asked_at)
        try:
            yield from land(cache, place_of(server, outcome.response), ending.settle, watcher, answered=True)
        except (ServerUnreachable, StorageError):
            raise
        except ForebayError:
            pass  # the ending says whether there is something else to be had
        outcome = yield from ending.fetched()
    if outcome.response is not None:
        try:
            yield from land(cache, place_of(server, outcome.response), None, watcher, answered=True)
        except (ServerUnreachable, StorageError):
            raise
        except ForebayError as error:
            return replace(outcome, response=None, how="failed", error=error)
    return outcome


class Ending:
    """How a fetch that can be followed ends; it is asked for once."""

    def __init__(self, wish: Wish, asked_at: float) -> None:
        self._wish, self._asked_at = wish, asked_at
        self._fetched: Fetched | None = None

    def fetched(self) -> Flow[Fetched]:
        """Wait for the end."""
        if self._fetched is None:
            self._fetched = yield from fetching.fetch(self._wish, asked_at=self._asked_at)
        return self._fetched

    def settle(self) -> Flow[Response]:
        """The version to use. Raises the error of a fetch that brought none."""
        fetched = yield from self.fetched()
        if fetched.response is None or fetched.how == "stale":
            raise fetched.error or FollowBroken()
        return fetched.response


def settled(place: Place) -> Flow[Response]:
    """The version at *place* when it is over. Raises what the server says when it is gone."""
    for _ in range(_SETTLE_TRIES):
        response = yield from _version(place)
        if response.status not in UNDER_WAY:
            return response
        yield Wait(_SETTLE_S)
    raise ServerUnreachable(reason=f"version {place.version} does not come to an end")


def now_at(place: Place) -> Flow[Place]:
    """*place* as the server knows it now, if its digest is not known here."""
    if place.sha256 is not None:
        return place
    return place_of(place.server, (yield from _version(place)))


def _version(place: Place) -> Flow[Response]:
    call = Call("GET", place.path)
    return model_in(call, (yield from ask(call)), Response)


def land_version(cache: ContentCache, server: str, response: Response) -> Flow[Path]:
    """The content of *response*, in the cache; when it is still landing on the server, at its end."""
    place = yield from now_at(place_of(server, response))
    return (yield from land(cache, place, None, UNSEEN))


# --- one content ----------------------------------------------------------------------------------------


def land(
    cache: ContentCache,
    place: Place,
    settle: Settle | None,
    watcher: Watcher,
    *,
    patient: bool = True,
    answered: bool = False,
) -> Flow[Path]:
    """The content at *place*, in the cache; not transferred when it is there. *settle* says what became of it, once
    all has arrived of what had no digest before.

    While somebody else on this machine brings it, that is waited for; if not *patient*, only for some seconds: then
    it is brought beside. *answered*: the server has just done so; else one that cannot be reached at first is not
    waited for.
    Raises `FollowBroken` when another content came of it.
    """
    for last in (False, True):
        place, part = yield from _held(cache, place, patient=patient)
        if isinstance(part, Path):
            return part
        try:
            resumed = yield from _transfer(part, place, watcher, answered=answered)
            sha256 = place.sha256
            if sha256 is None:
                response = yield from (settled(place) if settle is None else settle())
                sha256 = response.content_attributes.sha256
                if sha256 != part.sha256:
                    yield from do(part.discard)
                    raise FollowBroken
            return (yield from do(partial(part.finish, sha256)))
        except ContentRotten:
            # What an earlier attempt left may not have survived a crash of the machine; what came now has.
            if last or not resumed:
                raise
        finally:
            part.close()
    raise AssertionError("the second round returns or raises")


def _held(cache: ContentCache, place: Place, *, patient: bool) -> Flow[tuple[Place, Part | Path]]:
    """The part of *place*, ours to go on with; or the content, when it is there."""
    waited, looks = False, 0
    while True:
        if place.sha256 is not None:
            found = yield from do(partial(cache.path, place.sha256, size_bytes=place.size_bytes))
            if found is not None:
                return place, found
        beside = not patient and looks * _LOOK_AGAIN_S >= _BESIDE_AFTER_S
        part = yield from do(partial(cache.begin, place.key, beside=beside))
        if part is None:
            waited, looks = True, looks + 1
            yield Wait(_LOOK_AGAIN_S)
            continue
        if place.sha256 is not None:
            # Whoever had it may have brought it whole between the look and our turn.
            found = yield from do(partial(cache.path, place.sha256, size_bytes=place.size_bytes))
            if found is None:
                return place, part
            if part.leftover() is None:
                part.discard()
            part.close()
            return place, found
        if part.lone or not waited:
            return place, part
        # Whoever had it may have brought it whole: then its digest is known by now.
        if part.leftover() is None:
            part.discard()
        part.close()
        waited = False
        place = yield from now_at(place)


class _Landing:
    """A `Sink` that lets a content land in its part, if it is what goes on with it or a whole one."""

    def __init__(self, part: Part, watcher: Watcher) -> None:
        self._part, self._watcher = part, watcher
        self.total: int | None = None
        self._skip = 0

    def begin(self, status: int, fields: Fields) -> bool:
        """See `Sink.begin`."""
        etag = fields.get("ETag")
        if status == 200:
            self._part.restart(etag if is_strong_etag(etag) else None)
            self.total = _length(fields)
        elif status == 206:
            span = parse_content_range(fields.joined("Content-Range"))
            if (
                not isinstance(span, ContentRange)
                or span.start != _resumed_at(self._part)
                or etag != self._part.etag
            ):
                raise ServerAnswerInvalid("the server resumes a content with another part or version of it")
            self.total, self._skip = span.total, self._part.landed - span.start
        else:
            return False
        self._watcher.head(self._part, self.total)
        return True

    def write(self, piece: bytes) -> None:
        """See `Sink.write`."""
        if self._skip:
            piece, self._skip = piece[self._skip :], max(self._skip - len(piece), 0)
        if piece:
            self._part.write(piece)
            self._watcher.landed()


def _resumed_at(part: Part) -> int:
    """Where to go on: at the last byte that is here. It is there for sure, so the server answers at once; the next
    one may still have to land, and a head waits for the first byte of its body."""
    return part.landed - 1


def _length(fields: Fields) -> int | None:
    try:
        return content_length(fields)
    except AmbiguousLength as error:
        raise ServerAnswerInvalid(str(error)) from None


def _transfer(part: Part, place: Place, watcher: Watcher, *, answered: bool) -> Flow[bool]:
    """Let all bytes of *place* land in *part*; whether it began with what an earlier attempt left."""
    leftover = yield from do(part.leftover)
    if leftover is not None:
        yield from do(partial(part.resume, leftover))
    patience, furthest = Patience(), part.landed
    while True:
        sink = _Landing(part, watcher)
        try:
            answer = yield from _content(part, place, sink)
            if answer is None:
                return leftover is not None
            cut = ServerUnreachable(reason=answer.cut or "the connection was cut")
        except ServerUnreachable as error:
            if part.landed == 0 and not answered:
                raise
            cut = error
        if part.landed > furthest:  # what only came once more is no progress
            furthest = part.landed
            patience.renewed()
        yield from patience.after(cut)


def _content(part: Part, place: Place, sink: _Landing) -> Flow[Answer | None]:
    """Ask for what *part* lacks. None: nothing is lacking any more; an answer: it broke off."""
    fields = [("Accept-Encoding", "identity")]
    if part.landed and part.etag is not None:
        fields += [("Range", range_from(_resumed_at(part))), ("If-Range", part.etag)]
    call = Call("GET", f"{place.path}/content", fields=tuple(fields), patience_s=_SILENT_S, sink=sink)
    answer = yield from send(call)
    if answer.status == 416:  # more is here than it has
        yield from do(partial(part.restart, None))
        return answer
    if answer.status in (200, 206):
        return None if answer.cut is None else answer
    good(call, answer)
    raise ServerAnswerInvalid(f"the server answers a request for content with {answer.status}")
