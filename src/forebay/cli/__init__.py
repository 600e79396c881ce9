"""The command line: one file per noun. Commands give their exit code; `main` turns the rest into one.

Heavy imports stay inside the commands, so that ``forebay --help`` is there at once.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from forebay.cli import config, get, put, remove, serve, show, storage, tags, token, versions
from forebay.errors import ForebayError, InvalidValue

app = typer.Typer(
    name="forebay",
    help="Fetch what is on the web, and keep it: verified, versioned, still there when the origin is gone.\n\n"
    "Example: forebay get https://www.rfc-editor.org/rfc/rfc9110.txt",
    epilog="Settings come from FOREBAY_* variables, too. Exit codes: 0 done, 1 something to change in the "
    "command, 2 the origin or the storage failed, 130 interrupted.",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    pretty_exceptions_enable=False,
)

_COMMANDS: dict[str, Callable[..., int]] = {
    "get": get.get,
    "put": put.put,
    "ls": versions.list_urls,
    "log": versions.log,
    "show": versions.show_version,
    "tag": tags.tag,
    "pin": tags.pin,
    "rm": remove.remove,
    "config": config.config,
    "gc": storage.gc,
    "verify": storage.verify,
    "du": storage.du,
    "serve": serve.serve,
    "worker": serve.worker,
}
for _name, _command in _COMMANDS.items():
    app.command(_name)(_command)
app.add_typer(token.app, name="token")


def _print_version(wanted: bool) -> None:
    if wanted:
        import forebay

        show.emit(f"forebay {forebay.__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def _program(
    context: typer.Context,
    data: Annotated[
        Path | None,
        typer.Option("--data", metavar="DIR", show_default=False, help="The folder that holds everything."),
    ] = None,
    server: Annotated[
        str | None,
        typer.Option("--server", metavar="URL", show_default=False, help="A server, instead of a folder."),
    ] = None,
    debug: Annotated[bool, typer.Option("--debug", help="Show where an unexpected error came from.")] = False,
    version: Annotated[
        bool,
        typer.Option("--version", is_eager=True, callback=_print_version, help="Print the version of Forebay."),
    ] = False,
) -> None:
    # Each of these has a variable that the commands, which take --data as well, look at.
    if data is not None and server is not None:
        raise InvalidValue("--server", expected="it or --data, not both", got=server)
    if data is not None:
        os.environ["FOREBAY_DATA"] = str(data)
        os.environ.pop("FOREBAY_SERVER", None)
    if server is not None:
        named = os.environ.get("FOREBAY_SERVER")
        if named and named != server:
            os.environ.pop("FOREBAY_TOKEN", None)  # it is that one's
        os.environ["FOREBAY_SERVER"] = server
    if debug:
        os.environ["FOREBAY_DEBUG"] = "1"
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
        raise typer.Exit(show.EXIT_CALLER)


def main() -> None:
    """Run the program on ``sys.argv`` and exit."""
    sys.exit(_run())


def _run() -> int:
    """The exit code of the command in ``sys.argv``. What ends it early is told on stderr; a traceback is shown
    for what we did not expect, and only to who asks for it."""
    try:
        code = typer.main.get_command(app).main(prog_name="forebay", standalone_mode=False)
    except (KeyboardInterrupt, typer.Abort):  # Abort: what older Typers make of Ctrl-C
        code = show.EXIT_INTERRUPTED
    except show.PipeClosed:
        # The interpreter flushes stdout at its end, and would complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return show.EXIT_PIPE_CLOSED
    except ForebayError as error:
        return show.complain(error)
    except Exception as error:
        return _unexpected(error)
    if code == show.EXIT_INTERRUPTED:
        show.say("interrupted; run the same command again to resume")
    return code if isinstance(code, int) else show.EXIT_DONE


def _unexpected(error: Exception) -> int:
    # Usage errors: their class has no public name that is the same in every Typer.
    tell = getattr(error, "format_message", None)
    if tell is not None:
        path = getattr(getattr(error, "ctx", None), "command_path", "forebay")
        show.complain_of_usage(tell(), command=path)
        return show.EXIT_CALLER
    if os.environ.get("FOREBAY_DEBUG"):
        import traceback

        show.say_as_it_is("".join(traceback.format_exception(error)).rstrip())
    show.complain_of_bug(error)
    return show.EXIT_OURS
