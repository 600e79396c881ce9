"""The options that several commands share, and the folder they all work on."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from forebay.cli import show
from forebay.errors import InvalidValue

if TYPE_CHECKING:
    from logging import Handler

    from forebay.bay import Forebay
    from forebay.client.remote import RemoteForebay

Data = Annotated[
    Path | None,
    typer.Option(
        "--data",
        metavar="DIR",
        envvar="FOREBAY_DATA",
        show_default=False,
        help="The folder that holds everything; without it, your user data folder.",
    ),
]
Server = Annotated[
    str | None,
    typer.Option(
        "--server",
        metavar="URL",
        envvar="FOREBAY_SERVER",
        show_default=False,
        help="A server, instead of a folder; FOREBAY_TOKEN is shown to it.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="JSON on stdout, one object a line.")]
Url = Annotated[str, typer.Argument(metavar="URL", show_default=False, help="A URL that was fetched before.")]
Version = Annotated[
    str | None,
    typer.Option(
        "--version",
        metavar="VERSION",
        show_default=False,
        help="This version, as `forebay log URL` names it, and not the latest.",
    ),
]


def open_bay(data: Path | None, **settings: Any) -> Forebay:
    """The folder of *data*, made when it is not there. Settings that are None are left to the environment."""
    from forebay.opening import open_folder

    show_warnings()
    return open_folder(data, **{name: value for name, value in settings.items() if value is not None})


def show_warnings() -> None:
    """From now on what the library logs goes to stderr as our own warnings."""
    import logging

    log = logging.getLogger("forebay")
    if not log.handlers:
        log.addHandler(_warnings())


def _warnings() -> Handler:
    """Takes what the library logs, such as what the quota evicted, to stderr as our own warnings."""
    import logging

    class Warnings(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            show.warn(record.getMessage())
            if record.exc_info and os.environ.get("FOREBAY_DEBUG"):
                show.say_as_it_is(logging.Formatter().formatException(record.exc_info))

    return Warnings(logging.WARNING)


def open_existing(data: Path | None) -> Forebay:
    """As `open_bay`, but a *data* that is not there is a slip of the pen, not a new folder."""
    if data is not None and not data.is_dir():
        raise InvalidValue("--data", expected="a folder that `forebay get` has filled", got=str(data))
    return open_bay(data)


def open_known(context: typer.Context, data: Path | None, server: str | None) -> Forebay | RemoteForebay:
    """As `open_existing`, or the server that is meant."""
    meant = server_meant(context, server)
    return open_existing(data) if meant is None else open_server(meant)


def open_server(url: str) -> RemoteForebay:
    """The server at *url*, used as the environment says."""
    from forebay.client.remote import RemoteForebay
    from forebay.opening import open

    show_warnings()
    bay = open(url)
    assert isinstance(bay, RemoteForebay)
    return bay


def server_meant(context: typer.Context, server: str | None) -> str | None:
    """*server*, unless a folder is meant: what the command line says comes before what the environment says."""
    given = {name for name in ("data", "server") if _is_given(context, name)}
    if given == {"data", "server"}:
        raise InvalidValue("--server", expected="it or --data, not both", got=server)
    return None if "data" in given else server


def _is_given(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def parse_size(text: str, *, option: str) -> int:
    """Bytes that *text* says, such as ``10G``. Raises `InvalidValue` naming *option*."""
    from forebay.settings import parse_size as parse

    try:
        size = parse(text)
    except ValueError:
        size = 0
    if size <= 0:
        raise InvalidValue(option, expected="a size such as 500M or 10G", got=text)
    return size


def parse_span(text: str, *, option: str) -> float:
    """Seconds that *text* says, such as ``30d``. Raises `InvalidValue` naming *option*."""
    from forebay.models import parse_duration

    try:
        seconds = parse_duration(text)
    except ValueError:
        seconds = 0.0
    if seconds <= 0:
        raise InvalidValue(option, expected="a time such as 90s, 15m, 6h, 30d or 2w", got=text)
    return seconds
