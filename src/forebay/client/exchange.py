"""What is said to a server and what comes back, without I/O: written once, driven by a sync and an async driver.

A *flow* is a generator that yields what is to be done (a `Call`, a `Wait`, a `Do`), is sent what came of it, and
returns a result. What cannot be reached is thrown into it as `ServerUnreachable`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeVar, get_args

from pydantic import BaseModel, TypeAdapter, ValidationError

from forebay.client.problems import error_in, is_problem, problem_in
from forebay.core.fields import Fields
from forebay.core.urls import show_url
from forebay.errors import ServerAnswerInvalid, ServerUnreachable

T = TypeVar("T")
M = TypeVar("M", bound=BaseModel)

# Beyond the time that a server may take by the terms of the call itself.
ANSWER_S = 30.0
# What a proxy says when the server behind it is not there (RFC 9110 sections 15.6.3 to 15.6.5).
_GATEWAY = frozenset({502, 503, 504})


class Sink(Protocol):
    """Takes the body of an answer, if it wants it, piece by piece."""

    def begin(self, status: int, fields: Fields) -> bool:
        """The head is here; whether `write` shall get the body. Else it is read into the `Answer`."""
        ...

    def write(self, piece: bytes) -> None:
        """The next bytes of the body. What it raises ends the call."""
        ...


class Content(Protocol):
    """The body of a call that is more than some JSON."""

    @property
    def size(self) -> int:
        """How many bytes it has."""
        ...

    def pieces(self) -> Iterator[bytes]:
        """Its bytes, from the first one on each time that it is asked. It may block."""
        ...


@dataclass(frozen=True, slots=True)
class Call:
    """One exchange with the server. *path* is below its base URL and percent-encoded; *body* is sent as JSON,
    *content* as it is. *patience_s*: how long the server may be silent. *idempotent*: a POST that may be sent
    twice."""

    method: Literal["GET", "HEAD", "PUT", "POST", "PATCH", "DELETE"]
    path: str
    query: tuple[tuple[str, str], ...] = ()
    body: Mapping[str, Any] | None = field(default=None, repr=False)  # it may hold secrets
    fields: tuple[tuple[str, str], ...] = ()
    patience_s: float = ANSWER_S
    sink: Sink | None = field(default=None, repr=False)
    idempotent: bool = False
    content: Content | None = field(default=None, repr=False)

    @property
    def may_be_sent_again(self) -> bool:
        """Whether it may be sent once more when nobody knows what became of the first (RFC 9110 section 9.2.2)."""
        # Not DELETE: its second answer would say that there is no such version, which the first has removed.
        return self.idempotent or self.method in ("GET", "HEAD", "PUT")


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back. *body* is empty where a sink took it. *cut*: why the body broke off, None if it is whole."""

    status: int
    fields: Fields
    body: bytes = b""
    cut: str | None = None


@dataclass(frozen=True, slots=True)
class Wait:
    """Let *seconds* pass."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Do:
    """Something that may block, such as work on files; its result is sent back, what it raises is thrown."""

    work: Callable[[], Any]


@dataclass(frozen=True, slots=True)
class Together:
    """Several flows at once; the list of what they return is sent back. The first failure is thrown, and the others
    are broken off. *tick* is called some ten times a second meanwhile, where whoever runs the flow is."""

    flows: Sequence[Flow[Any]]
    tick: Callable[[], None] = lambda: None


Step = Call | Wait | Do | Together
Flow = Generator[Step, Any, T]


def do(work: Callable[[], T]) -> Flow[T]:
    """What *work* returns, done where blocking hurts nobody."""
    result: T = yield Do(work)
    return result


def together(flows: Sequence[Flow[T]], tick: Callable[[], None] = lambda: None) -> Flow[list[T]]:
    """What *flows* return, run at once."""
    results: list[T] = yield Together(flows, tick)
    return results


def send(call: Call) -> Flow[Answer]:
    """The answer to *call* as it is, whatever it says."""
    answer: Answer = yield call
    return answer


def ask(call: Call) -> Flow[Answer]:
    """The answer to *call*, which did what was asked. Raises what a problem document tells; `ServerUnreachable`
    for a body that broke off and for what a gateway in front of the server says."""
    return good(call, (yield from send(call)))


def good(call: Call, answer: Answer) -> Answer:
    """*answer*, if it is one to go on with; else raises as `ask` does."""
    if answer.cut is not None:
        raise ServerUnreachable(reason=answer.cut)
    if answer.status < 300:
        return answer
    if is_problem(answer.status, answer.fields):
        raise error_in(problem_in(answer.body), status=answer.status)
    if answer.status in _GATEWAY:
        raise ServerUnreachable(reason=f"a proxy in front of it answers {answer.status}")
    if answer.status < 400:
        place = show_url(answer.fields.get("Location") or "somewhere")
        raise _not_ours(call, f"redirects to {place}, which is not followed: give the server's own URL")
    raise _not_ours(call, f"answers {answer.status}, as no Forebay does")


def _not_ours(call: Call, what: str) -> ServerAnswerInvalid:
    return ServerAnswerInvalid(f"the server's {call.path} {what}")


def model_in(call: Call, answer: Answer, model: type[M]) -> M:
    """The *model* that *answer* holds."""
    return model_of(call, answer, model, _json_in(call, answer))


def models_in(call: Call, answer: Answer, model: type[M]) -> list[M]:
    """The list of *model* that *answer* holds."""
    values = _json_in(call, answer)
    if not isinstance(values, list):
        raise _not_ours(call, "answers with something else than a list")
    return [model_of(call, answer, model, value) for value in values]


def model_of(call: Call, answer: Answer, model: type[M], value: Any) -> M:
    """*value* as *model*. What a newer server adds is left out."""
    try:
        return model.model_validate(known(model, value))
    except ValidationError as error:
        where = ".".join(str(part) for part in error.errors(include_url=False)[0]["loc"])
        raise _not_ours(call, f"answers with no {model.__name__} ({where})") from None


def plain_in(call: Call, answer: Answer, adapter: TypeAdapter[T]) -> T:
    """What *answer* holds, by *adapter*."""
    try:
        return adapter.validate_python(_json_in(call, answer))
    except ValidationError as error:
        raise _not_ours(call, f"answers with something else ({error.error_count()} values)") from None


def _json_in(call: Call, answer: Answer) -> Any:
    try:
        return json.loads(answer.body)
    except ValueError:
        raise _not_ours(call, "answers with no JSON: is there a Forebay at this URL?") from None


def known(model: type[BaseModel], value: Any) -> Any:
    """*value* without what *model* has no field for, in all its parts."""
    if not isinstance(value, dict):
        return value
    return {
        name: _known_part(model.model_fields[name].annotation, part)
        for name, part in value.items()
        if name in model.model_fields
    }


def _known_part(kind: Any, value: Any) -> Any:
    inner = [part for part in (kind, *get_args(kind)) if isinstance(part, type) and issubclass(part, BaseModel)]
    if len(inner) != 1:  # a plain value, or a choice of models, which tells them apart by its fields
        return value
    if isinstance(value, list):
        return [known(inner[0], part) for part in value]
    return known(inner[0], value)
