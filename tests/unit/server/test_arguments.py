"""What a call's body says is bounded in memory, however it is cut up."""

import asyncio
from typing import Any

import pytest

from asgi import Exchange
from forebay import UploadedFile
from forebay.errors import BodyTooLarge, BodyTooSlow
from forebay.server import arguments
from forebay.server.arguments import Form, read_arguments


def part(name: str, content: bytes, *, filename: str | None = None) -> bytes:
    """One part of a form."""
    said = f'name="{name}"' + ("" if filename is None else f'; filename="{filename}"')
    return b"--X\r\nContent-Disposition: form-data; " + said.encode() + b"\r\n\r\n" + content + b"\r\n"


def read(*parts: bytes) -> Any:
    """The form of these."""
    asked = Exchange("POST", "/", ("Content-Type", "multipart/form-data; boundary=X"), body=[*parts, b"--X--\r\n"])
    return asyncio.run(read_arguments(asked.scope, asked.receive, max_bytes=1 << 30))


def test_the_texts_of_a_form_are_bounded_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is small; files beside them are on the disk."""
    monkeypatch.setattr(arguments, "PARSED_BYTES", 1000)
    texts = [part(f"t{number}", b"x" * 100) for number in range(10)]
    form = read(*texts, part("file", b"y" * 5000, filename="f"))
    assert isinstance(form, Form)
    assert len(form.texts) == 11
    form.files[0].close()
    with pytest.raises(BodyTooLarge):
        read(*texts, part("more", b"x"))


def test_small_files_are_in_memory_and_others_are_not() -> None:
    """A thousand that just fit would fill it."""
    form = read(part("a", b"x", filename="a"), part("b", b"x" * (65 << 10), filename="b"))
    assert [file.size for file in form.files] == [1, 65 << 10]
    assert [rolled(file) for file in form.files] == [False, True]
    for file in form.files:
        file.close()


def test_a_body_that_trickles_is_too_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of its pieces comes in time, all of them together never would."""
    monkeypatch.setattr(arguments, "BODY_TIMEOUT_S", 0.01)
    monkeypatch.setattr(arguments, "_LEAST_BYTES_PER_S", 1e9)
    asked = Exchange("POST", "/", ("Content-Type", "application/json"), body=[])

    async def trickle() -> Any:
        await asyncio.sleep(0)
        return {"type": "http.request", "body": b" ", "more_body": True}

    with pytest.raises(BodyTooSlow):
        asyncio.run(read_arguments(asked.scope, trickle, max_bytes=1 << 20))


def rolled(file: UploadedFile) -> bool:
    """Whether it is on the disk."""
    spooled: Any = file.file
    return bool(spooled._rolled)
