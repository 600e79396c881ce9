"""`forebay tag` and `pin`: names on versions, and holds against eviction."""

from __future__ import annotations

from typing import Annotated

import typer

from forebay.cli import show
from forebay.cli.options import Data, Json, Server, Url, Version, open_known, parse_span
from forebay.errors import InvalidValue


def tag(
    context: typer.Context,
    url: Url,
    name: Annotated[str, typer.Argument(metavar="TAG", show_default=False, help="2 to 64 of [A-Za-z0-9-_].")],
    version: Version = None,
    remove: Annotated[bool, typer.Option("--remove", help="Take the tag away.")] = False,
    data: Data = None,
    server: Server = None,
    as_json: Json = False,
) -> int:
    """Name a version of a URL.

    The latest one is named unless --version says otherwise. Several versions may have one tag: the newest
    of them is meant by it.

    Example: forebay tag https://www.rfc-editor.org/rfc/rfc9110.txt published
    """
    with open_known(context, data, server) as bay:
        response = bay.tag(url, name, version=version, remove=remove)
    if as_json:
        show.emit_json(response.model_dump(mode="json"))
    else:
        done = "no longer has the tag" if remove else "has the tag"
        show.say(f"version {response.version} {done} {name}")
    return show.EXIT_DONE


def pin(
    context: typer.Context,
    url: Url,
    version: Version = None,
    span: Annotated[
        str | None,
        typer.Option("--for", metavar="TIME", show_default=False, help="For so long, such as 30d; else for ever."),
    ] = None,
    release: Annotated[bool, typer.Option("--release", help="Let it go.")] = False,
    data: Data = None,
    server: Server = None,
    as_json: Json = False,
) -> int:
    """Hold a version of a URL against eviction.

    Neither newer versions nor a quota push it out. The latest one is held unless --version says otherwise.

    Example: forebay pin https://www.rfc-editor.org/rfc/rfc9110.txt --for 30d
    """
    if release and span is not None:
        raise InvalidValue("--for", expected="it or --release, not both", got=span)
    duration_sec = None if span is None else parse_span(span, option="--for")
    with open_known(context, data, server) as bay:
        response = bay.pin(url, version=version, value=not release, duration_sec=duration_sec)
    if as_json:
        show.emit_json(response.model_dump(mode="json"))
    elif release:
        show.say(f"version {response.version} is pinned no longer")
    else:
        until = response.pinned_until_utc
        how_long = "for ever" if until is None else f"until {show.moment_text(until)}"
        show.say(f"version {response.version} is pinned {how_long}")
    return show.EXIT_DONE
