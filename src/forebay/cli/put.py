"""`forebay put`: keep files of this machine under a name, in a folder or on a server."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any

import typer

from forebay.cli import show
from forebay.cli.options import Data, Server, open_bay, open_server, server_meant
from forebay.errors import ForebayError, InvalidValue, ServerUnreachable

if TYPE_CHECKING:
    from forebay.bay import Forebay
    from forebay.client.remote import RemoteForebay
    from forebay.models import Response
    from forebay.reports import OnSending, Sending

_STDIN = "-"


def put(
    context: typer.Context,
    files: Annotated[
        list[str], typer.Argument(metavar="FILE", show_default=False, help="Files; - is stdin, and needs a --name.")
    ],
    name: Annotated[
        str | None,
        typer.Option("--name", "-n", metavar="NAME", show_default=False,
                     help="Any text, and one file; without it, each file's own name."),
    ] = None,
    tag: Annotated[
        str | None, typer.Option("--tag", metavar="TAG", show_default=False, help="Name the versions with a tag.")
    ] = None,
    parallel: Annotated[
        int | None,
        typer.Option("--parallel", metavar="N", min=1, max=16, show_default="4",
                     help="Parts of a large file that go to a server at once."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a file on stdout.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Only warnings and errors on stderr.")] = False,
    data: Data = None,
    server: Server = None,
) -> int:  # fmt: skip
    """Keep files under a name: each becomes the newest version of it, verified, tagged if wanted.

    The name that it has from now on is printed, as `forebay get`, `log` and `show` take it; a server serves it at
    /r/ and that name. What was sent to a server when the connection broke, or after Ctrl-C, is not sent again: the
    same command goes on there.

    Example: forebay put scan.tif --name "scans/site 7" --server http://127.0.0.1:8008
    """
    if len(files) > 1 and name is not None:
        raise InvalidValue("--name", expected="one file, which gets it", got=f"{len(files)} files")
    if files.count(_STDIN) and name is None:
        raise InvalidValue("--name", expected="a name for what comes from stdin", got="none")
    meant = server_meant(context, server)
    if meant is None and parallel is not None:
        raise InvalidValue(
            "--parallel", expected="no such option with a folder, which has no network", got=parallel
        )
    asked: dict[str, Any] = {"name": name, "tag": tag} | ({} if parallel is None else {"parallel": parallel})
    with open_bay(data) if meant is None else open_server(meant) as bay, ExitStack() as stack:
        hand = _Hand(bay, asked, as_json=as_json, quiet=quiet, several=len(files) > 1)
        if show.draws_bars() and not quiet:
            from forebay.cli.bars import SendBars

            bars = stack.enter_context(SendBars())
            hand.draw, hand.aside = bars.update, bars.aside
        return max(hand.over(file) for file in files)


@dataclass(slots=True)
class _Hand:
    """Hands files over: their new names to stdout, the rest to stderr."""

    bay: Forebay | RemoteForebay
    asked: dict[str, Any]
    as_json: bool
    quiet: bool
    several: bool
    draw: OnSending | None = None
    aside: Callable[[], AbstractContextManager[None]] = nullcontext
    resumed_bytes: int = field(default=0, init=False)
    sent_bytes: int = field(default=0, init=False)

    def over(self, file: str) -> int:
        """Put one; gives its exit code."""
        self.resumed_bytes = self.sent_bytes = 0
        began = time.monotonic()
        source = typer.get_binary_stream("stdin") if file == _STDIN else file
        try:
            response = self.bay.put(source, **self.asked, progress=self._hear)
        except ForebayError as error:
            with self.aside():
                return self._failed(file, error)
        with self.aside():
            if not self.quiet:
                show.say(self._summary(response, time.monotonic() - began))
            if self.as_json:
                show.emit_json(response.model_dump(mode="json") | {"file": file})
            else:
                show.emit(response.url)
        return show.EXIT_DONE

    def _hear(self, file: str, sending: Sending) -> None:
        self.resumed_bytes = max(self.resumed_bytes, sending.resumed_bytes)
        self.sent_bytes = max(self.sent_bytes, sending.sent_bytes)
        if self.draw is not None:
            self.draw(file, sending)

    def _failed(self, file: str, error: ForebayError) -> int:
        if self.as_json:
            show.emit_json({"file": file, "error": {"code": error.code, "detail": str(error)}})
        code = show.complain(error, about=file if self.several else None)
        if isinstance(error, ServerUnreachable) and file != _STDIN and self.sent_bytes:
            show.hint("what has arrived there is kept: the same command goes on where this one stopped")
        return code

    def _summary(self, response: Response, seconds: float) -> str:
        """``scan.tif  1.1 GiB  sha256 1234abcd…  version 2026…  (put in 2.1 s, resumed 300 MiB)``."""
        attributes, parts = response.content_attributes, [f"put in {show.duration_text(seconds)}"]
        if self.resumed_bytes:
            parts.append(f"resumed {show.size_text(self.resumed_bytes)}")
        return (
            f"{attributes.filename}  {show.size_text(attributes.content_size_bytes)}  "
            f"sha256 {(attributes.sha256 or '-')[:8]}…  version {response.version}  ({', '.join(parts)})"
        )
