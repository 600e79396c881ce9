"""Forebay: a basin for HTTP content.

>>> import forebay
>>> bay = forebay.open("folder")
>>> response = bay.fetch("https://www.rfc-editor.org/rfc/rfc9110.txt")
>>> bay.path(response)

Names are loaded when they are first used, so that ``import forebay`` costs next to nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from forebay.abay import AsyncForebay
    from forebay.bay import Forebay
    from forebay.client.aremote import AsyncRemoteForebay
    from forebay.client.remote import RemoteForebay
    from forebay.errors import (
        ContentRotten,
        ForebayError,
        HashMismatch,
        OriginError,
        OriginRefused,
        RequestError,
        ServerUnreachable,
        StateError,
        StorageError,
        UploadIncomplete,
        UploadMismatch,
    )
    from forebay.messages.buffered import BufferedServerResponse, ServerResponse
    from forebay.messages.incoming import IncomingMessage, UploadedFile
    from forebay.messages.outgoing import OutgoingMessage
    from forebay.messages.pictures import Image
    from forebay.models import (
        ChunkRequest,
        ChunkResponse,
        ReCachingStrategy,
        Request,
        RequestCacheConfiguration,
        RequestSpec,
        Response,
        ResponseContentAttributes,
        ResponseDownloadStats,
        Upload,
    )
    from forebay.opening import aopen, open
    from forebay.reports import Fetched, GcReport, Progress, Sending, StorageUsage, VerifyReport
    from forebay.settings import RemoteSettings, Settings

__version__ = "0.1.0"

__all__ = [
    "AsyncForebay", "AsyncRemoteForebay", "BufferedServerResponse", "ChunkRequest", "ChunkResponse",
    "ContentRotten", "Fetched", "Forebay",
    "ForebayError", "GcReport", "HashMismatch", "Image", "IncomingMessage", "OriginError", "OriginRefused",
    "OutgoingMessage", "Progress", "ReCachingStrategy", "RemoteForebay", "RemoteSettings", "Request",
    "RequestCacheConfiguration", "RequestError", "RequestSpec", "Response", "ResponseContentAttributes",
    "ResponseDownloadStats", "Sending", "ServerResponse", "ServerUnreachable", "Settings", "StateError",
    "StorageError", "StorageUsage", "Upload", "UploadIncomplete", "UploadMismatch", "UploadedFile", "VerifyReport",
    "aopen", "open",
]  # fmt: skip

_HOMES = {
    "forebay.bay": ("Forebay",),
    "forebay.abay": ("AsyncForebay",),
    "forebay.client.aremote": ("AsyncRemoteForebay",),
    "forebay.client.remote": ("RemoteForebay",),
    "forebay.errors": (
        "ContentRotten", "ForebayError", "HashMismatch", "OriginError", "OriginRefused", "RequestError",
        "ServerUnreachable", "StateError", "StorageError", "UploadIncomplete", "UploadMismatch",
    ),
    "forebay.messages.buffered": ("BufferedServerResponse", "ServerResponse"),
    "forebay.messages.incoming": ("IncomingMessage", "UploadedFile"),
    "forebay.messages.outgoing": ("OutgoingMessage",),
    "forebay.messages.pictures": ("Image",),
    "forebay.models": (
        "ChunkRequest", "ChunkResponse", "ReCachingStrategy", "Request", "RequestCacheConfiguration", "RequestSpec",
        "Response", "ResponseContentAttributes", "ResponseDownloadStats", "Upload",
    ),
    "forebay.opening": ("aopen", "open"),
    "forebay.reports": ("Fetched", "GcReport", "Progress", "Sending", "StorageUsage", "VerifyReport"),
    "forebay.settings": ("RemoteSettings", "Settings"),
}  # fmt: skip
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module 'forebay' has no attribute {name!r}")
    value = getattr(importlib.import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME_OF])
