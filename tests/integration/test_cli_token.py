"""`forebay token`: secrets on stdout alone, once; everything else by name."""

import contextlib
import re
from pathlib import Path

import pytest
from test_cli_program import Program, _modules_after

import forebay
from forebay.catalog.reader import VersionReader


@pytest.fixture
def program(tmp_path: Path) -> Program:
    return Program(tmp_path / "data")


def test_add_prints_the_secret_alone(program: Program) -> None:
    """`TOKEN=$(forebay token add …)` works: stdout has the secret and nothing else, stderr the rest without it."""
    done = program("token", "add", "notebook", "--scope", "read,write", "--group", "weather")
    (secret,) = done.lines
    assert re.fullmatch(r"fby_[A-Za-z0-9_-]{32}", secret)
    assert "token notebook may read, write in the group weather" in done.err
    assert secret not in done.err
    with forebay.open(program.data) as bay:
        (token,) = bay.tokens.list_tokens()
    with contextlib.closing(VersionReader(program.data / "catalog.sqlite")) as reader:
        bearer = reader.token(secret)
    assert bearer is not None
    assert bearer.id == token.id
    assert (token.name, token.scopes, token.group_name) == ("notebook", ("read", "write"), "weather")


def test_add_makes_the_folder_and_says_what_the_first_one_changes(program: Program) -> None:
    """A server may be set up before anything was fetched."""
    assert not program.data.exists()
    assert (
        "from now on, a server on this folder asks for a token"
        in program("token", "add", "a", "--scope", "read").err
    )
    assert "from now on" not in program("token", "add", "b", "--scope", "read").err


def test_scopes_may_be_said_one_by_one(program: Program) -> None:
    """With commas, with spaces, or with the option again."""
    for name, options in (
        ("a", ["--scope", "read,call"]),
        ("b", ["--scope", "read", "--scope", "call"]),
        ("c", ["--scope", "call, read"]),
    ):
        (made,) = program("token", "add", name, *options, "--json").json
        assert made["scopes"] == ["read", "call"]


def test_json(program: Program) -> None:
    """`add` gives the secret with what `ls` and `revoke` give without it."""
    (made,) = program("token", "add", "notebook", "--scope", "admin", "--json").json
    secret = made.pop("secret")
    listed = program("token", "ls", "--json")
    assert listed.json == [made]
    (revoked,) = program("token", "revoke", "notebook", "--json").json
    assert revoked.pop("revoked_datetime_utc") is not None
    assert made.pop("revoked_datetime_utc") is None
    assert revoked == made
    assert secret not in listed.out


def test_ls(program: Program) -> None:
    """A token is a line; the revoked ones stay. The secret is not shown again."""
    secret = program("token", "add", "notebook", "--scope", "read").out.strip()
    program("token", "add", "phone", "--scope", "call,read", "--group", "weather")
    program("token", "revoke", "notebook")
    done = program("token", "ls")
    first, second = (line.split("\t") for line in done.lines)
    assert first[:3] == ["notebook", "read", "-"]
    assert first[4] == "-"
    assert first[5].endswith(("ago", "just now"))
    assert second[:3] == ["phone", "read,call", "weather"]
    assert second[5] == "-"
    assert secret not in done.out + done.err


def test_ls_of_none(program: Program) -> None:
    """No output, and a note on what that means; exit code 0."""
    program.data.mkdir()
    done = program("token", "ls")
    assert done.out == ""
    assert "loopback only" in done.err
    assert program("token", "ls", "--json").out == ""


def test_a_table_on_a_terminal(program: Program) -> None:
    """With headings."""
    program("token", "add", "notebook", "--scope", "read")
    first, second = program.on_terminal("token", "ls", TERM="dumb").splitlines()
    assert first.split() == ["NAME", "SCOPES", "GROUP", "MADE", "USED", "REVOKED"]
    assert second.split()[:3] == ["notebook", "read", "-"]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["add", "a b", "--scope", "read"], "name"),
        (["add", "a", "--scope", "all"], "scope"),
        (["add", "a", "--scope", ","], "scope"),
        (["add", "a", "--scope", "admin", "--group", "weather"], "group"),
        (["add", "taken", "--scope", "read"], "name"),
    ],
)
def test_a_value_that_breaks_its_rule(program: Program, arguments: list[str], named: str) -> None:
    """It is named with its rule; exit code 1, and stdout stays empty."""
    program("token", "add", "taken", "--scope", "read")
    done = program("token", *arguments, code=1)
    assert done.err.startswith(f"error: {named}: expected")
    assert "[value_invalid]" in done.err
    assert done.out == ""
    assert len(program("token", "ls").lines) == 1


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ([], "command"),
        (["add", "a"], "--scope"),
        (["add"], "NAME"),
        (["frobnicate"], "frobnicate"),
        (["revoke"], "NAME"),
    ],
)
def test_a_command_line_that_cannot_be_read(program: Program, arguments: list[str], named: str) -> None:
    """A usage error names what is wrong and where the help is; exit code 1."""
    done = program("token", *arguments, code=1)
    assert named in done.err
    assert "[usage_invalid]" in done.err
    assert re.search(r"`forebay token( \w+)? --help` says", done.err)


def test_revoke_of_what_is_not_there(program: Program) -> None:
    """The error names it and the command that lists those that are; exit code 1."""
    program.data.mkdir()
    done = program("token", "revoke", "notebook", code=1)
    assert "no token is named notebook" in done.err
    assert "[token_unknown]" in done.err


@pytest.mark.parametrize("arguments", [["ls"], ["revoke", "a"]])
def test_a_folder_that_is_not_there(program: Program, tmp_path: Path, arguments: list[str]) -> None:
    """Only `add` makes a folder: elsewhere a name that is not there is a slip."""
    done = program("token", *arguments, "--data", tmp_path / "typo", code=1)
    assert "[value_invalid]" in done.err
    assert not (tmp_path / "typo").exists()


@pytest.mark.parametrize("verb", ["add", "ls", "revoke"])
def test_each_verb_has_an_example(program: Program, verb: str) -> None:
    """The help of each shows one that can be copied."""
    assert f"Example: forebay token {verb}" in program("token", verb, "--help").out


def test_help_imports_little(program: Program) -> None:
    """It is there at once."""
    assert not _modules_after(program, "token", "--help") & {"sqlalchemy", "pycurl", "alembic", "forebay.bay"}
