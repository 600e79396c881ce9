"""`forebay.open` and `forebay.aopen`: a folder or a server, by what is given.

What the one needs is not loaded for the other: SQLAlchemy and pycurl take a folder, httpx a server.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, TypeVar, overload

from pydantic import ValidationError

from forebay.core.urls import normalise_url
from forebay.errors import ForebayError
from forebay.models import invalid_from
from forebay.settings import RemoteSettings, Settings

if TYPE_CHECKING:
    from forebay.abay import AsyncForebay
    from forebay.bay import Forebay
    from forebay.client.aremote import AsyncRemoteForebay
    from forebay.client.remote import RemoteForebay

# The folder, in the cache's, for what is fetched while the server cannot be reached.
_DIRECT = "direct"


@overload
def open(where: Path, **settings: Any) -> Forebay: ...
@overload
def open(where: str | None = None, **settings: Any) -> Forebay | RemoteForebay: ...
def open(where: str | Path | None = None, **settings: Any) -> Forebay | RemoteForebay:
    """A `Forebay` on a folder, or with a URL (``http://…``, ``https://…``) the `RemoteForebay` of that server.

    A folder is made when it is not there. Without *where*: the server of ``FOREBAY_SERVER``, if that is set, else
    the settings' default folder. *settings* are the fields of `forebay.settings.Settings`, for a server of
    `forebay.settings.RemoteSettings`; what is not given comes from the environment.
    """
    server = _server(where, settings)
    if server is None:
        return open_folder(where, **settings)
    from forebay.client.remote import RemoteForebay

    remote = remote_settings(server, **settings)
    if remote.fallback == "none":
        return RemoteForebay(remote)
    return RemoteForebay(remote, direct=lambda: open_folder(remote.cache / _DIRECT))


_Make = Callable[[Path | None, dict[str, Any]], "Forebay"]
_made_by: _Make | None = None


@contextmanager
def opened_by(make: _Make) -> Iterator[None]:
    """Meanwhile, whatever folder is opened in this process is made by *make*, of a folder, if one is named, and
    settings: a server loads functions."""
    global _made_by  # noqa: PLW0603 - what opens is somebody else's code, with no way to hand it something
    _made_by = make
    try:
        yield
    finally:
        _made_by = None


def open_folder(folder: str | Path | None = None, **settings: Any) -> Forebay:
    """The `Forebay` on *folder*, whatever the environment says of a server."""
    if _made_by is not None:
        return _made_by(None if folder is None else Path(folder), settings)
    from forebay.bay import Forebay

    if folder is not None:
        settings["data"] = Path(folder)
    try:
        return Forebay(Settings(**settings))
    except ValidationError as error:
        raise invalid_from(error, "settings") from error


def remote_settings(server: str, **settings: Any) -> RemoteSettings:
    """How *server* is used. The token of the environment is for the server of the environment: another one does not
    get it."""
    named = os.environ.get("FOREBAY_SERVER")
    if "token" not in settings and named and not _same(named, server):
        settings["token"] = None
    try:
        return RemoteSettings(server=server, **settings)
    except ValidationError as error:
        raise invalid_from(error, "settings") from error


def _same(one: str, other: str) -> bool:
    try:
        return normalise_url(one).rstrip("/") == normalise_url(other).rstrip("/")
    except ForebayError:
        return False


def _server(where: str | Path | None, settings: dict[str, Any]) -> str | None:
    """The server that is meant; None: a folder."""
    if isinstance(where, str) and re.match(r"https?://", where, re.IGNORECASE):
        return where
    # Settings of a folder mean a folder.
    if where is not None or settings.keys() - RemoteSettings.model_fields.keys() or _made_by is not None:
        return None
    return settings.pop("server", None) or os.environ.get("FOREBAY_SERVER") or None


B = TypeVar("B", bound="AsyncForebay | AsyncRemoteForebay")


class aopen(Generic[B]):  # noqa: N801 - used as a function: `await forebay.aopen(…)` or `async with forebay.aopen(…)`
    """The `AsyncForebay` on a folder, or the `AsyncRemoteForebay` of a server; arguments as those of
    `forebay.open`."""

    @overload
    def __init__(self: aopen[AsyncForebay], where: Path, **settings: Any) -> None: ...
    @overload
    def __init__(
        self: aopen[AsyncForebay | AsyncRemoteForebay], where: str | None = None, **settings: Any
    ) -> None: ...
    def __init__(self, where: str | Path | None = None, **settings: Any) -> None:
        self._where, self._settings = where, settings
        self._bay: B | None = None

    async def _make(self) -> B:
        made: Any = await _aopen(self._where, self._settings)
        return made  # type: ignore[no-any-return]

    def __await__(self) -> Generator[Any, None, B]:
        return self._make().__await__()

    async def __aenter__(self) -> B:
        self._bay = await self._make()
        return self._bay

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bay is not None:
            await self._bay.close()


async def _aopen(where: str | Path | None, settings: dict[str, Any]) -> AsyncForebay | AsyncRemoteForebay:
    server = _server(where, settings)
    if server is None:
        return await _aopen_folder(where, **settings)
    from forebay.client.aremote import AsyncRemoteForebay

    remote = remote_settings(server, **settings)
    if remote.fallback == "none":
        return AsyncRemoteForebay(remote)
    return AsyncRemoteForebay(remote, direct=lambda: _aopen_folder(remote.cache / _DIRECT))


async def _aopen_folder(folder: str | Path | None, **settings: Any) -> AsyncForebay:
    from forebay.abay import AsyncForebay

    return AsyncForebay(await asyncio.to_thread(open_folder, folder, **settings))
