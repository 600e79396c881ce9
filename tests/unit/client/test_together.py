"""Several flows at once, in threads and in an event loop."""

import asyncio
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from forebay.client.drivers import AsyncDriver, Driver, Line
from forebay.client.exchange import Do, Flow, do, together
from forebay.client.together import Hook, HungUp


def run(flow: Flow[Any]) -> Any:
    driver = Driver(Line("http://127.0.0.1:1"))
    try:
        return driver.run(flow)
    finally:
        driver.close()


def arun(flow: Flow[Any]) -> Any:
    async def main() -> Any:
        driver = AsyncDriver(Line("http://127.0.0.1:1"))
        try:
            return await driver.run(flow)
        finally:
            await driver.close()

    return asyncio.run(main())


BOTH = pytest.mark.parametrize("run", [run, arun], ids=["threads", "loop"])
Run = Callable[[Flow[Any]], Any]


@BOTH
def test_each_gives_its_result(run: Run) -> None:
    """In the order of the flows, whichever ends first; they do run at once, and may run others."""
    barrier = threading.Barrier(3, timeout=60)

    def one(number: int) -> Flow[int]:
        yield from do(barrier.wait)
        (result,) = yield from together([do(lambda: number)])
        return result

    assert run(together([one(number) for number in range(3)])) == [0, 1, 2]


@BOTH
def test_a_tick_comes_meanwhile(run: Run) -> None:
    """In the thread of whoever waits, for as long as that lasts."""
    ticked = threading.Event()
    threads = set()

    def tick() -> None:
        threads.add(threading.get_ident())
        ticked.set()

    run(together([do(partial(ticked.wait, 60))], tick))
    assert threads == {threading.get_ident()}


@BOTH
def test_the_first_failure_ends_all(run: Run) -> None:
    """It is raised where they were begun, and the others do no next step."""
    failed, steps = threading.Event(), []

    def fails() -> Flow[None]:
        yield from do(lambda: 1 / 0)

    def goes_on() -> Flow[None]:
        try:
            while True:
                yield from do(partial(failed.wait, 0.01))
                steps.append(1)
        finally:
            failed.set()

    def both() -> Flow[str]:
        try:
            yield from together([goes_on(), fails()])
        except ZeroDivisionError:
            return "failed"
        return "done"

    assert run(both()) == "failed"
    assert failed.wait(60)


def test_whoever_is_hung_up_hangs_up_those_within() -> None:
    """A flow that a thread runs for another is broken off with it."""
    hook, begun, ended = Hook(), threading.Event(), threading.Event()

    def inner() -> Flow[None]:
        try:
            while True:
                yield Do(begun.set)
        finally:
            ended.set()

    driver = Driver(Line("http://127.0.0.1:1"))
    raised: list[BaseException] = []

    def outer() -> None:
        try:
            driver.run(together([inner()]), hook=hook)
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=outer)
    thread.start()
    assert begun.wait(60)
    hook.hang_up()
    thread.join(60)
    assert [type(error) for error in raised] == [HungUp]
    assert ended.wait(60)
    driver.close()
