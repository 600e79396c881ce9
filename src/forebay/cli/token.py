"""`forebay token`: who may use a server on the folder, and for what."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from forebay.cli import show
from forebay.cli.options import Data, Json, open_bay, open_existing

if TYPE_CHECKING:
    from forebay.catalog.tokens import Token

app = typer.Typer(
    help="Add, list and revoke the tokens of a server.\n\nExample: forebay token add notebook --scope read",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def add(
    name: Annotated[
        str,
        typer.Argument(metavar="NAME", show_default=False, help="1 to 64 of [A-Za-z0-9._-], never used before."),
    ],
    scopes: Annotated[
        list[str],
        typer.Option(
            "--scope", metavar="SCOPES", show_default=False,
            help="What it may do: read, write, call, or admin for all of it; several with commas between.",
        ),
    ],
    group: Annotated[
        str | None,
        typer.Option("--group", metavar="GROUP", show_default=False, help="For the Requests of this group only."),
    ] = None,
    data: Data = None,
    as_json: Json = False,
) -> int:  # fmt: skip
    """Make a token, and show its secret: this once only.

    With the first token, the server on the folder begins to ask for one. It goes on when the last is revoked.

    Example: forebay token add notebook --scope read,write
    """
    from forebay.clock import unix_now

    wanted = [part for text in scopes for part in text.replace(",", " ").split()]
    with open_bay(data) as bay:
        first = not bay.tokens.exist()
        token, secret = bay.tokens.add(name, wanted, group=group, now=unix_now())
    if as_json:
        show.emit_json(token.model_dump(mode="json") | {"secret": secret})
    else:
        show.emit(secret)
    where = "" if group is None else f" in the group {group}"
    show.say(f"token {name} may {', '.join(token.scopes)}{where}; its secret is shown this once")
    if first:
        show.note("from now on, a server on this folder asks for a token")
    show.hint("give it to a client as FOREBAY_TOKEN, or as `Authorization: Bearer …`")
    return show.EXIT_DONE


def list_tokens(data: Data = None, as_json: Json = False) -> int:
    """List the tokens, the revoked ones included.

    Of each: scopes, group, when it was made, used and revoked. A time of use may be a minute late.

    Example: forebay token ls
    """
    with open_existing(data) as bay:
        tokens = bay.tokens.list_tokens()
    if as_json:
        for token in tokens:
            show.emit_json(token.model_dump(mode="json"))
        return show.EXIT_DONE
    if not tokens:
        show.note("no token yet: a server on this folder listens on loopback only, and asks for none")
    show.emit_table(("NAME", "SCOPES", "GROUP", "MADE", "USED", "REVOKED"), [_row(token) for token in tokens])
    return show.EXIT_DONE


def _row(token: Token) -> tuple[str, ...]:
    return (
        token.name,
        ",".join(token.scopes),
        token.group_name or "-",
        show.age_text(token.created_datetime_utc),
        show.age_text(token.last_used_datetime_utc),
        show.age_text(token.revoked_datetime_utc),
    )


def revoke(
    name: Annotated[str, typer.Argument(metavar="NAME", show_default=False, help="The name of the token.")],
    data: Data = None,
    as_json: Json = False,
) -> int:
    """End a token.

    A server that runs refuses it from then on. Its name is not free again.

    Example: forebay token revoke notebook
    """
    from forebay.clock import unix_now

    with open_existing(data) as bay:
        token = bay.tokens.revoke(name, now=unix_now())
    if as_json:
        show.emit_json(token.model_dump(mode="json"))
    else:
        show.say(f"token {name} is revoked")
    return show.EXIT_DONE


app.command("add")(add)
app.command("ls")(list_tokens)
app.command("revoke")(revoke)
