"""`forebay serve` and `forebay worker`: the folder over HTTP, and the process that fetches for it."""

from __future__ import annotations

import os
import signal
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from forebay.cli import show
from forebay.cli.options import Data, show_warnings

if TYPE_CHECKING:
    from forebay.settings import ServerSettings

_REACH, _FETCHING = "Who reaches it", "What it fetches"

AllowPrivate = Annotated[
    bool | None,
    typer.Option(
        "--allow-private/--no-allow-private", show_default=False, rich_help_panel=_FETCHING,
        help="Fetch from loopback and private networks, too.",
    ),
]  # fmt: skip
AllowNetwork = Annotated[
    list[str] | None,
    typer.Option(
        "--allow-network", metavar="NET", show_default=False, rich_help_panel=_FETCHING,
        help="Fetch from this network in spite of the gate, such as 10.0.0.0/8.",
    ),
]  # fmt: skip


def serve(  # as long as its options: Typer reads them from the parameters
    host: Annotated[
        str | None,
        typer.Option("--host", metavar="ADDRESS", show_default=False, help="The address to listen on; 127.0.0.1."),
    ] = None,
    port: Annotated[
        int | None,
        typer.Option("--port", metavar="N", min=0, max=65535, show_default=False, help="The port; 8008. 0: any."),
    ] = None,
    data: Data = None,
    workers: Annotated[
        int | None,
        typer.Option(
            "--workers", metavar="N", min=1, show_default=False, help="API processes; one a core, 4 at most."
        ),
    ] = None,
    tls_cert: Annotated[
        Path | None,
        typer.Option(
            "--tls-cert", metavar="FILE", show_default=False, rich_help_panel=_REACH,
            help="HTTPS with this certificate and its chain (PEM).",
        ),
    ] = None,
    tls_key: Annotated[
        Path | None,
        typer.Option(
            "--tls-key", metavar="FILE", show_default=False, rich_help_panel=_REACH,
            help="The certificate's key (PEM).",
        ),
    ] = None,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(
            "--allow-host", metavar="NAME", show_default=False, rich_help_panel=_REACH,
            help="A name that it answers for, besides its address: the one that clients use.",
        ),
    ] = None,
    allow_origin: Annotated[
        list[str] | None,
        typer.Option(
            "--allow-origin", metavar="ORIGIN", show_default=False, rich_help_panel=_REACH,
            help="Another site whose pages may upload here, such as https://app.example.org.",
        ),
    ] = None,
    functions: Annotated[
        str | None,
        typer.Option(
            "--functions", metavar="TARGET", show_default=False,
            help="Let clients call the functions of a Python file, or of module:bay.",
        ),
    ] = None,
    insecure: Annotated[
        bool | None,
        typer.Option(
            "--insecure", show_default=False, rich_help_panel=_REACH,
            help="Listen on an address that others reach, although no token exists.",
        ),
    ] = None,
    allow_network: AllowNetwork = None,
    allow_private: AllowPrivate = None,
) -> int:  # fmt: skip
    """Serve a folder over HTTP: a REST API, and the content of any URL below /r/.

    Loopback and private origins are refused unless allowed: whoever reaches the server could reach them. SIGTERM
    drains; a second one ends at once. With --functions, the folder is the one that the file opens, unless --data
    names another.

    Example: forebay serve --port 8008
    """
    settings = _settings(
        data, host=host, port=port, workers=workers, tls_cert=tls_cert, tls_key=tls_key,
        allow_hosts=allow_host, allow_origins=allow_origin, insecure=insecure, allow_networks=allow_network,
        allow_private=allow_private, functions=functions,
    )  # fmt: skip
    found = None
    if settings.functions is not None:
        from forebay.server.loading import find_functions

        found = find_functions(settings, keep_folder=data is not None)
        settings = settings.model_copy(update={"data": found.folder})
        for name in found.ignored:
            show.warn(f"{settings.functions} opens its folder with {name}; here, the server's settings hold")
    from forebay.server.run import serve

    def announce(base: str, needs_token: bool) -> None:
        token = ' -H "Authorization: Bearer $FOREBAY_TOKEN"' if needs_token else ""
        show.say(f"listening on {base}")
        show.say(f"data: {settings.data.expanduser().absolute()}")
        show.say(f"try: curl{token} {base}/r/https://www.rfc-editor.org/rfc/rfc9110.txt")
        if found is not None:
            show.say(f"functions: {', '.join(found.functions)}")
        show.say(f"API: {base}/docs")

    number = None if found is None else found.number
    command = _worker_command(settings)
    return serve(settings, worker=command, announce=announce, tell=show.warn, number=number)


def _worker_command(settings: ServerSettings) -> list[str]:
    """What starts the fetch worker; what is not said here it has from the environment, as we have."""
    command = [sys.executable, "-m", "forebay", "worker", "--until-stdin-ends"]
    command += ["--data", str(settings.data)]
    command += ["--allow-private" if settings.allow_private else "--no-allow-private"]
    for network in settings.allow_networks:
        command += ["--allow-network", network]
    return command


def worker(
    data: Data = None,
    allow_network: AllowNetwork = None,
    allow_private: AllowPrivate = None,
    until_stdin_ends: Annotated[
        bool, typer.Option("--until-stdin-ends", help="Stop when stdin ends, as with whoever started it.")
    ] = False,
) -> int:
    """Fetch what is due and what is asked for, until SIGTERM.

    `forebay serve` has one of its own. What runs when it stops is suspended, and resumed by the next one.

    Example: forebay worker
    """
    settings = _settings(data, allow_networks=allow_network, allow_private=allow_private)
    stop = threading.Event()
    if until_stdin_ends:
        # A terminal and systemd tell us as well: whoever started us wants its answers to end first, and says when.
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        threading.Thread(target=_wait_for_eof, args=(stop,), daemon=True).start()
    else:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: stop.set())
    show_warnings()
    from forebay.server.worker import work

    work(settings, wait=stop.wait)
    return show.EXIT_DONE


def _wait_for_eof(stop: threading.Event) -> None:
    while os.read(0, 4096):
        pass
    stop.set()


def _settings(data: Path | None, **given: Any) -> ServerSettings:
    from pydantic import ValidationError

    from forebay.models import invalid_from
    from forebay.settings import ServerSettings

    values = {name: value for name, value in {"data": data, **given}.items() if value is not None}
    try:
        return ServerSettings(**values)
    except ValidationError as error:
        raise invalid_from(error, "settings") from error
