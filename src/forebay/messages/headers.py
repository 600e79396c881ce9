"""Header fields of a message: what was set, as it was spelled, found in any case."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from forebay.core.fields import Fields, check_field
from forebay.errors import InvalidHeader, InvalidValue

Given = Mapping[str, str] | Iterable[tuple[str, str]]
"""Header fields as a caller gives them; as pairs, a name may come several times."""

# They belong to the connection, which is the server's (RFC 9110 section 7.6.1, RFC 9113 section 8.2.2).
_OF_THE_CONNECTION = frozenset(
    {
        "connection", "http2-settings", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding",
        "upgrade",
    }
)  # fmt: skip


class Headers(Mapping[str, str]):
    """A read-only mapping of header fields; names in any case, their spelling kept.

    ``headers[name]`` gives all values of a name, joined by ``, `` (RFC 9110 section 5.3), `get_all` each of them:
    Set-Cookie, which is no list, needs that.
    """

    __slots__ = ("_pairs",)

    def __init__(self, pairs: Iterable[tuple[str, str]] = ()) -> None:
        self._pairs = list(pairs)

    def get_all(self, name: str) -> list[str]:
        """Every value of *name*, in order."""
        name = name.lower()
        return [value for key, value in self._pairs if key.lower() == name]

    def items_all(self) -> list[tuple[str, str]]:
        """Every field, in order; a name comes as often as it was added."""
        return list(self._pairs)

    def fields(self) -> Fields:
        """The same as `core` takes them."""
        return Fields(self._pairs)

    def __getitem__(self, name: str) -> str:
        if not (values := self.get_all(name)):
            raise KeyError(name)
        return ", ".join(values)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and any(key.lower() == name.lower() for key, _ in self._pairs)

    def __iter__(self) -> Iterator[str]:
        spelled: dict[str, str] = {}
        for name, _ in self._pairs:
            spelled.setdefault(name.lower(), name)
        return iter(spelled.values())

    def __len__(self) -> int:
        return len({name.lower() for name, _ in self._pairs})

    def __repr__(self) -> str:
        return f"Headers{self.fields()!r}".replace("Fields", "", 1)


class MutableHeaders(Headers):
    """Header fields that can be sent: whatever cannot be is refused when it is set."""

    __slots__ = ()

    def view(self) -> Headers:
        """The same fields, read-only; it shows what changes here."""
        view = Headers()
        view._pairs = self._pairs
        return view

    def set(self, name: str, value: str) -> None:
        """Give *name* this one value; in the place of its first one."""
        _check(name, value)
        key = name.lower()
        places = [place for place, (other, _) in enumerate(self._pairs) if other.lower() == key]
        if not places:
            self._pairs.append((name, value))
            return
        self._pairs[places[0]] = (name, value)
        for place in reversed(places[1:]):
            del self._pairs[place]

    def add(self, name: str, value: str) -> None:
        """Give *name* one more value."""
        _check(name, value)
        if name.lower() == "content-length" and name in self:
            raise InvalidHeader("header field Content-Length", expected="one value", got=value)
        self._pairs.append((name, value))

    def remove(self, name: str) -> None:
        """Take *name* away; nothing when it is not there."""
        if not isinstance(name, str):
            raise TypeError(f"a header field's name is a str, not {type(name).__name__}")
        self._pairs[:] = [pair for pair in self._pairs if pair[0].lower() != name.lower()]

    def clear(self) -> None:
        """Take every field away."""
        self._pairs.clear()

    def give(self, headers: Given) -> None:
        """Set what a caller gave: in place of what was there of these names."""
        given: set[str] = set()
        for name, value in pairs_of(headers):
            key = str(name).lower()  # of what is no text, `set` tells
            (self.add if key in given else self.set)(name, value)
            given.add(key)


def pairs_of(headers: Given) -> list[tuple[str, str]]:
    """The fields that a caller gave, each on its own."""
    if isinstance(headers, Headers):
        return headers.items_all()
    return list(headers.items() if isinstance(headers, Mapping) else headers)


def _check(name: object, value: object) -> None:
    """Raise `InvalidHeader` for what would not arrive as it is; `TypeError` for what is no text."""
    if not isinstance(name, str) or not isinstance(value, str):
        raise TypeError(
            f"a header field's name and value are str, not {type(name).__name__} and {type(value).__name__}"
        )
    try:
        check_field(name, value)
    except InvalidValue as error:
        raise InvalidHeader(error.field, expected=error.expected, got=error.got) from None
    if value != value.strip(" \t"):
        # Whoever receives it takes them off (RFC 9110 section 5.5).
        raise InvalidHeader(f"header field {name}", expected="no white space at its ends", got="some")
    if name.lower() in _OF_THE_CONNECTION:
        raise InvalidHeader("header field name", expected="one that the server does not set itself", got=name)
    if name.lower() == "content-length" and not (value.isascii() and value.isdigit() and len(value) < 19):
        raise InvalidHeader(f"header field {name}", expected="a number of bytes", got=value)
