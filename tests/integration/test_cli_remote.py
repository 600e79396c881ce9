"""The command line on a server: with --server, or FOREBAY_SERVER in the environment."""

from collections.abc import Callable
from pathlib import Path

import pytest
from test_cli_program import Program

from conftest import Served
from origin import Origin, Resource, Status, blob


@pytest.fixture
def served(serve: Callable[..., Served]) -> Served:
    return serve()


@pytest.fixture
def program(served: Served, tmp_path: Path) -> Program:
    """`forebay` with that server in its environment."""
    return Program(tmp_path / "data", FOREBAY_SERVER=served.url, FOREBAY_CACHE=str(tmp_path / "cache"))


def test_get(program: Program, served: Served, origin: Origin, tmp_path: Path) -> None:
    """The path is that in the cache, a copy goes where -o says; no folder is made here."""
    body = blob(300_000)
    origin.serve("/a.bin", Resource(body))
    origin.serve("/gone", Status(404))
    url = origin.url("/a.bin")
    done = program("get", url)
    (path,) = done.lines
    assert Path(path).read_bytes() == body
    assert Path(path).is_relative_to(tmp_path / "cache")
    assert done.err.startswith("a.bin  293 KiB  sha256 ")
    assert program("get", url, "-o", "-").raw == body
    assert program("get", url, "-o", f"{tmp_path}/").lines == [str(tmp_path / "a.bin")]
    (described,) = program("get", url, "--json").json
    assert (described["how"], described["path"]) == ("stored", path)
    failed = program("get", url, origin.url("/gone"), "--json", code=2)
    assert [line.get("error", {}).get("code") for line in failed.json] == [None, "origin_status"]
    assert not program.data.exists()
    assert len(origin.requests("/a.bin", "GET")) == 1


def test_every_noun(program: Program, served: Served, origin: Origin) -> None:
    """What is listed, named, held, removed, configured and checked is the server's."""
    url = origin.url("/a")
    origin.serve("/a", Resource(b"hello"))
    program("get", url)
    (listed,) = program("ls", "--json").json
    assert listed["url"] == url
    (version,) = program("log", url, "--json").json
    assert program("tag", url, "ab", "--json").json[0]["tags"] == ["ab"]
    assert program("pin", url, "--for", "30d", "--json").json[0]["pinned"] is True
    (shown,) = program("show", url, "--tag", "ab", "--json").json
    assert shown["version"] == version["version"]
    assert Path(shown["path"]).read_bytes() == b"hello"
    assert "pinned" in program("show", url).out
    assert "7d" in program("config", url, "--refresh", "7d").out
    assert (
        program("config", url, "--json").json[0]["cache_configuration"]["recaching_strategy"]["seconds"] == 604800
    )
    assert len(program("rm", url, "--json").json) == 1
    assert program("ls").out == ""
    assert len(program("log", url, "--deleted", "--json").json) == 1
    assert len(program("rm", url, "--undo", "--json").json) == 1
    used = program("du", "--json").json[0]
    assert (used["server"], used["content_bytes"]) == (served.url, 5)
    assert served.url in program("du").out
    assert program("verify", "--json").json[0]["checked"] == 1
    assert program("gc", "--dry-run", "--json").json[0]["items"] == []


def test_what_is_shown_is_not_transferred(program: Program, origin: Origin, tmp_path: Path) -> None:
    """`show` names the path of content that is here, and of no other."""
    origin.serve("/a", Resource(b"hello"))
    program("get", origin.url("/a"))
    for path in (tmp_path / "cache" / "content").iterdir():
        path.unlink()
    assert program("show", origin.url("/a"), "--json").json[0]["path"] is None
    assert "path" not in program("show", origin.url("/a")).out
    assert list((tmp_path / "cache" / "content").iterdir()) == []


def test_a_server_or_a_folder(served: Served, origin: Origin, tmp_path: Path) -> None:
    """What the command line says comes before the environment; both at once is a mistake."""
    origin.serve("/a", Resource(b"a"))
    url = origin.url("/a")
    env = {"FOREBAY_CACHE": str(tmp_path / "cache")}
    # The environment of `Program` names a folder.
    program = Program(tmp_path / "data", **env)
    (path,) = program("get", url, "--server", served.url).lines
    assert path.startswith(str(tmp_path / "cache"))
    assert program("--server", served.url, "get", url).lines == [path]
    both = Program(tmp_path / "data", FOREBAY_SERVER=served.url, **env)
    assert both("get", url).lines == [path]
    (folder,) = both("get", url, "--data", tmp_path / "other").lines
    assert folder.startswith(str(tmp_path / "other"))
    assert both("--data", tmp_path / "other", "get", url).lines == [folder]
    for command in (
        ("get", url, "--data", tmp_path, "--server", "http://a"),
        ("--data", tmp_path, "--server", "u", "ls"),
    ):
        assert "--server: expected it or --data, not both" in program(*command, code=1).err


def test_options_that_are_the_servers(program: Program, origin: Origin) -> None:
    """What only a folder can be told is refused, and nothing is fetched."""
    for option in (
        ["--max-downloads", "2"], ["--per-host", "2"], ["--quota", "1G"], ["--proxy", "environment"],
        ["--allow-network", "10.0.0.0/8"], ["--public-only"],
    ):  # fmt: skip
        done = program("get", origin.url("/a"), *option, code=1)
        assert f"{option[0]}: expected no such option with a server" in done.err
    assert origin.requests() == []


def test_tokens_and_who_gets_them(served: Served, origin: Origin, tmp_path: Path) -> None:
    """FOREBAY_TOKEN is shown to the server of FOREBAY_SERVER, or to that of --server when there is none."""
    origin.serve("/a", Resource(b"a"))
    folder = Program(served.folder)
    (secret,) = folder("token", "add", "reader", "--scope", "read").lines
    program = Program(tmp_path / "data", FOREBAY_TOKEN=secret, FOREBAY_CACHE=str(tmp_path / "cache"))
    assert program("get", origin.url("/a"), "--server", served.url).code == 0
    assert "scope admin" in program("du", "--server", served.url, code=1).err
    other = Program(
        tmp_path / "data",
        FOREBAY_TOKEN=secret,
        FOREBAY_SERVER="http://other.example",
        FOREBAY_CACHE=str(tmp_path / "cache"),
    )
    for command in (("ls", "--server", served.url), ("--server", served.url, "ls")):
        done = other(*command, code=1)
        assert "[token_missing]" in done.err
        assert secret not in done.err


def test_no_server_there(tmp_path: Path, origin: Origin) -> None:
    """Exit code 2 with the way out; with the fallback, the content is fetched all the same, with a warning."""
    origin.serve("/a", Resource(b"a"))
    with Origin() as gone:
        nobody = gone.url("")
    env = {"FOREBAY_SERVER": nobody, "FOREBAY_CACHE": str(tmp_path / "cache")}
    done = Program(tmp_path / "data", **env)("get", origin.url("/a"), code=2)
    assert "cannot be reached" in done.err
    assert "[server_unreachable]" in done.err
    direct = Program(tmp_path / "data", FOREBAY_FALLBACK="direct", **env)
    done = direct("get", origin.url("/a"))
    assert Path(done.lines[0]).read_bytes() == b"a"
    assert "fetching directly" in done.err
    assert direct("ls", code=2).out == ""
