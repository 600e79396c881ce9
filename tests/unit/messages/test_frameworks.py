"""Messages that FastAPI's path operations return."""

import asyncio
from collections.abc import Callable

import fastapi
import httpx
import pytest

from forebay import BufferedServerResponse, OutgoingMessage


def outgoing() -> OutgoingMessage:
    """A message with two cookies."""
    message = OutgoingMessage("hällo", status=203)
    message.set_cookie("a", "1")
    message.set_cookie("b", "2")
    return message


def buffered() -> BufferedServerResponse:
    """The same, written."""
    response = BufferedServerResponse()
    response.set_status_code(203)
    for name, value in outgoing().headers.items_all():
        response.add_header(name, value)
    response.write("hällo")
    response.finish()
    return response


@pytest.mark.parametrize("make", [outgoing, buffered])
def test_a_path_operation_answers_with_it(
    make: Callable[[], OutgoingMessage | BufferedServerResponse],
) -> None:
    """Status, fields and bytes are the message's; fields may be added, and what is left for later is done."""
    done: list[str] = []

    app = fastapi.FastAPI()

    @app.get("/message")
    def message(tasks: fastapi.BackgroundTasks) -> fastapi.Response:
        tasks.add_task(done.append, "later")
        response = make().as_response()
        response.headers["X-Added"] = "yes"
        return response

    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://app") as client:
            return await client.get("/message")

    answer = asyncio.run(ask())
    assert (answer.status_code, answer.content) == (203, "hällo".encode())
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    assert [cookie.partition(";")[0] for cookie in answer.headers.get_list("set-cookie")] == ["a=1", "b=2"]
    assert answer.headers["x-added"] == "yes"
    assert done == ["later"]
