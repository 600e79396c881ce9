"""`forebay get`: have the content of URLs, from the store or from the origin."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, closing, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, assert_never

import typer

from forebay.cli import show
from forebay.cli.delivery import (
    InStore,
    Target,
    ToFile,
    ToFolder,
    ToStdout,
    parse_target,
    write_to_file,
    write_to_stdout,
)
from forebay.cli.options import Data, Server, open_bay, open_server, parse_size, server_meant
from forebay.errors import ForebayError, InvalidValue

if TYPE_CHECKING:
    from forebay.bay import Forebay
    from forebay.client.remote import RemoteForebay
    from forebay.models import Response
    from forebay.reports import Fetched, OnProgress

_WHERE, _WHICH, _NETWORK = "Where it goes", "Which content", "How it is fetched"


def get(  # as long as its options: Typer reads them from the parameters
    context: typer.Context,
    urls: Annotated[
        list[str] | None, typer.Argument(metavar="URL", show_default=False, help="http:// or https:// URLs.")
    ] = None,
    output: Annotated[
        str | None,
        typer.Option(
            "--output", "-o", metavar="FILE|DIR|-", show_default=False, rich_help_panel=_WHERE,
            help="Copy to a file, into a folder (under the name that the origin gives), or to stdout (-).",
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", rich_help_panel=_WHERE, help="One JSON object a URL on stdout.")
    ] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", rich_help_panel=_WHERE, help="Only warnings and errors on stderr.")
    ] = False,
    data: Data = None,
    server: Server = None,
    list_file: Annotated[
        str | None,
        typer.Option(
            "--input", "-i", metavar="FILE|-", show_default=False, rich_help_panel=_WHICH,
            help="More URLs, one a line, from a file or stdin (-); # begins a comment.",
        ),
    ] = None,
    sha256: Annotated[
        str | None,
        typer.Option("--sha256", metavar="HEX", show_default=False, rich_help_panel=_WHICH,
                     help="The bytes must have this SHA-256, else nothing is kept."),
    ] = None,
    expected_hash: Annotated[
        str | None,
        typer.Option("--hash", metavar="ALGO:HEX", show_default=False, rich_help_panel=_WHICH,
                     help="The same with another algorithm, as in md5:…"),
    ] = None,
    refresh: Annotated[
        str | None,
        typer.Option(
            "--refresh", metavar="WHEN", show_default=False, rich_help_panel=_WHICH,
            help="How fresh: never (once), always, changed (ask the origin each 6 h), an age such as 90s, 6h, 7d, "
            "or cron:LINE. A new URL keeps it; for a known one it holds this time (`forebay config` changes it).",
        ),
    ] = None,
    version: Annotated[
        str | None,
        typer.Option("--version", metavar="VERSION", show_default=False, rich_help_panel=_WHICH,
                     help="This stored version; nothing is fetched."),
    ] = None,
    tag: Annotated[
        str | None,
        typer.Option("--tag", metavar="TAG", show_default=False, rich_help_panel=_WHICH,
                     help="The newest stored version with this tag; nothing is fetched."),
    ] = None,
    offline: Annotated[
        bool, typer.Option("--offline", rich_help_panel=_WHICH, help="What is stored, however old; no connection.")
    ] = False,
    max_downloads: Annotated[
        int | None,
        typer.Option("--max-downloads", metavar="N", min=1, show_default="4 unless set", rich_help_panel=_NETWORK,
                     help="Downloads at once."),
    ] = None,
    per_host: Annotated[
        int | None,
        typer.Option("--per-host", metavar="N", min=1, show_default="1 unless set", rich_help_panel=_NETWORK,
                     help="Downloads at once from one host."),
    ] = None,
    quota: Annotated[
        str | None,
        typer.Option("--quota", metavar="SIZE", show_default=False, rich_help_panel=_NETWORK,
                     help="All content together, such as 10G; the least useful unpinned versions go first."),
    ] = None,
    allow_network: Annotated[
        list[str] | None,
        typer.Option("--allow-network", metavar="CIDR", show_default=False, rich_help_panel=_NETWORK,
                     help="With --public-only: fetch from this network all the same. May be repeated."),
    ] = None,
    public_only: Annotated[
        bool | None,
        typer.Option("--public-only/--allow-private", show_default=False, rich_help_panel=_NETWORK,
                     help="Refuse loopback and private networks, also behind a redirect; allowed without it."),
    ] = None,
    proxy: Annotated[
        str | None,
        typer.Option("--proxy", metavar="URL|environment", show_default=False, rich_help_panel=_NETWORK,
                     help="Go through a proxy, which then decides what may be dialled."),
    ] = None,
) -> int:  # fmt: skip
    """Have the content of URLs, from the store or from the origin.

    What arrives is verified and kept as a version. If the origin fails, the last good version is used, with a
    warning. Downloads that break off are resumed, also by the next run. The path of the stored content, or of
    the copy, is printed.

    Example: forebay get https://www.rfc-editor.org/rfc/rfc9110.txt -o rfc9110.txt
    """
    wanted = list(dict.fromkeys([*(urls or ()), *_listed(list_file)]))
    if not wanted:
        if list_file is None:
            raise InvalidValue("URL", expected="at least one, or a list of them with -i", got="none")
        show.note(f"{list_file} has no URL: nothing to do")
        return show.EXIT_DONE
    if len(wanted) > 1 and (sha256 or expected_hash):
        raise InvalidValue(
            "--sha256 and --hash", expected="one URL, which the hash is of", got=f"{len(wanted)} URLs"
        )
    target = parse_target(output, urls=len(wanted))
    if as_json and isinstance(target, ToStdout):
        raise InvalidValue("-o", expected="a file or a folder beside --json, for both want stdout", got=output)
    asked: dict[str, Any] = {
        "sha256": sha256, "expected_hash": expected_hash, "refresh": refresh,
        "version": version, "tag": tag, "offline": offline,
    }  # fmt: skip
    settings: dict[str, Any] = {
        "max_downloads": max_downloads,
        "max_downloads_per_host": per_host,
        "quota_bytes": None if quota is None else parse_size(quota, option="--quota"),
        "allow_networks": allow_network or None,
        "allow_private": None if public_only is None else not public_only,
        "proxy": proxy,
    }
    meant = server_meant(context, server)
    if meant is not None:
        _check_for_server(settings)
        asked["content"] = True  # it comes while it lands there
    with open_bay(data, **settings) if meant is None else open_server(meant) as bay:
        hand = _Hand(bay, target, as_json=as_json, quiet=quiet, several=len(wanted) > 1)
        return _get_all(bay, wanted, asked, hand)


def _check_for_server(settings: dict[str, Any]) -> None:
    """What a server decides by its own settings cannot be asked of it."""
    for name, value in settings.items():
        if value is not None:
            raise InvalidValue(
                _OPTIONS[name], expected="no such option with a server, which has its own", got=value
            )


_OPTIONS = {
    "max_downloads": "--max-downloads", "max_downloads_per_host": "--per-host", "quota_bytes": "--quota",
    "allow_networks": "--allow-network", "allow_private": "--public-only", "proxy": "--proxy",
}  # fmt: skip


def _listed(list_file: str | None) -> list[str]:
    """The URLs of a list: one a line; a # at the start or after a space begins a comment."""
    if list_file is None:
        return []
    try:
        if list_file == "-":
            text = typer.get_binary_stream("stdin").read().decode("utf-8-sig")
        else:
            text = Path(list_file).read_text("utf-8-sig")
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise InvalidValue("-i", expected=f"a list that can be read ({reason})", got=list_file) from error
    except UnicodeDecodeError as error:
        raise InvalidValue("-i", expected="a list in UTF-8", got=list_file) from error
    # A fragment has no space before its #, so https://example.org/#top keeps it.
    lines = (("" if line.startswith("#") else line.partition(" #")[0]).strip() for line in text.splitlines())
    return [line for line in lines if line]


def _get_all(bay: Forebay | RemoteForebay, wanted: list[str], asked: dict[str, Any], hand: _Hand) -> int:
    with ExitStack() as stack:
        progress: OnProgress | None = None
        if show.draws_bars() and not hand.quiet:
            from forebay.cli.bars import FetchBars

            bars = stack.enter_context(FetchBars())
            progress, hand.aside = bars.update, bars.aside
        answers = bay.fetch_many(wanted, **asked, progress=progress)
        # Closed before the folder is: what runs is let go, so that it can be suspended.
        stack.enter_context(closing(answers))
        return max((hand.over(fetched) for fetched in _in_order(wanted, answers)), default=show.EXIT_DONE)


def _in_order(wanted: Iterable[str], answers: Iterable[Fetched]) -> Iterator[Fetched]:
    """*answers*, which come as they finish, in the order of *wanted*: so stdout and the numbering of equal
    names are the same in each run."""
    early: dict[str, deque[Fetched]] = {}
    left = deque(wanted)
    for fetched in answers:
        early.setdefault(str(fetched.asked), deque()).append(fetched)
        while left and early.get(left[0]):
            yield early[left.popleft()].popleft()


@dataclass(slots=True)
class _Hand:
    """Hands over what was fetched: content to its target, its name to stdout, the rest to stderr."""

    bay: Forebay | RemoteForebay
    target: Target
    as_json: bool
    quiet: bool
    several: bool
    aside: Callable[[], AbstractContextManager[None]] = nullcontext

    def over(self, fetched: Fetched) -> int:
        """Deliver one answer; gives its exit code."""
        with self.aside():
            try:
                if fetched.response is None:
                    assert fetched.error is not None
                    return self._failed(fetched.url, fetched.error)
                path = self._deliver(fetched.response)
            except ForebayError as error:
                return self._failed(fetched.url, error)
            self._tell(fetched, fetched.response)
            if self.as_json:
                show.emit_json(_described(fetched, fetched.response, path))
            elif path is not None:
                show.emit(str(path))
            return show.EXIT_DONE

    def _failed(self, url: str, error: ForebayError) -> int:
        if self.as_json:
            show.emit_json({"url": url, "error": {"code": error.code, "detail": str(error)}})
        return show.complain(error, about=url if self.several else None)

    def _deliver(self, response: Response) -> Path | None:
        match self.target:
            case InStore():
                return self.bay.path(response)
            case ToStdout():
                with self.bay.open(response) as source:
                    write_to_stdout(source)
                return None
            case ToFile(path):
                pass
            case ToFolder():
                name = response.content_attributes.filename or "download"
                path = self.target.place(name)
                if path.name != name and not self.quiet:
                    show.note(f"another URL has the name {name}, too: {response.url} goes to {path.name}")
            case _:
                assert_never(self.target)
        with self.bay.open(response) as source:
            write_to_file(source, path)
        return path

    def _tell(self, fetched: Fetched, response: Response) -> None:
        if fetched.error is not None:
            reason = str(fetched.error).removeprefix(f"{fetched.url}: ")
            show.warn(
                f"{fetched.url}: could not be refreshed, so this is the version of "
                f"{show.age_text(response.cached_datetime_utc)}: {reason} [{fetched.error.code}]"
            )
        if self.quiet:
            return
        coding = response.content_attributes.content_encoding
        if coding is not None:
            show.note(f"{fetched.url}: the bytes are as the origin sent them, coded with {coding}")
        show.say(_summary(fetched, response))


def _described(fetched: Fetched, response: Response, path: Path | None) -> dict[str, Any]:
    """The JSON of an answer: the `Response`, where its content is, how it was had, and why it is stale."""
    described = response.model_dump(mode="json") | {"path": str(path), "how": fetched.how}
    if fetched.error is not None:
        described["warning"] = {"code": fetched.error.code, "detail": str(fetched.error)}
    return described


def _summary(fetched: Fetched, response: Response) -> str:
    """``rfc9110.txt  1.1 MiB  sha256 1234abcd…  version 2026…  (fetched in 0.4 s, 2 attempts)``."""
    attributes, stats = response.content_attributes, response.download_stats
    match fetched.how:
        case "fetched":
            parts = [f"fetched in {show.duration_text(stats.download_running_duration_sec)}"]
            if stats.attempts > 1:
                parts.append(f"{stats.attempts} attempts")
            if stats.resumed_bytes:
                parts.append(f"resumed {show.size_text(stats.resumed_bytes)}")
        case "unchanged":
            parts = ["unchanged at the origin"]
        case _:
            parts = [f"stored {show.age_text(response.cached_datetime_utc)}"]
    return (
        f"{attributes.filename or response.url}  {show.size_text(attributes.content_size_bytes)}  "
        f"sha256 {(attributes.sha256 or '-')[:8]}…  version {response.version}  ({', '.join(parts)})"
    )
