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
    from forebay.abay import AsyncForebay, aopen
    from forebay.bay import Forebay, open
    from forebay.errors import (
        ContentRotten,
        ForebayError,
        HashMismatch,
        OriginError,
        OriginRefused,
        RequestError,
        StateError,
        StorageError,
    )
    from forebay.models import (
        ReCachingStrategy,
        Request,
        RequestCacheConfiguration,
        RequestSpec,
        Response,
        ResponseContentAttributes,
        ResponseDownloadStats,
    )
    from forebay.reports import Fetched, GcReport, Progress, StorageUsage, VerifyReport
    from forebay.settings import Settings

__version__ = "0.1.0"

__all__ = [
    "AsyncForebay", "ContentRotten", "Fetched", "Forebay", "ForebayError", "GcReport", "HashMismatch",
    "OriginError", "OriginRefused", "Progress", "ReCachingStrategy", "Request", "RequestCacheConfiguration",
    "RequestError", "RequestSpec", "Response", "ResponseContentAttributes", "ResponseDownloadStats", "Settings",
    "StateError", "StorageError", "StorageUsage", "VerifyReport", "aopen", "open",
]  # fmt: skip

_HOMES = {
    "forebay.bay": ("Forebay", "open"),
    "forebay.abay": ("AsyncForebay", "aopen"),
    "forebay.errors": (
        "ContentRotten", "ForebayError", "HashMismatch", "OriginError", "OriginRefused", "RequestError",
        "StateError", "StorageError",
    ),
    "forebay.models": (
        "ReCachingStrategy", "Request", "RequestCacheConfiguration", "RequestSpec", "Response",
        "ResponseContentAttributes", "ResponseDownloadStats",
    ),
    "forebay.reports": ("Fetched", "GcReport", "Progress", "StorageUsage", "VerifyReport"),
    "forebay.settings": ("Settings",),
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
