"""Problem documents become the errors that they were made of."""

import json
import pickle

import pytest

from forebay import errors
from forebay.client.problems import error_in, is_problem, problem_in
from forebay.core.fields import Fields
from forebay.errors import ForebayError
from forebay.retold import error_of

KINDS = [
    kind for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, ForebayError) and "code" in vars(kind)
]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_each_code_has_its_class(kind: type[ForebayError]) -> None:
    """Whoever catches a class catches it from a server as well; it says what the server said."""
    error = error_of(kind.code, "it is so", status=418, retryable=True)
    assert isinstance(error, kind)
    assert type(error).__name__ == kind.__name__
    assert (str(error), error.code, error.retryable) == ("it is so", kind.code, True)


def test_errors_that_carry_their_code() -> None:
    """The cases of an origin's failure are told apart by their codes; so is content that was too large."""
    for code in ("origin_cut", "origin_status", "origin_something_new"):
        error = error_of(code, "x")
        assert type(error) is errors.OriginError
        assert error.code == code
    assert isinstance(error_of("content_too_large", "x"), errors.ContentTooLarge)


def test_a_code_of_a_newer_server() -> None:
    """It is kept with its status, in the class for what has none."""
    error = error_of("tea_only", "I am a teapot", status=418)
    assert type(error) is errors.RemoteError
    assert (error.code, error.status, str(error)) == ("tea_only", 418, "I am a teapot")


def test_what_travels_becomes_an_attribute() -> None:
    """The extension members of a problem document are the error's parts."""
    body = json.dumps({"status": 422, "code": "value_invalid", "detail": "tag: no", "field": "tag"})
    error = error_in(problem_in(body.encode()), status=422)
    assert isinstance(error, errors.InvalidValue)
    assert error.field == "tag"
    assert error.status == 422


def test_an_error_survives_being_sent_to_another_process() -> None:
    """With its class, its sentence and its parts."""
    error = error_of("version_unknown", "it has none", status=404, parts={"wanted": "version 7"})
    again = pickle.loads(pickle.dumps(error))
    assert isinstance(again, errors.UnknownVersion)
    assert (str(again), again.status, again.wanted) == ("it has none", 404, "version 7")


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b"7", b"\xff", b"{}", b'{"detail": null}'])
def test_a_problem_document_that_cannot_be_read(body: bytes) -> None:
    """It is an error all the same."""
    error = error_in(problem_in(body), status=500)
    assert isinstance(error, errors.RemoteError)
    assert "500" in str(error)


def test_only_problem_documents_are_problems() -> None:
    """By their type, with or without parameters; and not for a success."""
    kind = Fields([("content-type", "application/problem+json; charset=utf-8")])
    assert is_problem(404, kind)
    assert not is_problem(200, kind)
    assert not is_problem(404, Fields([("Content-Type", "text/html")]))
