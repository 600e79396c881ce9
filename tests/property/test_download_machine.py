"""The stubborn download against a model origin that cuts, forgets, changes and lies."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from forebay.core.download import Phase, begin, step
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
from forebay.core.fields import Fields, format_http_date, is_strong_etag
from forebay.core.reuse import StoredVersion, Validators
from forebay.errors import HashMismatch

URL = "https://data.example/set.bin"
WALL = 1_800_000_000.0
LIMITS = Limits(max_redirects=3)


@dataclass(frozen=True, slots=True)
class Thing:
    """One representation that the origin has, or had."""

    body: bytes
    etag: str | None
    last_modified: str | None
    says_length: bool

    def validators(self) -> list[tuple[str, str]]:
        pairs = [("ETag", self.etag), ("Last-Modified", self.last_modified)]
        return [(name, value) for name, value in pairs if value is not None]

    def stored(self) -> StoredVersion:
        digest = hashlib.sha256(self.body).hexdigest()
        return StoredVersion("v", Validators(self.etag, self.last_modified), len(self.body), None, digest)


# Few tags, dates and lengths: so that changes happen to look alike, as they do.
THINGS = st.builds(
    Thing,
    st.one_of(st.binary(min_size=6, max_size=8), st.binary(max_size=2)),
    st.sampled_from(['"a"', '"b"', 'W/"a"', 'W/"b"', "bare", None]),
    st.sampled_from([format_http_date(WALL - 100), format_http_date(WALL - 50), None]),
    st.booleans(),
)
LIES = st.sampled_from(["start-1", "start+1", "total+1", "total-1", "total*", "stop-1", "none", "garbage", "*"])
ENDINGS = st.sampled_from(["cut", "busy", "loop", "ignores-range", "bad-range", "not-modified", "short"])


def content_range(start: int, total: int, lie: str | None = None) -> list[tuple[str, str]]:
    stop, shown = total, str(total)
    match lie:
        case "none":
            return []
        case "garbage":
            return [("Content-Range", "bytes all of it")]
        case "*":
            return [("Content-Range", f"bytes */{total}")]
        case "start-1":
            start -= 1
        case "start+1":
            start += 1
        case "stop-1":
            stop -= 1
        case "total*":
            shown = "*"
        case "total+1":
            stop, shown = total + 1, str(total + 1)
        case "total-1":
            stop, shown = total - 1, str(total - 1)
    return [("Content-Range", f"bytes {start}-{stop - 1}/{shown}")]


class DownloadMachine(RuleBasedStateMachine):
    """Hypothesis plays the origin and the network; the model is the shell: a buffer and a clock."""

    @initialize(
        first=THINGS,
        stored=st.one_of(st.none(), THINGS),
        same=st.booleans(),
        picky=st.booleans(),
        probe=st.booleans(),
        kept=st.integers(0, 5),
        method=st.sampled_from(["GET", "GET", "GET", "POST"]),
        ending=ENDINGS,
    )
    def start(
        self,
        first: Thing,
        stored: Thing | None,
        same: bool,
        picky: bool,
        probe: bool,
        kept: int,
        method: str,
        ending: str,
    ) -> None:
        self.thing = first
        self.ever = {first.body}
        self.stored = first if same else stored
        self.expected = first.body if picky else None
        self.ending = ending
        self.now = 0.0
        self.buffer = bytearray()
        # The representations whose bytes are in the buffer; more than one only if the origin's lie showed
        # in nothing.
        self.sources: set[bytes] = set()
        self.rest = b""
        self.chunked = False
        self.generation = 1
        self.bytes_landed = 0
        self.done: Action | None = None
        self.refuted = False
        self.prefix: Representation | None = None
        length = min(kept, max(0, len(first.body) - 1)) if method == "GET" else 0
        if length:
            self.buffer += first.body[:length]
            self.sources = {first.body}
            self.prefix = Representation(
                etag=first.etag,
                last_modified=first.last_modified,
                total=len(first.body) if first.says_length else None,
            )
        self.state, actions = begin(
            Ask(method, URL),
            limits=LIMITS,
            now=self.now,
            stored=None if self.stored is None else self.stored.stored(),
            probe=probe,
            prefix=self.prefix,
            length=length,
        )
        self.perform(actions)

    # --- the shell -------------------------------------------------------------------------------------

    def tell(self, event: Event, jitter: float = 0.5) -> None:
        self.state, actions = step(self.state, event, self.now, jitter)
        self.perform(actions)

    def perform(self, actions: list[Action]) -> None:
        assert self.state.generation >= self.generation, "a generation never decreases"
        self.generation = self.state.generation
        assert len(actions) <= 1
        for action in actions:
            match action:
                case Send():
                    self.check_send(action)
                    self.sent = action
                case Write(offset, generation, representation):
                    assert generation == self.generation
                    if offset == 0:
                        self.buffer.clear()
                        self.sources.clear()
                    assert offset == len(self.buffer), "bytes are appended where the last ones ended"
                    self.prefix = representation
                case Wait(seconds):
                    assert seconds >= 0, "no wait is negative"
                    self.wait = seconds
                case Commit():
                    self.check_commit(action)
                case Unchanged() | Abandon():
                    self.done = action

    def check_send(self, send: Send) -> None:
        fields = dict(send.fields)
        assert ("Range" in fields) == ("If-Range" in fields), "never a Range without If-Range"
        if "Range" not in fields:
            return
        assert send.method == "GET"
        assert fields["Range"] == f"bytes={len(self.buffer)}-"
        assert self.buffer
        assert self.prefix is not None
        strong = is_strong_etag(self.prefix.etag)
        assert fields["If-Range"] == (self.prefix.etag if strong else self.prefix.last_modified)

    def check_commit(self, commit: Commit) -> None:
        body = bytes(self.buffer)
        assert commit.length == len(body)
        assert commit.representation.total == len(body)
        if len(self.sources) <= 1:
            assert body in self.ever, "what is committed existed as a whole"
        if self.expected is not None and body != self.expected:
            error = HashMismatch(URL, algorithm="sha256", expected="a", got="b")
            self.refuted = True
            self.tell(Mismatched(error))
        else:
            self.done = commit

    def head(self, status: int, pairs: list[tuple[str, str]]) -> None:
        self.tell(Head(status, Fields(pairs), WALL))

    def land(self, size: int) -> None:
        piece, self.rest = self.rest[:size], self.rest[size:]
        self.buffer += piece
        self.bytes_landed += len(piece)
        self.tell(Landed(len(self.buffer)))

    # --- what an exchange can do -----------------------------------------------------------------------

    def is_sent(self) -> bool:
        return self.done is None and self.state.phase is Phase.SENT

    def is_receiving(self) -> bool:
        return self.done is None and self.state.phase is Phase.RECEIVING

    def is_waiting(self) -> bool:
        return self.done is None and self.state.phase is Phase.WAITING

    def serve_whole(self) -> None:
        thing = self.thing
        self.chunked = not thing.says_length
        length = [("Transfer-Encoding", "chunked")] if self.chunked else [("Content-Length", str(len(thing.body)))]
        self.head(200, [*length, *thing.validators()])
        if self.is_receiving():
            self.rest, self.sources = thing.body, {thing.body}

    def serve_rest(self, start: int, thing: Thing, pairs: list[tuple[str, str]]) -> None:
        """A 206; when the machine takes bytes of another representation, nothing may have shown it."""
        before, length = self.prefix, len(self.buffer)
        self.head(206, pairs)
        if not self.is_receiving():
            return
        assert before is not None
        fields = Fields(pairs)
        total = len(thing.body)
        assert fields.get("Content-Range") == f"bytes {length}-{total - 1}/{total}"
        assert before.total in (None, total)
        if is_strong_etag(before.etag):
            assert fields.get("ETag") in (None, before.etag)
            assert fields.get("ETag") or before.total is not None
        else:
            assert before.last_modified is not None
            assert fields.get("Last-Modified") == before.last_modified
            assert None in (before.etag, fields.get("ETag")) or fields.get("ETag") == before.etag
        self.rest = thing.body[start:]
        self.sources.add(thing.body)

    def range_start(self) -> int | None:
        value = dict(self.sent.fields).get("Range")
        return None if value is None else int(value.removeprefix("bytes=").removesuffix("-"))

    @precondition(is_sent)
    @rule(chunked=st.booleans())
    def answer_honestly(self, chunked: bool) -> None:
        """As HTTP says: 206 when If-Range holds, 304 when the condition does, else the whole."""
        thing, fields, start = self.thing, dict(self.sent.fields), self.range_start()
        if self.sent.method == "HEAD":
            length = [("Content-Length", str(len(thing.body)))] if thing.says_length else []
            self.head(200, [*length, *thing.validators()])
            return
        if start is not None:
            validator = fields["If-Range"]
            holds = validator == thing.etag if validator.startswith('"') else validator == thing.last_modified
            if holds and start >= len(thing.body):
                self.head(416, [("Content-Range", f"bytes */{len(thing.body)}")])
                return
            if holds:
                self.chunked = chunked
                size = len(thing.body) - start
                how = ("Transfer-Encoding", "chunked") if chunked else ("Content-Length", str(size))
                self.serve_rest(start, thing, [*content_range(start, len(thing.body)), how, *thing.validators()])
                return
        elif "If-None-Match" in fields:
            if fields["If-None-Match"] == thing.etag:
                self.head(304, thing.validators())
                return
        elif "If-Modified-Since" in fields and fields["If-Modified-Since"] == thing.last_modified:
            self.head(304, thing.validators())
            return
        self.serve_whole()

    @precondition(is_sent)
    @rule()
    def ignore_the_range(self) -> None:
        """200 whatever was asked."""
        if self.sent.method != "HEAD":
            self.serve_whole()

    @precondition(is_sent)
    @rule(lie=LIES, mute=st.booleans())
    def lie_in_content_range(self, lie: str, mute: bool) -> None:
        """A 206 whose Content-Range is not that of what was asked, or that nobody asked for."""
        start = self.range_start() or 0
        total = len(self.thing.body)
        if start >= total or (lie == "total-1" and start >= total - 1):
            return
        before = self.prefix
        pairs = content_range(start, total, lie) + ([] if mute else self.thing.validators())
        self.head(206, pairs)
        if self.is_receiving():
            # Of a body that began without a length nothing else is known.
            assert lie in ("total+1", "total-1"), "a 206 that does not match is never taken"
            assert before is not None
            assert before.total is None
            self.chunked = False
            self.rest = self.thing.body[start:]
            self.sources |= {self.thing.body, b"a lie about the total"}

    @precondition(is_sent)
    @rule(other=THINGS, mute=st.booleans(), pose=st.booleans())
    def answer_with_the_rest_of_something_else(self, other: Thing, mute: bool, pose: bool) -> None:
        """A 206 of another representation, whatever If-Range says: with its own validators, with none, or
        posing as the one that was asked for."""
        start = self.range_start()
        if start is None or start >= len(other.body):
            return
        if pose and self.prefix is not None:
            other = replace(other, etag=self.prefix.etag, last_modified=self.prefix.last_modified)
        self.ever.add(other.body)
        self.chunked = False
        length = ("Content-Length", str(len(other.body) - start))
        validators = [] if mute else other.validators()
        self.serve_rest(start, other, [*content_range(start, len(other.body)), length, *validators])

    @precondition(is_sent)
    @rule(status=st.sampled_from([416, 429, 500, 503]), after=st.sampled_from([None, "0", "3", "x"]))
    def answer_without_content(self, status: int, after: str | None) -> None:
        self.head(status, [] if after is None else [("Retry-After", after)])

    @precondition(is_sent)
    @rule(status=st.sampled_from([403, 404]), really=st.integers(0, 9))
    def answer_for_good(self, status: int, really: int) -> None:
        if really == 9:  # rarely: it is the end of the run
            self.head(status, [])

    @precondition(is_sent)
    @rule(status=st.sampled_from([301, 302, 303, 307, 308]), location=st.sampled_from(["/a", "https://b.example/"]))
    def redirect(self, status: int, location: str) -> None:
        self.head(status, [("Location", location)])

    @precondition(is_sent)
    @rule()
    def answer_304(self) -> None:
        """304 whatever was asked: it confirms only when a condition was sent."""
        conditional = {"If-None-Match", "If-Modified-Since"} & dict(self.sent.fields).keys()
        self.refuted = False
        self.head(304, [])
        # Of a prefix that is whole already, it confirms that one: then it is committed, if its digest is right.
        assert isinstance(self.done, Unchanged | Commit) == (bool(conditional) and not self.refuted)

    @precondition(is_sent)
    @rule()
    def break_off_before_the_head(self) -> None:
        self.tell(Failed("origin_unreachable", "no connection", len(self.buffer)))

    @precondition(is_receiving)
    @rule(size=st.integers(1, 4))
    def some_bytes_land(self, size: int) -> None:
        if self.rest:
            self.land(size)

    @precondition(is_receiving)
    @rule(size=st.integers(0, 7))
    def cut_the_body(self, size: int) -> None:
        self.land(size)
        if self.is_receiving():
            self.tell(Failed("origin_cut", "cut", len(self.buffer)))

    @precondition(is_receiving)
    @rule()
    def end_the_body(self) -> None:
        self.land(len(self.rest))
        if self.is_receiving():
            self.tell(Eof(len(self.buffer)))

    @precondition(is_receiving)
    @rule()
    def end_the_body_early(self) -> None:
        """Fewer bytes than announced; without an announcement that would be a lie that shows in nothing."""
        if self.prefix is not None and self.prefix.total not in (None, len(self.buffer)):
            self.tell(Eof(len(self.buffer)))
            assert not isinstance(self.done, Commit)

    @precondition(is_receiving)
    @rule(junk=st.binary(min_size=1, max_size=3))
    def go_on_past_the_end(self, junk: bytes) -> None:
        """Chunks past the range of a 206; the end of a length is the transport's to see."""
        if self.chunked and self.prefix is not None and self.prefix.total is not None:
            self.rest += junk
            self.land(len(self.rest))
            self.tell(Eof(len(self.buffer)))
            assert not isinstance(self.done, Commit)

    @precondition(is_waiting)
    @rule(jitter=st.floats(0, 1, exclude_max=True))
    def wake(self, jitter: float) -> None:
        self.now += self.wait
        self.tell(Woke(), jitter)

    @rule(other=THINGS)
    def change_the_representation(self, other: Thing) -> None:
        """A body that is being sent stays what it was: the change is seen by the next exchange."""
        self.thing = other
        self.ever.add(other.body)

    @invariant()
    def a_finished_download_stays_finished(self) -> None:
        if getattr(self, "done", None) is not None:
            assert self.state.phase is Phase.DONE

    # --- the end ---------------------------------------------------------------------------------------

    def teardown(self) -> None:
        """From here on the origin brings nothing new: the machine gives up in a bounded number of steps."""
        if not hasattr(self, "ending"):
            return
        exchanges = 0
        highest = len(self.buffer)
        while self.done is None:
            match self.state.phase:
                case Phase.WAITING:
                    self.wake(0.5)
                case Phase.RECEIVING:
                    if self.ending == "short" and self.prefix is not None and self.prefix.total is not None:
                        self.tell(Eof(min(highest, len(self.buffer))))
                    else:
                        self.tell(Failed("origin_cut", "cut", len(self.buffer)))
                case Phase.SENT:
                    exchanges += 1
                    assert exchanges <= 200, "without progress it ends"
                    self.exchange_without_progress()
                case Phase.DONE:
                    raise AssertionError("done without an action that says so")

    def exchange_without_progress(self) -> None:
        match self.ending:
            case "busy":
                self.head(503, [("Retry-After", "1")])
            case "loop":
                self.head(302, [("Location", URL)])
            case "ignores-range" | "short":
                self.serve_whole()
                self.rest = b""
            case "bad-range":
                self.head(206, [("Content-Range", "bytes 0-0/1")])
            case "not-modified":
                self.head(304, [])
            case _:
                self.tell(Failed("origin_unreachable", "no connection", len(self.buffer)))


TestDownloadMachine = DownloadMachine.TestCase
TestDownloadMachine.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
