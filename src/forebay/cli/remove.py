"""`forebay rm`: remove versions, and have them back."""

from __future__ import annotations

from typing import Annotated

import typer

from forebay.cli import show
from forebay.cli.options import Data, Json, Server, Url, Version, open_known


def remove(
    context: typer.Context,
    url: Url,
    version: Version = None,
    undo: Annotated[bool, typer.Option("--undo", help="Have back what was removed within the last day.")] = False,
    data: Data = None,
    server: Server = None,
    as_json: Json = False,
) -> int:
    """Remove a URL with all its versions, or one version.

    For a day that can be undone.

    Example: forebay rm https://www.rfc-editor.org/rfc/rfc9110.txt
    """
    with open_known(context, data, server) as bay:
        changed = bay.undelete(url, version=version) if undo else bay.delete(url, version=version)
    if as_json:
        for response in changed:
            show.emit_json(response.model_dump(mode="json"))
        return show.EXIT_DONE
    for response in changed:
        show.say(f"{'restored' if undo else 'removed'} version {response.version} of {response.url}")
    if not changed:
        show.note("it has no version: nothing to remove")
    elif not undo:
        show.hint("`forebay rm --undo` with the same URL has it back within a day; the space is free after that")
    return show.EXIT_DONE
