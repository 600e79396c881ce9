"""`forebay config`: when a URL is fetched again, and how much of it is kept."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, assert_never

import typer

from forebay.cli import show
from forebay.cli.options import Data, Json, Server, Url, open_known

if TYPE_CHECKING:
    from forebay.models import AnyStrategy


def config(
    context: typer.Context,
    url: Url,
    refresh: Annotated[
        str | None,
        typer.Option(
            "--refresh", metavar="WHEN", show_default=False,
            help="never (once), always, changed (ask the origin each 6 h), an age such as 90s, 6h, 7d, "
            "or cron:LINE.",
        ),
    ] = None,
    keep: Annotated[
        int | None,
        typer.Option("--keep", metavar="N", min=1, show_default=False, help="Unpinned versions that are kept."),
    ] = None,
    keep_pinned: Annotated[
        int | None,
        typer.Option("--keep-pinned", metavar="N", min=0, show_default=False, help="Pinned ones that are kept."),
    ] = None,
    data: Data = None,
    server: Server = None,
    as_json: Json = False,
) -> int:  # fmt: skip
    """Show or change when a URL is fetched again, and how many versions are kept.

    Without options it shows.

    Example: forebay config https://www.rfc-editor.org/rfc/rfc9110.txt --refresh 7d --keep 5
    """
    from forebay.core.urls import show_url

    with open_known(context, data, server) as bay:
        if refresh is None and keep is None and keep_pinned is None:
            request = bay.request(url)
        else:
            # What is not given stays as it is.
            request = bay.configure(
                url, refresh=refresh, max_cached_unpinned_versions=keep, max_cached_pinned_versions=keep_pinned
            )
    kept = request.cache_configuration
    if as_json:
        # Header fields, parameters and bodies are left out: they may hold secrets.
        show.emit_json({
            "url": show_url(request.url),
            "request_id": request.id,
            "cache_configuration": kept.model_dump(mode="json"),
        })  # fmt: skip
        return show.EXIT_DONE
    show.emit_facts({
        "refresh": _strategy_text(kept.recaching_strategy),
        "keep": str(kept.max_cached_unpinned_versions),
        "keep-pinned": str(kept.max_cached_pinned_versions),
    })  # fmt: skip
    return show.EXIT_DONE


def _strategy_text(strategy: AnyStrategy) -> str:
    """*strategy* as ``--refresh`` takes it, with what it means."""
    match strategy.strategy_name:
        case "never":
            return "never (fetched once)"
        case "age":
            return f"{show.span_text(strategy.seconds)} (again when it is so old)"
        case "cron":
            return f"cron:{strategy.cron} (at each tick, UTC)"
        case "when_requested":
            return "always (at each request)"
        case "when_remote_changed":
            return f"changed (the origin is asked each {show.span_text(strategy.check_interval_sec)})"
        case _:
            assert_never(strategy)
