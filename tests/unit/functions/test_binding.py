"""What comes over HTTP becomes the parameters of a function: each type from text and from JSON, and what is refused."""

import contextlib
import enum
import functools
import io
from collections.abc import Callable, Sequence
from datetime import date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field, TypeAdapter
from pydantic_core import to_json

from forebay import BufferedServerResponse, IncomingMessage, ServerResponse, UploadedFile
from forebay.errors import BodyInvalid, InvalidValue
from forebay.functions.binding import Binding, bind


class Query(BaseModel):
    word: str
    limit: int = 10


class Colour(enum.Enum):
    RED = "red"


class Owner:
    """Whose functions they are."""


class SpecialOwner(Owner):
    """One of them."""


OWNER = SpecialOwner()


def bound(call: Callable[..., Any]) -> Binding:
    return bind(call, owner=OWNER)


def taking(annotation: Any, *default: Any) -> Binding:
    """The binding of a function with one parameter, ``x``."""

    def call(x: Any) -> None: ...

    call.__annotations__["x"] = annotation
    call.__defaults__ = default or None
    return bound(call)


@pytest.mark.parametrize(
    ("annotation", "texts", "value"),
    [
        (int, ["7"], 7),
        (float, ["7.5"], 7.5),
        (str, ["7"], "7"),
        (str, ["[1]"], "[1]"),
        (bool, ["true"], True),
        (bytes, ["ü"], "ü".encode()),
        (date, ["2026-01-02"], date(2026, 1, 2)),
        (Decimal, ["1.10"], Decimal("1.10")),
        (UUID, ["12345678-1234-5678-1234-567812345678"], UUID("12345678-1234-5678-1234-567812345678")),
        (timedelta, ["PT1M"], timedelta(minutes=1)),
        (Path, ["a/b"], Path("a/b")),
        (Colour, ["red"], Colour.RED),
        (Literal["a", "b"], ["b"], "b"),
        (Literal[1, 2], ["2"], 2),
        (int | str, ["7"], 7),
        (int | str, ["x"], "x"),
        (int | None, ["7"], 7),
        (int | None, ["null"], None),
        (Annotated[int, Field(ge=1)], ["1"], 1),
        (list[int], ["1", "2"], [1, 2]),
        (list[int], ["1"], [1]),
        (list[int], ["[1, 2]"], [1, 2]),
        (list[str], ["[1"], ["[1"]),
        (list[Literal[1, 2]], ["1", "2"], [1, 2]),
        (set[int], ["1", "1"], {1}),
        (tuple[int, ...], ["1", "2"], (1, 2)),
        (Sequence[float] | None, ["1"], [1.0]),
        (Annotated[list[int], Field(min_length=1)], ["1"], [1]),
        (dict[str, int], ['{"a": 1}'], {"a": 1}),
        (Query, ['{"word": "w"}'], Query(word="w")),
        (Any, ["7"], "7"),
    ],
)
def test_text_becomes_what_the_annotation_says(annotation: Any, texts: list[str], value: Any) -> None:
    """From a query or a form: numbers where numbers are wanted, JSON where no text can say it."""
    got = taking(annotation).from_texts({"x": texts})["x"]
    assert got == value
    assert type(got) is type(value)


@pytest.mark.parametrize(
    ("annotation", "texts", "said"),
    [
        (int, ["x"], "x: expected a valid integer"),
        (int, ["1", "2"], "x: expected one value, got '2 values'"),
        (int, [""], "x: expected a valid integer"),
        (Annotated[int, Field(ge=1)], ["0"], "x: expected greater than or equal to 1"),
        (Literal["a"], ["b"], "x: expected 'a'"),
        (list[int], ["1", "x"], "x.1: expected a valid integer"),
        (list[int], ["[1, {}]"], "x.1: expected a valid integer"),
        (Query, ['{"word": 7}'], "x.word: expected a valid string"),
        (Query, ["{"], "x: expected"),
        (Query, ["word"], "x: expected"),
        (UploadedFile, ["text"], "x: expected a file of a multipart form, got 'none'"),
    ],
)
def test_a_wrong_text_is_named(annotation: Any, texts: list[str], said: str) -> None:
    """With the parameter, where in it, and the rule."""
    with pytest.raises(InvalidValue) as error:
        taking(annotation).from_texts({"x": texts})
    assert str(error.value).startswith(said)


def test_what_was_sent_is_not_quoted() -> None:
    """It may hold a secret."""
    with pytest.raises(InvalidValue) as error:
        taking(int).from_texts({"x": ["hunter2"]})
    assert "hunter2" not in str(error.value)
    with pytest.raises(InvalidValue) as error:
        taking(int).from_json(b'{"x": "hunter2"}')
    assert "hunter2" not in str(error.value)


def test_an_empty_text_is_as_good_as_none_where_there_is_a_default() -> None:
    """A browser sends every field of a form, filled in or not; a text that may be empty is one."""
    assert taking(int | None, None).from_texts({"x": [""]}) == {"x": None}
    assert taking(date, date(2026, 1, 1)).from_texts({"x": [""]}) == {"x": date(2026, 1, 1)}
    assert taking(str, "default").from_texts({"x": [""]}) == {"x": ""}


def report(year: int, format: str = "pdf", *, tags: list[str] | None = None) -> None: ...


@pytest.mark.parametrize(
    ("given", "values"),
    [
        ({"year": ["7"]}, {"year": 7}),
        ({"year": ["7"], "format": ["csv"], "tags": ["a", "b"]}, {"year": 7, "format": "csv", "tags": ["a", "b"]}),
        ({"params": ['{"year": 7}']}, {"year": 7}),
        ({"params": ['[7, "csv"]']}, {"year": 7, "format": "csv"}),
        ({"params": ["[7, null]"]}, "format: expected a valid string, got 'NoneType'"),
        ({}, "year: expected a value, got None"),
        ({"year": ["7"], "page": ["1"]}, "page: expected one of year, format, tags, got 'page'"),
        ({"params": ["[7]", "[8]"]}, "params: expected one JSON object or array, got '2 values'"),
        (
            {"params": ["[7]"], "year": ["7"]},
            "params: expected all parameters in it, or each by its name, got 'both'",
        ),
        ({"params": ["7"]}, "params: expected a JSON object or array of parameters, got 'int'"),
        ({"params": ["{"]}, "params: expected JSON, got 'other text'"),
        ({"params": ["[1,2,3,4]"]}, "params: expected at most 3 parameters, got '4 of them'"),
    ],
)
def test_parameters_come_by_name_or_as_json_in_one(given: dict[str, list[Any]], values: Any) -> None:
    """Each once, none unknown, none missing."""
    if isinstance(values, dict):
        assert bound(report).from_texts(given) == values
    else:
        with pytest.raises(InvalidValue) as error:
            bound(report).from_texts(given)
        assert str(error.value) == values


def test_a_parameter_may_be_called_params() -> None:
    """Then that is it, and nothing else."""

    def call(params: str) -> None: ...

    assert bound(call).from_texts({"params": ["[1]"]}) == {"params": "[1]"}


def test_a_function_that_reads_the_message_may_be_sent_more() -> None:
    """What is nobody's is the message's."""

    def call(x: int, message: IncomingMessage) -> None: ...

    assert bound(call).from_texts({"x": ["1"], "utm": ["2"]}, others=True) == {"x": 1}


@pytest.mark.parametrize(
    "given", [{}, {"year": ["8"]}, {"params": ['{"year": 8}']}, {"params": ["[8]"]}, {"year": ["x", "y"]}]
)
def test_what_is_known_is_so_whatever_is_said(given: dict[str, list[Any]]) -> None:
    """What stands in the path is what whoever is before us has looked at."""
    assert bound(report).from_texts(given, others=True, also={"year": "7"}) == {"year": 7}


def test_where_all_is_known_nothing_is_looked_for() -> None:
    """Then a query is the function's own business."""

    def call(x: int, message: IncomingMessage) -> None: ...

    assert bound(call).from_texts({"params": ["{"]}, others=True, also={"x": "1"}) == {"x": 1}


@pytest.mark.parametrize(
    ("document", "values"),
    [
        (b'{"year": 7}', {"year": 7}),
        (b'{"year": "7", "tags": null}', {"year": 7, "tags": None}),
        (b'[7, "csv", ["a"]]', {"year": 7, "format": "csv", "tags": ["a"]}),
        (b"{}", "year: expected a value, got None"),
        (b"[]", "year: expected a value, got None"),
        (b'{"year": 7, "page": 1}', "page: expected one of year, format, tags, got 'page'"),
        (b'{"year": 7, "tags": ["a", 1]}', "tags.1: expected a valid string, got 'int'"),
        (b"7", "body: expected a JSON object or array of parameters, got 'int'"),
        (b'[7, "csv", null, 1]', "body: expected at most 3 parameters, got '4 of them'"),
    ],
)
def test_json_is_an_object_or_an_array(document: bytes, values: Any) -> None:
    """By name, or in the order of the parameters."""
    if isinstance(values, dict):
        assert bound(report).from_json(document) == values
    else:
        with pytest.raises(InvalidValue) as error:
            bound(report).from_json(document)
        assert str(error.value) == values


@pytest.mark.parametrize("document", [b"", b"{", b'{"year": NaN}', b'{"year": "\xff"}', b"[" * 10_000])
def test_what_is_no_json_is_refused(document: bytes) -> None:
    """However it is not."""
    with pytest.raises(BodyInvalid):
        bound(report).from_json(document)


def test_strict_types_take_what_json_has_for_them() -> None:
    """JSON has no tuples and no times: there a list and a text are them, also for types that convert nothing."""

    def call(
        at: Annotated[datetime, Field(strict=True)], pair: Annotated[tuple[int, int], Field(strict=True)]
    ) -> None: ...

    expected = {"at": datetime(2026, 1, 2, 3, 4), "pair": (1, 2)}  # noqa: DTZ001 - as it was sent
    assert bound(call).from_json(b'{"at": "2026-01-02T03:04", "pair": [1, 2]}') == expected
    assert bound(call).from_json(b'["2026-01-02T03:04", [1, 2]]') == expected


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip


@given(st.sampled_from([int, str, bool, float, list[int], dict[str, int], int | None, Query, Any]), ANYTHING)
def test_json_is_taken_exactly_when_pydantic_takes_it(annotation: Any, value: Any) -> None:
    """And it becomes what that makes of it."""
    document = to_json(value)
    try:
        expected = TypeAdapter(annotation).validate_json(document)
    except ValueError:
        with pytest.raises(InvalidValue):
            taking(annotation).from_json(b'{"x": ' + document + b"}")
    else:
        assert taking(annotation).from_json(b'{"x": ' + document + b"}") == {"x": expected}


@given(st.dictionaries(st.text(max_size=8), st.lists(st.text(max_size=8), min_size=1, max_size=3), max_size=4))
def test_no_text_breaks_it(given: dict[str, list[str]]) -> None:
    """Whatever a client sends, it is taken or refused."""
    for annotation in (int, str, list[int], Query, dict[str, int], Colour, UploadedFile | None, Any):
        with contextlib.suppress(InvalidValue):
            taking(annotation, None).from_texts(given)


def test_files_go_where_files_are_wanted() -> None:
    """One, several, or none; and nowhere else."""
    file = UploadedFile(io.BytesIO(b"x"), filename="a")
    assert taking(UploadedFile).from_texts({"x": [file]}) == {"x": file}
    assert taking(UploadedFile | None, None).from_texts({}) == {}
    assert taking(list[UploadedFile]).from_texts({"x": [file, file]}) == {"x": [file, file]}
    for annotation in (str, bytes, Any):
        with pytest.raises(InvalidValue, match="expected text, got 'a file'"):
            taking(annotation).from_texts({"x": [file]})
    with pytest.raises(InvalidValue, match="expected one value"):
        taking(UploadedFile).from_texts({"x": [file, file]})
    not_chosen = UploadedFile(io.BytesIO())
    assert taking(UploadedFile | None, None).from_texts({"x": [not_chosen]}) == {"x": None}
    assert taking(list[UploadedFile]).from_texts({"x": [file, not_chosen]}) == {"x": [file]}
    with pytest.raises(InvalidValue, match="expected a file"):
        taking(UploadedFile).from_texts({"x": [not_chosen]})
    with pytest.raises(InvalidValue, match="x: expected"):
        taking(UploadedFile).from_json(b'{"x": "text"}')


def test_what_is_here_is_supplied() -> None:
    """The message, a response to fill, the owner: never asked for, whatever they are called."""

    def call(a: IncomingMessage, b: BufferedServerResponse, c: Owner, d: int) -> None: ...

    binding = bound(call)
    assert [parameter.name for parameter in binding.asked] == ["d"]
    assert binding.supplied == {"a": "message", "b": "response", "c": "owner"}
    assert binding.takes_message
    assert binding.takes_response
    assert binding.arguments({"d": 1}, lambda what: what) == (
        (),
        {"a": "message", "b": "response", "c": "owner", "d": 1},
    )
    with pytest.raises(InvalidValue, match="a: expected one of d"):
        binding.from_json(b'{"a": 1, "d": 1}')

    def with_protocol(out: ServerResponse, anything: object) -> None: ...

    assert bound(with_protocol).supplied == {"out": "response"}


def test_positional_parameters_are_given_in_their_place() -> None:
    """A function may forbid their names; their defaults hold."""

    def call(a: int, b: int = 2, /, c: int = 3) -> tuple[int, int, int]:
        return a, b, c

    binding = bound(call)
    positional, named = binding.arguments(binding.from_texts({"a": ["1"], "c": ["9"]}), lambda what: what)
    assert call(*positional, **named) == (1, 2, 9)


def test_parameters_may_have_any_name() -> None:
    """Also one that a model could not have."""

    def call(json: int, copy: int, model_fields: int, _private: int, schema: int) -> None: ...

    names = ("json", "copy", "model_fields", "_private", "schema")
    assert bound(call).from_json(to_json(dict.fromkeys(names, 1))) == dict.fromkeys(names, 1)


def test_wrapped_and_partial_functions_and_methods_are_bound_as_they_are_called() -> None:
    """As `inspect.signature` sees them."""

    class Reports:
        def make(self, year: int) -> None: ...

        def __call__(self, month: int) -> None: ...

    def outer(a: int, b: int) -> None: ...

    @functools.wraps(outer)
    def wrapper(*args: Any, **kwargs: Any) -> None: ...

    assert [one.name for one in bound(Reports().make).asked] == ["year"]
    assert [one.name for one in bound(Reports()).asked] == ["month"]
    assert [one.name for one in bound(wrapper).asked] == ["a", "b"]
    assert bound(functools.partial(outer, b=2)).from_texts({"a": ["1"]}) == {"a": 1}


def many(*args: int) -> None: ...
def any_of(**kwargs: int) -> None: ...
def missing(x: "Missing") -> None: ...  # type: ignore[name-defined]  # noqa: F821
def as_default(x: int = Field(default=3)) -> None: ...
def two_responses(a: BufferedServerResponse, b: ServerResponse) -> None: ...


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (many, "args: expected parameters with names"),
        (any_of, "kwargs: expected parameters with names"),
        (missing, "missing: expected annotations that can be evaluated"),
        (as_default, "x: expected Field(…) in Annotated[type, Field(…)]"),
        (two_responses, "expected one response to fill"),
    ],
)
def test_a_parameter_that_nobody_could_fill_is_told_when_it_is_exposed(call: Callable[..., Any], said: str) -> None:
    """Not at the first call."""
    with pytest.raises(InvalidValue) as error:
        bound(call)
    assert said in str(error.value)
