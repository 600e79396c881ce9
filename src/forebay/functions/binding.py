"""HTTP arguments -> a function's typed parameters. Pure: what came in is here already.

Annotations are the rules, and pydantic checks them. Text, as it comes in queries and forms, is read as text: ``7``
is an int where one is wanted, and a str where that is. What no text can say (a model, a list) may be JSON in it.
"""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, NotRequired

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.errors import PydanticUserError
from pydantic.fields import FieldInfo
from pydantic_core import from_json, to_json
from typing_extensions import TypedDict

from forebay.errors import BodyInvalid, InvalidValue
from forebay.messages.buffered import BufferedServerResponse, ServerResponse
from forebay.messages.incoming import IncomingMessage, UploadedFile

Text = str | UploadedFile
"""One value of a query or a form."""

Supplied = Literal["message", "response", "owner"]
"""What is not asked for: the message, a response to fill, the Forebay that the function belongs to."""

JSON_PARAMETER = "params"
"""The query parameter that may hold all parameters, as JSON; unless a function has one of that name."""

_EMPTY = inspect.Parameter.empty
_CONFIG = ConfigDict(extra="forbid", arbitrary_types_allowed=True)
_MANY = (list, set, frozenset, tuple, Sequence, Set, Iterable)


@dataclass(frozen=True)
class Parameter:
    """A parameter that is asked for. *default*: `inspect.Parameter.empty` when there is none."""

    name: str
    annotation: Any
    default: Any

    @property
    def is_required(self) -> bool:
        """Whether there is no default."""
        return self.default is _EMPTY

    @cached_property
    def is_many(self) -> bool:
        """Whether it takes several values of one name."""
        return _is_many(self.annotation)

    @cached_property
    def takes_files(self) -> bool:
        """Whether a file of a form may be its value."""
        return _has_files(self.annotation)

    @cached_property
    def _adapter(self) -> TypeAdapter[Any]:
        # In a TypedDict, for a configuration of our own is not for models, and so that errors have the name.
        return _adapter({self.name: self.annotation})

    def from_texts(self, given: Sequence[Text]) -> Any:
        """The value that *given*, one or more, say. Raises `InvalidValue`."""
        if not self.is_many and len(given) > 1:
            raise InvalidValue(self.name, expected="one value", got=f"{len(given)} values")
        if self.takes_files:
            return self._from_files(given)
        texts = [one for one in given if isinstance(one, str)]
        if len(texts) < len(given):
            raise InvalidValue(self.name, expected="text", got="a file")
        try:
            if self.is_many:
                return self._checked(self._adapter.validate_python, texts)  # strings know no lists
            return self._checked(self._adapter.validate_strings, texts[0])
        except InvalidValue as error:
            return self._from_other_texts(texts, error)

    def _from_files(self, given: Sequence[Text]) -> Any:
        # A browser sends each field of a form, also those where no file was chosen.
        files = [one for one in given if isinstance(one, UploadedFile) and (one.filename or one.size)]
        if any(isinstance(one, str) and one for one in given) or (not files and self.is_required):
            raise InvalidValue(self.name, expected="a file of a multipart form", got="none")
        if not files:
            return self.default
        return self._checked(self._adapter.validate_python, files if self.is_many else files[0])

    def _from_other_texts(self, texts: list[str], error: InvalidValue) -> Any:
        """The value of *texts* as JSON: a whole list or model, or a number of a `Literal`. Else raises *error*."""
        is_whole = len(texts) == 1 and texts[0].lstrip().startswith(("{", "["))
        try:
            found = [from_json(text, allow_inf_nan=False) for text in texts]
            value = found if self.is_many and not is_whole else found[0]
            return self._adapter.validate_json(to_json({self.name: value}))[self.name]
        except ValidationError as other:
            raise (invalid(other) if is_whole else error) from None
        except ValueError:
            # As a browser sends what nobody filled in.
            if texts == [""] and not self.is_required:
                return self.default
            raise error from None

    def _checked(self, validate: Callable[[Any], Any], value: Any) -> Any:
        try:
            return validate({self.name: value})[self.name]
        except ValidationError as error:
            raise invalid(error) from None


@dataclass(frozen=True)
class Binding:
    """How the parameters of one function are filled: *asked* come from outside, *supplied* from here."""

    asked: tuple[Parameter, ...]
    supplied: Mapping[str, Supplied]
    positional_only: tuple[str, ...] = ()
    returns: Any = _EMPTY
    _names: Mapping[str, Parameter] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_names", {parameter.name: parameter for parameter in self.asked})

    @property
    def takes_message(self) -> bool:
        """Whether the function reads the message by itself."""
        return "message" in self.supplied.values()

    @property
    def takes_response(self) -> bool:
        """Whether the function fills a response."""
        return "response" in self.supplied.values()

    @property
    def takes_files(self) -> bool:
        """Whether some parameter is a file."""
        return any(parameter.takes_files for parameter in self.asked)

    def from_texts(
        self,
        given: Mapping[str, Sequence[Text]],
        *,
        others: bool = False,
        also: Mapping[str, str] | None = None,
    ) -> dict[str, Any]:
        """The values of a query or a form; *also*: of which these are known already, whatever is said there.
        *others*: names that are nobody's may be there. Raises `InvalidValue` naming the first one that is wrong."""
        known = also or {}
        texts = given.get(JSON_PARAMETER)
        if texts and JSON_PARAMETER not in self._names and not self._names.keys() <= known.keys():
            return self._from_json_parameter(texts, alone=len(given) == 1 or others, also=known)
        if not others:
            for name in given:
                self._check_name(name)
        values = {}
        for parameter in self.asked:
            found = [known[parameter.name]] if parameter.name in known else given.get(parameter.name)
            if found:
                values[parameter.name] = parameter.from_texts(found)
            elif parameter.is_required:
                raise InvalidValue(parameter.name, expected="a value", got=None)
        return values

    def _from_json_parameter(
        self, texts: Sequence[Text], *, alone: bool, also: Mapping[str, str]
    ) -> dict[str, Any]:
        if len(texts) > 1 or not isinstance(texts[0], str):
            raise InvalidValue(JSON_PARAMETER, expected="one JSON object or array", got=f"{len(texts)} values")
        if not alone:
            expected = "all parameters in it, or each by its name"
            raise InvalidValue(JSON_PARAMETER, expected=expected, got="both")
        return self.from_json(texts[0].encode("utf-8"), where=JSON_PARAMETER, also=also)

    def from_json(
        self, document: bytes, *, where: str = "body", also: Mapping[str, str] | None = None
    ) -> dict[str, Any]:
        """The values of a JSON object, by name, or array, in the order of the parameters; *also*: of which these
        are known already. Raises `InvalidValue` naming the first one that is wrong, `BodyInvalid`."""
        try:
            found = from_json(document, allow_inf_nan=False)
        except ValueError as error:
            if where != "body":
                raise InvalidValue(where, expected="JSON", got="other text") from error
            raise BodyInvalid from error
        if isinstance(found, list):
            if len(found) > len(self.asked):
                expected = f"at most {len(self.asked)} parameters"
                raise InvalidValue(where, expected=expected, got=f"{len(found)} of them")
            names = [parameter.name for parameter in self.asked]
            found = dict(zip(names, found, strict=False))
            document = to_json(found)
        elif not isinstance(found, dict):
            expected = "a JSON object or array of parameters"
            raise InvalidValue(where, expected=expected, got=type(found).__name__)
        for name in found:
            self._check_name(name)
        if also:
            document = to_json(found | {name: text for name, text in also.items() if name in self._names})
        try:
            # As JSON, not as what it was read to: only that may be a tuple, bytes or a time where types are strict.
            values: dict[str, Any] = self.adapter.validate_json(document)
        except ValidationError as error:
            raise invalid(error) from None
        return values

    def _check_name(self, name: str) -> None:
        if name not in self._names:
            known = ", ".join(self._names) or "no parameters at all"
            raise InvalidValue(name[:80], expected=f"one of {known}" if self._names else known, got=name)

    @cached_property
    def adapter(self) -> TypeAdapter[Any]:
        """What checks all of *asked* at once."""
        return _adapter(
            {
                parameter.name: parameter.annotation if parameter.is_required else NotRequired[parameter.annotation]
                for parameter in self.asked
            }
        )

    def arguments(self, values: Mapping[str, Any], supply: Callable[[Supplied], Any]) -> _Arguments:
        """What to call the function with: checked *values*, and what *supply* gives."""
        named = dict(values)
        for name, what in self.supplied.items():
            named[name] = supply(what)
        if not self.positional_only:
            return (), named
        found = []
        for name in self.positional_only:
            if name in named:
                found.append(named.pop(name))
            else:
                found.append(next(one.default for one in self.asked if one.name == name))
        return tuple(found), named


_Arguments = tuple[tuple[Any, ...], dict[str, Any]]


def bind(call: Callable[..., Any], *, owner: object) -> Binding:
    """The binding of *call*; a parameter with a class of *owner* is supplied. Raises `InvalidValue` naming a
    parameter that nobody could fill."""
    try:
        signature = inspect.signature(call, eval_str=True)
    except (NameError, TypeError, ValueError, AttributeError) as error:
        name = getattr(call, "__qualname__", repr(call))
        raise InvalidValue(name, expected="annotations that can be evaluated", got=str(error)) from error
    asked: list[Parameter] = []
    supplied: dict[str, Supplied] = {}
    positional = []
    for name, one in signature.parameters.items():
        if one.kind in (one.VAR_POSITIONAL, one.VAR_KEYWORD):
            raise InvalidValue(name, expected="parameters with names, for clients must know them", got=str(one))
        if one.kind is one.POSITIONAL_ONLY:
            positional.append(name)
        what = _supplied(one.annotation, owner)
        if what is not None:
            supplied[name] = what
        else:
            asked.append(_parameter(one))
    binding = Binding(tuple(asked), supplied, tuple(positional), signature.return_annotation)
    if list(supplied.values()).count("response") > 1:
        raise InvalidValue(str(call), expected="one response to fill", got="several")
    _ = binding.adapter  # now, not at the first call
    return binding


def _parameter(one: inspect.Parameter) -> Parameter:
    annotation = Any if one.annotation is _EMPTY else one.annotation
    if isinstance(one.default, FieldInfo):
        expected = "Field(…) in Annotated[type, Field(…)], and a default that is a value"
        raise InvalidValue(one.name, expected=expected, got="Field(…) as its default")
    parameter = Parameter(one.name, annotation, one.default)
    try:
        _ = parameter._adapter
    except (PydanticUserError, TypeError, NameError) as error:
        got = str(error).partition("\n")[0]
        raise InvalidValue(one.name, expected="a type that pydantic knows", got=got) from error
    return parameter


def _supplied(annotation: Any, owner: object) -> Supplied | None:
    if not isinstance(annotation, type):
        return None
    if issubclass(annotation, IncomingMessage):
        return "message"
    if annotation in (BufferedServerResponse, ServerResponse):
        return "response"
    return "owner" if annotation is not object and annotation in type(owner).__mro__ else None


def _adapter(fields: Mapping[str, Any]) -> TypeAdapter[Any]:
    # By its functional syntax, for a parameter may have any name; in a model, "json" or "copy" could not be one.
    make: Any = TypedDict
    kind = make("Parameters", dict(fields))
    kind.__pydantic_config__ = _CONFIG
    return TypeAdapter(kind)


def _parts(annotation: Any) -> tuple[Any, ...]:
    """The alternatives of a union, and what is annotated."""
    origin = typing.get_origin(annotation)
    if origin is typing.Annotated:
        return _parts(typing.get_args(annotation)[0])
    if origin in (typing.Union, types.UnionType):
        return tuple(part for one in typing.get_args(annotation) for part in _parts(one))
    return (annotation,)


def _is_many(annotation: Any) -> bool:
    return any((typing.get_origin(part) or part) in _MANY for part in _parts(annotation))


def _has_files(annotation: Any) -> bool:
    return any(
        (isinstance(part, type) and issubclass(part, UploadedFile))
        or ((typing.get_origin(part) or part) in _MANY and any(map(_has_files, typing.get_args(part))))
        for part in _parts(annotation)
    )


def invalid(error: ValidationError) -> InvalidValue:
    """What pydantic found wrong, without what was sent: it may hold a secret."""
    first = error.errors(include_url=False, include_context=False)[0]
    where = ".".join(map(str, first["loc"])) or "body"
    if first["type"] == "missing":
        return InvalidValue(where, expected="a value", got=None)
    if first["type"] == "extra_forbidden":
        return InvalidValue(where, expected="a name that exists", got="another")
    expected = first["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    return InvalidValue(where, expected=expected, got=type(first.get("input")).__name__)
