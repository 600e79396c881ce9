"""Where the parts of an answer go that is written piece by piece: to a connection, or to memory."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Protocol

from forebay.messages.asgi import Receive, Scope, Send


@dataclass(frozen=True, slots=True)
class Head:
    """The first part of an answer."""

    status: int
    headers: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Data:
    """Bytes of its body."""

    data: bytes


@dataclass(frozen=True, slots=True)
class End:
    """Nothing comes any more: the answer is whole."""


Part = Head | Data | End


class Sink(Protocol):
    """Takes the parts of one answer, in order: a head, any number of data, an end."""

    @property
    def likes_problems(self) -> bool:
        """Whether the client asked for problem documents by name."""
        ...

    def put(self, part: Part) -> None:
        """Take *part*; waits as long as the client does not. Raises `ClientGone`; `StateError` where waiting would
        stop an event loop."""
        ...

    async def aput(self, part: Part) -> None:
        """The same, in an event loop."""
        ...

    def check(self) -> None:
        """Raise `StateError` where `put` would."""
        ...

    def body(self) -> bytes:
        """What was taken of the body, where it is kept."""
        ...


class AsgiSink:
    """A `Sink` that sends on one ASGI exchange; close it when the exchange is over."""

    def __init__(
        self, scope: Scope, receive: Receive, send: Send, *, loop: asyncio.AbstractEventLoop | None = None
    ) -> None:
        raise NotImplementedError

    @property
    def likes_problems(self) -> bool:
        """See `Sink.likes_problems`."""
        raise NotImplementedError

    def put(self, part: Part) -> None:
        """See `Sink.put`."""
        raise NotImplementedError

    async def aput(self, part: Part) -> None:
        """See `Sink.aput`."""
        raise NotImplementedError

    def check(self) -> None:
        """See `Sink.check`."""
        raise NotImplementedError

    def body(self) -> bytes:
        """See `Sink.body`: what was sent is gone."""
        raise NotImplementedError

    def close(self) -> None:
        """Wait for nothing any more."""
        raise NotImplementedError
