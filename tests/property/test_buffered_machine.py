"""Any sequence of operations on a `BufferedServerResponse`, beside a small model of it."""

from __future__ import annotations

import asyncio
import io
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from forebay import BufferedServerResponse
from forebay.errors import HeadersAlreadySent, InvalidHeader, ResponseFinished, StateError
from forebay.messages import spool
from forebay.messages.sinks import AsgiSink

NAMES = st.sampled_from(["X-A", "x-a", "X-B", "Content-Type", "content-type", "ETag"])
VALUES = st.text("abc", min_size=1, max_size=3)
TEXTS = st.text(max_size=6).filter(lambda text: text.isprintable()) | st.text("ab", min_size=20, max_size=60)
BODILESS = (204, 205, 304)


class Model:
    """What a response should be."""

    def __init__(self) -> None:
        self.fields: list[tuple[str, str]] = []
        self.status = 200
        self.unsent = b""
        self.sent = b""
        self.place = 0
        self.text = True
        self.head: tuple[int, dict[str, list[str]]] | None = None
        self.finished = False

    def all(self, name: str) -> list[str]:
        """Every value of *name*."""
        return [value for key, value in self.fields if key.lower() == name.lower()]

    def remove(self, name: str) -> None:
        """Take *name* away."""
        self.fields = [pair for pair in self.fields if pair[0].lower() != name.lower()]

    def shown(self) -> dict[str, list[str]]:
        """The fields by name."""
        return {name.lower(): self.all(name) for name, _ in self.fields}

    def begin(self, length: int | None) -> None:
        """Send the head."""
        if self.unsent and not self.all("Content-Type"):
            kind = "text/plain; charset=utf-8" if self.text else "application/octet-stream"
            self.fields.append(("Content-Type", kind))
        if length is not None and self.status not in (204, 304):
            self.fields.append(("Content-Length", str(length)))
        elif self.status == 205:
            self.fields.append(("Content-Length", "0"))
        self.head = self.status, self.shown()

    def send(self) -> None:
        """Send what is there."""
        self.sent += self.unsent
        self.unsent = b""
        self.place = len(self.sent)


class Responses(RuleBasedStateMachine):
    """A recorder; everything is kept."""

    method = "GET"

    def __init__(self) -> None:
        super().__init__()
        self.model = Model()
        self.response: Any = None

    @initialize(bound=st.integers(0, 40))
    def begin(self, bound: int) -> None:
        """Keep no more than *bound* bytes in memory."""
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(spool, "SPOOL_BYTES", bound)
        self.patch.setattr(spool, "PIECE_BYTES", 7)
        self.response = BufferedServerResponse()

    def teardown(self) -> None:
        if self.response is not None:
            self.response.close()
            self.patch.undo()

    def _flush(self) -> None:
        self.response.flush()

    def _finish(self) -> None:
        self.response.finish()

    def _send_error(self, code: int, message: str) -> None:
        self.response.send_error(code, message)

    # --- operations ------------------------------------------------------------------------------------

    @rule(name=NAMES, value=VALUES, adds=st.booleans())
    def set_or_add(self, name: str, value: str, adds: bool) -> None:
        """A field, until the head is sent."""
        change = self.response.add_header if adds else self.response.set_header
        if self.model.head is not None:
            with pytest.raises(HeadersAlreadySent):
                change(name, value)
            return
        change(name, value)
        if adds or not self.model.all(name):
            self.model.fields.append((name, value))
        else:
            place = next(n for n, pair in enumerate(self.model.fields) if pair[0].lower() == name.lower())
            after = [pair for pair in self.model.fields[place + 1 :] if pair[0].lower() != name.lower()]
            self.model.fields = [*self.model.fields[:place], (name, value), *after]

    @rule(name=NAMES)
    def remove(self, name: str) -> None:
        """A field, until the head is sent."""
        if self.model.head is not None:
            with pytest.raises(HeadersAlreadySent):
                self.response.remove_header(name)
            return
        self.response.remove_header(name)
        self.model.remove(name)

    @rule(name=st.sampled_from(["a b", "", "ä", "X\r\n"]))
    def set_a_bad_one(self, name: str) -> None:
        """It changes nothing."""
        with pytest.raises((InvalidHeader, HeadersAlreadySent)):
            self.response.set_header(name, "x")

    @rule(code=st.sampled_from([200, 201, 404, 500, *BODILESS]))
    def set_status(self, code: int) -> None:
        """Until the head is sent."""
        if self.model.head is not None:
            with pytest.raises(HeadersAlreadySent):
                self.response.set_status_code(code)
            return
        self.response.set_status_code(code)
        self.model.status = code

    @rule(data=TEXTS | TEXTS.map(str.encode))
    def write(self, data: str | bytes) -> None:
        """At the end, wherever the file stands."""
        raw = data.encode() if isinstance(data, str) else data
        if self.model.finished:
            with pytest.raises(ResponseFinished):
                self.response.write(data)
            return
        assert self.response.write(data) == len(raw)
        self.model.unsent += raw
        self.model.text = self.model.text and (isinstance(data, str) or not data)
        self.model.place = len(self.model.sent) + len(self.model.unsent)

    @rule(data=TEXTS.map(str.encode))
    def write_into_the_file(self, data: bytes) -> None:
        """Where it stands."""
        if self.model.finished:
            with pytest.raises(ResponseFinished):
                self.response.io().write(data)
            return
        assert self.response.io().write(data) == len(data)
        model = self.model
        place = model.place - len(model.sent)
        if data:
            before = model.unsent[:place].ljust(place, b"\0")
            model.unsent = before + data + model.unsent[place + len(data) :]
        model.place += len(data)
        model.text = False

    @rule(offset=st.integers(0, 80), whence=st.sampled_from([io.SEEK_SET, io.SEEK_END]))
    def seek(self, offset: int, whence: int) -> None:
        """Anywhere in what was not sent."""
        model = self.model
        place = offset if whence == io.SEEK_SET else len(model.sent) + len(model.unsent)
        if place < len(model.sent):
            with pytest.raises(io.UnsupportedOperation):
                self.response.io().seek(place)
            return
        assert self.response.io().seek(*((place,) if whence == io.SEEK_SET else (0, whence))) == place
        model.place = place

    @rule(size=st.integers(-1, 20))
    def read(self, size: int) -> None:
        """What was written and not sent, from where the file stands."""
        model = self.model
        place = model.place - len(model.sent)
        expected = model.unsent[place:] if size < 0 else model.unsent[place : place + size]
        assert self.response.io().read(size) == expected
        model.place += len(expected)

    @rule()
    def close_the_file(self) -> None:
        """The next one is over the same bytes."""
        self.response.io().close()

    @rule()
    def truncate(self) -> None:
        """Only what was not sent."""
        self.response.truncate()
        self.model.unsent, self.model.text, self.model.place = b"", True, len(self.model.sent)

    @rule()
    def clear(self) -> None:
        """Fields and what was not sent, until the head is; the status stays."""
        if self.model.head is not None:
            with pytest.raises(HeadersAlreadySent):
                self.response.clear()
            return
        self.response.clear()
        self.model.fields = []
        self.model.unsent, self.model.text, self.model.place = b"", True, len(self.model.sent)

    @rule()
    def flush(self) -> None:
        """The head the first time, and what was written."""
        model = self.model
        if model.finished:
            self._flush()
            return
        if model.unsent and model.status in BODILESS:
            with pytest.raises(StateError):
                self._flush()
            return
        self._flush()
        if model.head is None:
            model.begin(None)
        model.send()

    @rule()
    def finish(self) -> None:
        """The rest, and the end; with its length when nothing was sent before. Twice is once."""
        model = self.model
        if not model.finished and model.unsent and model.status in BODILESS:
            with pytest.raises(StateError):
                self._finish()
            return
        self._finish()
        if model.finished:
            return
        if model.head is None:
            model.begin(len(model.unsent))
        model.send()
        model.finished = True

    @precondition(lambda self: self.model.head is not None)
    @rule()
    def send_an_error_too_late(self) -> None:
        """Not once the head is sent."""
        with pytest.raises(HeadersAlreadySent):
            self._send_error(500, "no")

    @precondition(lambda self: self.model.head is None)
    @rule(code=st.sampled_from([400, 404, 503]), message=TEXTS)
    def send_an_error(self, code: int, message: str) -> None:
        """Instead of everything so far; it ends the answer."""
        self._send_error(code, message)
        model = self.model
        model.fields = [("Content-Type", "text/plain; charset=utf-8")]
        model.status, model.unsent = code, message.encode()
        model.begin(len(model.unsent))
        model.send()
        model.finished = True

    # --- what holds ------------------------------------------------------------------------------------

    @invariant()
    def it_is_as_the_model(self) -> None:
        """After each operation."""
        if self.response is None:
            return
        response, model = self.response, self.model
        assert response.data() == model.unsent
        assert response.status_code() == model.status
        assert response.headers_sent() == (model.head is not None)
        shown = {name.lower(): response.headers().get_all(name) for name in response.headers()}
        assert shown == model.shown()
        assert response.header("X-A") == response.header("x-a") == ", ".join(model.all("X-A"))
        assert response.header("X-None") == ""
        self.it_has_sent(model)

    def it_has_sent(self, model: Model) -> None:
        """What the recorder kept is what was flushed."""
        assert self.response.body() == model.sent
        if model.head is not None:
            full = self.response.full_headers()
            assert {name.lower(): full.get_all(name) for name in full} == model.head[1]


class BoundResponses(Responses):
    """On a connection; what was sent is gone, and has gone out."""

    def __init__(self) -> None:
        super().__init__()
        self.events: list[Any] = []
        self.loop = asyncio.new_event_loop()

    @initialize(bound=st.integers(0, 40))
    def begin(self, bound: int) -> None:
        """See `Responses.begin`."""
        super().begin(bound)

        async def receive() -> Any:
            await asyncio.Event().wait()

        async def send(event: Any) -> None:
            self.events.append(event)

        async def make() -> AsgiSink:
            scope = {"method": self.method, "http_version": "1.1", "headers": []}
            return AsgiSink(scope, receive, send)

        self.response = BufferedServerResponse(self.loop.run_until_complete(make()))

    def teardown(self) -> None:
        async def close() -> None:
            super(BoundResponses, self).teardown()
            await asyncio.gather(*(asyncio.all_tasks() - {asyncio.current_task()}), return_exceptions=True)

        self.loop.run_until_complete(close())
        self.loop.close()

    def _flush(self) -> None:
        self.loop.run_until_complete(self.response.aflush())

    def _finish(self) -> None:
        self.loop.run_until_complete(self.response.afinish())

    def _send_error(self, code: int, message: str) -> None:
        self.loop.run_until_complete(self.response.asend_error(code, message))

    @rule()
    def block_the_loop(self) -> None:
        """What would wait is refused where it must not, and changes nothing."""

        async def run() -> None:
            with pytest.raises(StateError, match="aflush"):
                self.response.flush()
            if not self.model.finished:
                with pytest.raises(StateError, match="afinish"):
                    self.response.finish()
            if self.model.head is None:
                with pytest.raises(StateError, match="asend_error"):
                    self.response.send_error(500, "no")

        self.loop.run_until_complete(run())

    def it_has_sent(self, model: Model) -> None:
        """What went out is what was flushed, one head and one end."""
        assert self.response.body() == b""
        starts = [event for event in self.events if event["type"] == "http.response.start"]
        bodies = [event for event in self.events if event["type"] == "http.response.body"]
        assert len(starts) == (model.head is not None)
        if model.head is not None:
            fields: dict[str, list[str]] = {}
            for name, value in starts[0]["headers"]:
                fields.setdefault(name.decode(), []).append(value.decode())
            assert (starts[0]["status"], fields) == model.head
        assert b"".join(event["body"] for event in bodies) == (b"" if self.method == "HEAD" else model.sent)
        assert [event["more_body"] for event in bodies].count(False) == model.finished
        assert self.events[-1:] == bodies[-1:] if model.finished else True


class HeadResponses(BoundResponses):
    """On a connection that asked with HEAD: the same head, and no body."""

    method = "HEAD"


TestResponses = Responses.TestCase
TestBoundResponses = BoundResponses.TestCase
TestHeadResponses = HeadResponses.TestCase
