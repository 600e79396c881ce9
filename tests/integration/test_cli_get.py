"""`forebay get` as a person runs it: a real program against a real origin."""

import hashlib
import os
import stat
from pathlib import Path

import pytest
from test_cli_program import Program

from origin import Coded, CutEvery, Origin, Redirect, Resource, Status, blob


@pytest.fixture
def program(tmp_path: Path) -> Program:
    return Program(tmp_path / "data")


# --- where it goes ----------------------------------------------------------------------------------------


def test_the_path_of_what_is_stored(program: Program, origin: Origin) -> None:
    """Without -o, stdout is the path of the stored bytes, and stderr one line about them."""
    body = blob(300_000)
    origin.serve("/rfc9110.txt", Resource(body))
    done = program("get", origin.url("/rfc9110.txt"))
    (path,) = done.lines
    assert Path(path).read_bytes() == body
    assert Path(path).is_relative_to(program.data)
    (line,) = done.err.splitlines()
    assert line.startswith(f"rfc9110.txt  293 KiB  sha256 {hashlib.sha256(body).hexdigest()[:8]}…  version 2")
    assert "(fetched in " in line


def test_a_fresh_copy_opens_no_connection(program: Program, origin: Origin) -> None:
    """The second `get` prints the same path and does not ask the origin."""
    origin.serve("/a", Resource(b"a"))
    first = program("get", origin.url("/a"))
    connections = origin.connections
    second = program("get", origin.url("/a"))
    assert second.out == first.out
    assert "(stored " in second.err
    assert origin.connections == connections


def test_nothing_new_at_the_origin(program: Program, origin: Origin) -> None:
    """`--refresh always` asks; an origin that has nothing new is said to be unchanged."""
    resource = origin.serve("/a", Resource(b"a"))
    program("get", origin.url("/a"))
    assert "(unchanged at the origin)" in program("get", origin.url("/a"), "--refresh", "always").err
    assert resource.not_modified == 1


def test_a_copy_in_a_file(program: Program, origin: Origin, tmp_path: Path) -> None:
    """-o FILE gets all the bytes, the mode that the umask gives, and nothing else in its folder."""
    body = blob(1_000_000)
    origin.serve("/a", Resource(body))
    target = tmp_path / "out" / "copy.bin"
    target.parent.mkdir()
    done = program("get", origin.url("/a"), "-o", target)
    assert done.lines == [str(target)]
    assert target.read_bytes() == body
    umask = os.umask(0)
    os.umask(umask)
    assert stat.S_IMODE(target.stat().st_mode) == 0o666 & ~umask
    assert list(target.parent.iterdir()) == [target]


def test_a_copy_of_nothing(program: Program, origin: Origin, tmp_path: Path) -> None:
    """An empty content is a file of no bytes, not no file."""
    origin.serve("/empty", Resource(b""))
    program("get", origin.url("/empty"), "-o", tmp_path / "empty")
    assert (tmp_path / "empty").read_bytes() == b""


def test_a_file_is_replaced_whole_or_not_at_all(program: Program, origin: Origin, tmp_path: Path) -> None:
    """A download that fails leaves the file of before; one that works replaces it, through a symbolic link."""
    target = tmp_path / "copy"
    target.write_bytes(b"before")
    (tmp_path / "link").symlink_to(target)
    program("get", origin.url("/missing"), "-o", tmp_path / "link", code=2)
    assert target.read_bytes() == b"before"
    origin.serve("/a", Resource(b"after"))
    program("get", origin.url("/a"), "-o", tmp_path / "link")
    assert target.read_bytes() == b"after"
    assert (tmp_path / "link").is_symlink()


def test_a_device_is_written_to_not_replaced(program: Program, origin: Origin) -> None:
    """-o /dev/null stays a device."""
    origin.serve("/a", Resource(b"a"))
    program("get", origin.url("/a"), "-o", "/dev/null")
    assert Path("/dev/null").is_char_device()


def test_a_named_pipe_gets_the_bytes(program: Program, origin: Origin, tmp_path: Path) -> None:
    """-o on a FIFO feeds whoever reads it."""
    body = blob(500_000)
    origin.serve("/a", Resource(body))
    os.mkfifo(tmp_path / "fifo")
    with program.start("get", origin.url("/a"), "--quiet", "-o", tmp_path / "fifo") as running:
        assert (tmp_path / "fifo").read_bytes() == body
    assert running.returncode == 0


def test_a_file_that_cannot_be_written(program: Program, origin: Origin, tmp_path: Path) -> None:
    """A path below a file is the caller's error and says why; the content is kept all the same."""
    origin.serve("/a", Resource(b"a"))
    (tmp_path / "file").write_bytes(b"")
    done = program("get", origin.url("/a"), "-o", tmp_path / "file" / "below", code=1)
    assert "error: -o: expected" in done.err
    done = program("get", origin.url("/a"), "-o", f"{tmp_path}/file/below/", code=1)
    assert "error: -o: expected" in done.err


def test_a_copy_in_a_folder(program: Program, origin: Origin, tmp_path: Path) -> None:
    """-o DIR takes the name that the origin proposes, made safe: never a path out of the folder."""
    disposition = [
        ("Content-Disposition", "attachment; filename=\"../../évil.txt\"; filename*=UTF-8''na%C3%AFve.txt")
    ]
    origin.serve("/a", Resource(b"a", fields=disposition))
    (tmp_path / "out").mkdir()
    done = program("get", origin.url("/a"), "-o", tmp_path / "out")
    assert done.lines == [str(tmp_path / "out" / "naïve.txt")]
    assert (tmp_path / "out" / "naïve.txt").read_bytes() == b"a"


def test_a_folder_that_is_to_be_made(program: Program, origin: Origin, tmp_path: Path) -> None:
    """-o DIR/ with a slash at its end makes the folder."""
    origin.serve("/a.txt", Resource(b"a"))
    program("get", origin.url("/a.txt"), "-o", f"{tmp_path}/new/er/")
    assert (tmp_path / "new" / "er" / "a.txt").read_bytes() == b"a"


def test_two_contents_of_one_name(program: Program, origin: Origin, tmp_path: Path) -> None:
    """Equal names in one run are numbered in the order of the URLs and said; the next run has the same ones."""
    for name, body in (("/1/data.json", b"1"), ("/2/DATA.json", b"2"), ("/3/data.json", b"3")):
        origin.serve(name, Resource(body))
    urls = [origin.url(path) for path in ("/1/data.json", "/2/DATA.json", "/3/data.json")]
    for _ in range(2):
        done = program("get", *urls, "-o", f"{tmp_path}/out/", "--max-downloads", "3", "--per-host", "3")
        names = [Path(line).name for line in done.lines]
        assert names == ["data.json", "DATA-2.json", "data-3.json"]
        assert [(tmp_path / "out" / name).read_bytes() for name in names] == [b"1", b"2", b"3"]
        assert done.err.count("note: another URL has the name") == 2
    assert len(list((tmp_path / "out").iterdir())) == 3


def test_bytes_on_stdout(program: Program, origin: Origin) -> None:
    """-o - writes the bytes and nothing else to stdout, several contents in the order of their URLs."""
    one, two = blob(2_000_000, 1), blob(1_000, 2)
    origin.serve("/1", Resource(one))
    origin.serve("/2", Resource(two))
    done = program("get", origin.url("/1"), origin.url("/2"), "-o", "-", "--per-host", "2")
    assert done.raw == one + two


def test_json(program: Program, origin: Origin, tmp_path: Path) -> None:
    """--json is one line: the Response, where its content is, and how it was had."""
    body = blob(1000)
    origin.serve("/a.txt", Resource(body))
    (first,) = program("get", origin.url("/a.txt"), "--json").json
    assert first["url"] == origin.url("/a.txt")
    assert first["status"] == "ready"
    assert first["how"] == "fetched"
    assert first["content_attributes"]["sha256"] == hashlib.sha256(body).hexdigest()
    assert Path(first["path"]).read_bytes() == body
    (second,) = program("get", origin.url("/a.txt"), "--json", "-o", tmp_path / "copy").json
    assert (second["how"], second["path"]) == ("stored", str(tmp_path / "copy"))
    assert second["version"] == first["version"]


def test_quiet(program: Program, origin: Origin) -> None:
    """--quiet says nothing of what went well."""
    origin.serve("/a", Resource(b"a"))
    done = program("get", origin.url("/a"), "--quiet")
    assert done.err == ""
    assert len(done.lines) == 1


def test_a_coded_body(program: Program, origin: Origin, tmp_path: Path) -> None:
    """A body that the origin coded unasked is written as it came, with a note."""
    coded = origin.serve("/page", Coded(b"hello " * 1000))
    done = program("get", origin.url("/page"), "-o", tmp_path / "page")
    assert (tmp_path / "page").read_bytes() == coded.coded
    assert "note: " in done.err
    assert "coded with gzip" in done.err


# --- several URLs -----------------------------------------------------------------------------------------


def test_several_urls_keep_their_order(program: Program, origin: Origin) -> None:
    """Paths come in the order of the URLs, whichever is done first; a URL named twice counts once."""
    bodies = {f"/{n}": blob(400_000 // (n + 1), n) for n in range(6)}
    for path, body in bodies.items():
        origin.serve(path, Resource(body))
    urls = [origin.url(path) for path in bodies]
    done = program("get", *urls, urls[0], "--max-downloads", "6", "--per-host", "6")
    assert [Path(line).read_bytes() for line in done.lines] == list(bodies.values())


def test_a_list_of_urls(program: Program, origin: Origin, tmp_path: Path) -> None:
    """-i reads URLs from a file or stdin: blank lines and comments are skipped, a fragment is none."""
    for path in ("/1", "/2", "/3"):
        origin.serve(path, Resource(path.encode()))
    text = f"# a list\n\n{origin.url('/2')}\r\n  {origin.url('/3')}#part  # the third\n".encode()
    (tmp_path / "list.txt").write_bytes(b"\xef\xbb\xbf" + text)
    done = program("get", origin.url("/1"), "-i", tmp_path / "list.txt")
    assert [Path(line).read_bytes() for line in done.lines] == [b"/1", b"/2", b"/3"]
    done = program("get", "-i", "-", stdin=text)
    assert [Path(line).read_bytes() for line in done.lines] == [b"/2", b"/3"]


def test_an_empty_list(program: Program) -> None:
    """A list without a URL is nothing to do, which is no error."""
    assert "nothing to do" in program("get", "-i", "-", stdin=b"# none today\n").err


def test_one_failure_among_several(program: Program, origin: Origin) -> None:
    """Each failure is told with its URL, the others are done, and the worst code is the exit code."""
    origin.serve("/good", Resource(b"good"))
    done = program("get", "example.org/x", origin.url("/missing"), origin.url("/good"), code=2)
    assert [Path(line).read_bytes() for line in done.lines] == [b"good"]
    assert "[url_invalid]" in done.err
    assert f"error: {origin.url('/missing')}: " in done.err
    assert "404 [origin_status]" in done.err
    done = program("get", "example.org/x", origin.url("/good"), code=1)
    assert len(done.lines) == 1


def test_json_of_failures(program: Program, origin: Origin) -> None:
    """With --json a failure is an object of its own, in its place."""
    origin.serve("/good", Resource(b"good"))
    done = program("get", origin.url("/missing"), "example.org/x", origin.url("/good"), "--json", code=2)
    missing, wrong, good = done.json
    assert missing["url"] == origin.url("/missing")
    assert missing["error"]["code"] == "origin_status"
    assert "404" in missing["error"]["detail"]
    assert (wrong["url"], wrong["error"]["code"]) == ("example.org/x", "url_invalid")
    assert good["status"] == "ready"


# --- bad days ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("refresh", ["always", "changed"])
def test_a_dead_origin_with_a_stored_version(program: Program, origin: Origin, refresh: str) -> None:
    """The stored version is used, stderr warns with its age and the reason, and the exit code is 0."""
    origin.serve("/a", Resource(b"a"))
    url = origin.url("/a")
    program("get", url, "--refresh", "always")
    origin.stop()
    done = program("get", url, "--refresh", "always", "-o", "-")
    assert done.raw == b"a"
    assert f"warning: {url}: could not be refreshed, so this is the version of " in done.err
    assert " ago: " in done.err or "just now: " in done.err
    assert "[origin_unreachable]" in done.err
    (stale,) = program("get", url, "--refresh", "always", "--json", "--quiet").json
    assert (stale["how"], stale["warning"]["code"]) == ("stale", "origin_unreachable")


def test_a_dead_origin_with_nothing_stored(program: Program, origin: Origin) -> None:
    """There is nothing to give: an error with its code and a hint, exit code 2, no output."""
    url = origin.url("/a")
    origin.stop()
    done = program("get", url, code=2)
    assert done.out == ""
    assert done.err.startswith("error: ")
    assert "[origin_unreachable]" in done.err
    assert "\nhint: " in done.err


def test_an_answer_that_is_no_content(program: Program, origin: Origin) -> None:
    """A 404 is told as such; exit code 2."""
    done = program("get", origin.url("/missing"), code=2)
    assert "the origin answered 404 [origin_status]" in done.err


def test_the_expected_hash(program: Program, origin: Origin) -> None:
    """The right hash passes, by --sha256 and by --hash with another algorithm."""
    body = blob(10_000)
    origin.serve("/a", Resource(body))
    origin.serve("/b", Resource(body))
    program("get", origin.url("/a"), "--sha256", hashlib.sha256(body).hexdigest().upper())
    program("get", origin.url("/b"), "--hash", f"md5:{hashlib.md5(body).hexdigest()}")


def test_a_wrong_hash(program: Program, origin: Origin, tmp_path: Path) -> None:
    """The error gives both hashes, nothing is written or kept, exit code 2."""
    body, wrong = blob(10_000), "0" * 64
    origin.serve("/a", Resource(body))
    done = program("get", origin.url("/a"), "--sha256", wrong, "-o", tmp_path / "copy", code=2)
    assert "[hash_mismatch]" in done.err
    assert wrong in done.err
    assert hashlib.sha256(body).hexdigest() in done.err
    assert not (tmp_path / "copy").exists()
    assert program("du", "--json").json[0]["content_bytes"] == 0


def test_an_origin_that_cuts(program: Program, origin: Origin) -> None:
    """The line about it tells of the attempts and of what did not have to come again."""
    body = blob(1_000_000)
    origin.serve("/a", CutEvery(Resource(body), 300_000))
    done = program("get", origin.url("/a"), "-o", "-")
    assert done.raw == body
    assert "4 attempts, resumed " in done.err


def test_public_only(program: Program, origin: Origin) -> None:
    """--public-only refuses loopback before anything is dialled, and names the option that would allow it."""
    origin.serve("/a", Resource(b"a"))
    done = program("get", origin.url("/a"), "--public-only", code=1)
    assert "[origin_refused]" in done.err
    assert "--allow-network" in done.err
    assert origin.connections == 0
    program("get", origin.url("/a"), "--public-only", "--allow-network", "127.0.0.0/8")


def test_link_local_is_never_dialled(program: Program, origin: Origin) -> None:
    """The addresses of metadata services are refused without any option, also behind a redirect."""
    origin.serve("/a", Redirect("http://169.254.169.254/latest/meta-data/"))
    assert "[origin_refused]" in program("get", origin.url("/a"), code=1).err


def test_secrets_in_a_url_are_not_shown(program: Program, origin: Origin) -> None:
    """A token in the query goes to the origin, and to nobody else."""
    origin.serve("/a", Status(403))
    origin.serve("/b", Resource(b"b"))
    failed = program("get", origin.url("/a?token=hush"), "--json", code=2)
    done = program("get", origin.url("/b?token=hush"), "--json")
    assert origin.requests("/a")[0].query == "token=hush"
    told = failed.out + failed.err + done.out + done.err + program("ls").out + program("ls", "--json").out
    assert "hush" not in told
    assert "token=***" in told


# --- what is stored ---------------------------------------------------------------------------------------


def test_offline(program: Program, origin: Origin) -> None:
    """--offline gives what is stored, asks nobody, and fails when nothing is."""
    origin.serve("/a", Resource(b"a"))
    program("get", origin.url("/a"))
    connections = origin.connections
    assert program("get", origin.url("/a"), "--offline", "-o", "-").raw == b"a"
    assert "[not_stored]" in program("get", origin.url("/b"), "--offline", code=1).err
    assert origin.connections == connections


def test_an_older_version_and_a_tag(program: Program, origin: Origin) -> None:
    """--version and --tag give what was stored under that name, even when there is newer content."""
    url = origin.url("/a")
    resource = origin.serve("/a", Resource(b"one"))
    (one,) = program("get", url, "--json").json
    program("tag", url, "first")
    resource.change(b"two", etag='"v2"')
    assert program("get", url, "--refresh", "always", "-o", "-").raw == b"two"
    assert program("get", url, "--version", one["version"], "-o", "-").raw == b"one"
    assert program("get", url, "--tag", "first", "-o", "-").raw == b"one"
    assert "[version_unknown]" in program("get", url, "--tag", "second", code=1).err


def test_a_quota(program: Program, origin: Origin) -> None:
    """Beyond --quota the least useful version goes, and stderr says which."""
    for path in ("/1", "/2"):
        origin.serve(path, Resource(blob(60_000, int(path[1:]))))
    program("get", origin.url("/1"))
    done = program("get", origin.url("/2"), "--quota", "100K")
    assert f"warning: evicted {origin.url('/1')}" in done.err
    assert [line.split("\t")[0] for line in program("ls").lines] == [origin.url("/2")]
