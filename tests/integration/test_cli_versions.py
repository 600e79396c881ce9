"""What is kept, on the command line: ls, log, show, tag, pin, rm, config, gc, verify, du."""

import hashlib
from pathlib import Path

import pytest
from test_cli_program import Program

import forebay
from origin import Origin, Resource, blob


@pytest.fixture
def program(tmp_path: Path) -> Program:
    return Program(tmp_path / "data")


class Kept:
    """A URL with two ready versions, `one` and `two`, and a third attempt that failed."""

    def __init__(self, program: Program, origin: Origin) -> None:
        self.url = origin.url("/a.txt")
        resource = origin.serve("/a.txt", Resource(b"one"))
        # In this process: a tenth of the time of three more.
        with forebay.open(program.data) as bay:
            self.one = bay.fetch(self.url).version
            resource.change(b"two!", etag='"v2"')
            self.two = bay.fetch(self.url, refresh="always").version
            with pytest.raises(forebay.HashMismatch):
                bay.fetch(self.url, sha256="0" * 64, refresh="always")


@pytest.fixture
def kept(program: Program, origin: Origin) -> Kept:
    return Kept(program, origin)


# --- ls, log, show ----------------------------------------------------------------------------------------


def test_ls_of_an_empty_folder(program: Program) -> None:
    """Nothing is kept: no output, a note, exit code 0."""
    program.data.mkdir()
    done = program("ls")
    assert done.out == ""
    assert "nothing is kept yet" in done.err
    assert program("ls", "--json").out == ""


def test_ls(program: Program, kept: Kept) -> None:
    """A URL is a line: size of the latest version, number of ready ones, age, number of pinned ones."""
    program("pin", kept.url)
    (line,) = program("ls").lines
    url, size, versions, age, pinned = line.split("\t")
    assert (url, size, versions, pinned) == (kept.url, "4 B", "2", "1")
    assert age.endswith(("ago", "just now"))
    (found,) = program("ls", "--json").json
    assert (found["url"], found["versions"], found["pinned_versions"]) == (kept.url, 2, 1)
    assert found["latest"]["version"] == kept.two


def test_ls_of_a_url_that_never_came(program: Program, origin: Origin) -> None:
    """A URL whose only fetch failed is listed, with that instead of an age."""
    program("get", origin.url("/missing"), code=2)
    assert program("ls").lines == [f"{origin.url('/missing')}\t-\t0\tfailed\t0"]


def test_log(program: Program, kept: Kept) -> None:
    """The versions, the newest first, with status, size, hash, tags, pin, and why the failed one failed."""
    program("tag", kept.url, "good", "--version", kept.one)
    program("pin", kept.url, "--version", kept.one)
    failed, two, one = (line.split("\t") for line in program("log", kept.url).lines)
    assert failed[1] == "failed"
    assert "[hash_mismatch]" in failed[7]
    assert two[:3] == [kept.two, "ready", "4 B"]
    assert two[4:] == [hashlib.sha256(b"two!").hexdigest()[:16], "-", "-", "-"]
    assert one[:3] == [kept.one, "ready", "3 B"]
    assert one[5:7] == ["good", "yes"]


def test_log_as_json(program: Program, kept: Kept) -> None:
    """Each line is a Response; they name their neighbours."""
    failed, two, one = program("log", kept.url, "--json").json
    assert failed["download_stats"]["error_code"] == "hash_mismatch"
    assert two["previous_version"] == one["version"] == kept.one
    assert one["next_version"] == kept.two


@pytest.mark.parametrize("command", ["log", "show", "pin", "rm", "config"])
def test_a_url_that_is_not_known(program: Program, kept: Kept, command: str) -> None:
    """The error says so and how to find out what is known; exit code 1."""
    done = program(command, "https://example.org/never", code=1)
    assert "[request_unknown]" in done.err
    assert "forebay ls" in done.err


def test_show(program: Program, kept: Kept) -> None:
    """The latest ready version in full, or the one that is named."""
    program("tag", kept.url, "old", "--version", kept.one)
    facts = dict(line.split("  ", 1) for line in program("show", kept.url).lines)
    assert facts["version"].strip() == kept.two
    assert facts["filename"].strip() == "a.txt"
    assert facts["sha256"].strip() == hashlib.sha256(b"two!").hexdigest()
    assert Path(facts["path"].strip()).read_bytes() == b"two!"
    (named,) = program("show", kept.url, "--tag", "old", "--json").json
    assert (named["version"], named["tags"]) == (kept.one, ["old"])
    assert Path(named["path"]).read_bytes() == b"one"
    (named,) = program("show", kept.url, "--version", kept.one, "--json").json
    assert named["version"] == kept.one


def test_show_a_version_that_is_not_there(program: Program, kept: Kept) -> None:
    """The error names it and the command that lists those that are."""
    done = program("show", kept.url, "--version", "20200101T000000000000Z", code=1)
    assert "20200101T000000000000Z" in done.err
    assert f"forebay log {kept.url}" in done.err


def test_what_an_origin_sends_does_not_steer_the_terminal(program: Program, origin: Origin) -> None:
    """Escape sequences in a field of the origin are shown as marks, never obeyed."""
    origin.serve("/a", Resource(b"a", etag='"\x1b[2J"'))
    program("get", origin.url("/a"))
    assert "\x1b[2J" not in program("show", origin.url("/a")).out


# --- tag, pin, rm, config ---------------------------------------------------------------------------------


def test_tag(program: Program, kept: Kept) -> None:
    """A tag is of the latest version unless one is named, and can be taken away."""
    assert f"version {kept.two} has the tag good" in program("tag", kept.url, "good").err
    (tagged,) = program("tag", kept.url, "old", "--version", kept.one, "--json").json
    assert (tagged["version"], tagged["tags"]) == (kept.one, ["old"])
    (untagged,) = program("tag", kept.url, "good", "--remove", "--json").json
    assert untagged["tags"] == []


def test_a_bad_tag(program: Program, kept: Kept) -> None:
    """The error gives the rule; exit code 1."""
    assert "2 to 64 of" in program("tag", kept.url, "no spaces", code=1).err


def test_pin(program: Program, kept: Kept) -> None:
    """A pin is for ever or for a time, and can be released."""
    assert f"version {kept.two} is pinned for ever" in program("pin", kept.url).err
    (pinned,) = program("pin", kept.url, "--version", kept.one, "--for", "30d", "--json").json
    assert pinned["pinned"]
    assert pinned["pinned_until_utc"] is not None
    (released,) = program("pin", kept.url, "--version", kept.one, "--release", "--json").json
    assert not released["pinned"]


@pytest.mark.parametrize("span", ["soon", "0s", "-3d", "5"])
def test_pin_for_no_time(program: Program, kept: Kept, span: str) -> None:
    """A time that is none is refused with the rule."""
    assert "error: --for: expected a time" in program("pin", kept.url, f"--for={span}", code=1).err


def test_rm_and_undo(program: Program, kept: Kept) -> None:
    """What was removed is gone from every list, and `--undo` has it back with its tags."""
    program("tag", kept.url, "good", "--version", kept.one)
    done = program("rm", kept.url)
    assert f"removed version {kept.one}" in done.err
    assert "hint: `forebay rm --undo`" in done.err
    assert program("ls").out == ""
    assert program("log", kept.url).out == ""
    assert len(program("log", kept.url, "--deleted").lines) == 3
    assert "[not_stored]" in program("get", kept.url, "--offline", code=1).err
    program("rm", kept.url, "--undo")
    assert len(program("log", kept.url).lines) == 3
    assert program("get", kept.url, "--tag", "good", "-o", "-").raw == b"one"


def test_rm_of_one_version(program: Program, kept: Kept) -> None:
    """Only that version goes; a second time it is not there."""
    (removed,) = program("rm", kept.url, "--version", kept.two, "--json").json
    assert removed["version"] == kept.two
    assert program("get", kept.url, "--offline", "-o", "-").raw == b"one"
    assert "[version_unknown]" in program("rm", kept.url, "--version", kept.two, code=1).err


def test_undo_without_a_removal(program: Program, kept: Kept) -> None:
    """There is nothing to have back; exit code 1."""
    assert "[version_unknown]" in program("rm", kept.url, "--undo", code=1).err


def test_config(program: Program, kept: Kept) -> None:
    """Without options it shows, with options it changes only what they name."""
    before = program("config", kept.url).out
    assert before.splitlines()[0].startswith("refresh      changed")
    assert program("config", kept.url, "--refresh", "7d", "--keep", "5").lines[:2] == [
        "refresh      7d (again when it is so old)",
        "keep         5",
    ]
    (shown,) = program("config", kept.url, "--json").json
    assert shown["cache_configuration"] == {
        "recaching_strategy": {"strategy_name": "age", "seconds": 604800.0},
        "max_cached_unpinned_versions": 5,
        "max_cached_pinned_versions": 10,
    }


@pytest.mark.parametrize(
    ("refresh", "shown"),
    [
        ("never", "never"),
        ("always", "always"),
        ("changed", "changed (the origin is asked each 6h)"),
        ("90s", "90s"),
        ("cron:0 6 * * *", "cron:0 6 * * *"),
    ],
)
def test_config_shows_what_refresh_takes(program: Program, kept: Kept, refresh: str, shown: str) -> None:
    """What `config` shows as the strategy can be given to --refresh."""
    assert program("config", kept.url, "--refresh", refresh).lines[0].startswith(f"refresh      {shown}")


def test_config_keeps_fewer(program: Program, kept: Kept) -> None:
    """A smaller number of versions to keep holds at once."""
    program("config", kept.url, "--keep", "1")
    assert [v["version"] for v in program("log", kept.url, "--json").json if v["status"] == "ready"] == [kept.two]


# --- gc, verify, du ---------------------------------------------------------------------------------------


def test_gc(program: Program, kept: Kept) -> None:
    """--dry-run lists what would go and why, and leaves it; without, it goes."""
    program("config", kept.url, "--keep", "1")
    at_once = {"FOREBAY_SWEEP_GRACE_S": "0"}
    digest = hashlib.sha256(b"one").hexdigest()
    dry = program("gc", "--dry-run", **at_once)
    assert [line.split("\t") for line in dry.lines] == [["content", digest, "3 B", "-", "no version has it"]]
    assert "would free 3 B" in dry.err
    (done,) = program("gc", "--json", **at_once).json
    assert not done["dry_run"]
    assert done["freed_bytes"] == 3
    assert done["items"][0]["name"] == digest
    assert program("gc", **at_once).out == ""


def test_verify(program: Program, kept: Kept) -> None:
    """Everything is read; that all is right is said on stderr."""
    done = program("verify")
    assert done.out == ""
    assert "checked 2 contents, 7 B: all right" in done.err
    assert program("verify", "--json").json == [{"checked": 2, "checked_bytes": 7, "rotten": []}]


@pytest.mark.parametrize("as_json", [False, True])
def test_verify_finds_rot(program: Program, origin: Origin, as_json: bool) -> None:
    """Damage is named with its versions, exit code 2; the next `get` fetches the content anew."""
    body = blob(1000)
    origin.serve("/a", Resource(body))
    (path,) = program("get", origin.url("/a")).lines
    Path(path).chmod(0o600)
    Path(path).write_bytes(bytes(1000))
    done = program("verify", *(["--json"] if as_json else []), code=2)
    digest = hashlib.sha256(body).hexdigest()
    if as_json:
        (rot,) = done.json[0]["rotten"]
        assert (rot["sha256"], rot["responses"][0]["url"]) == (digest, origin.url("/a"))
    else:
        (line,) = done.lines
        assert line.split("\t")[0] == digest
        assert line.split("\t")[3] == origin.url("/a")
    assert "1 damaged" in done.err
    assert program("get", origin.url("/a"), "-o", "-").raw == body


def test_du(program: Program, kept: Kept) -> None:
    """What is kept and what it takes, for people and for programs."""
    facts = dict(line.split("  ", 1) for line in program("du", FOREBAY_QUOTA_BYTES="1048576").lines)
    assert facts["folder"].strip() == str(program.data)
    assert facts["content"].strip() == "7 B in 2 files"
    assert facts["quota"].strip() == "1.0 MiB"
    (used,) = program("du", "--json").json
    assert (used["folder"], used["requests"], used["versions"]) == (str(program.data), 1, 2)
    assert (used["contents"], used["content_bytes"], used["quota_bytes"]) == (2, 7, None)
