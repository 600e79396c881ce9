"""What our client says in tus, and what it makes of the answers."""

import pytest

from forebay.client.exchange import Answer, Call, Wait
from forebay.client.tus import Progressing, offset_of
from forebay.core.fields import Fields


def test_an_upload_that_is_made_whole_is_waited_for() -> None:
    """A HEAD has no body that would say so: the status does. It is asked for again, as often as it takes."""
    progress = Progressing(tell=None, total=3)
    flow = offset_of("f" * 32, progress)
    for _ in range(100):
        assert isinstance(next(flow), Call)
        assert isinstance(flow.send(Answer(423, Fields([]))), Wait)
        assert progress.contacted
    next(flow)
    with pytest.raises(StopIteration) as ended:
        flow.send(Answer(200, Fields([("Upload-Offset", "3")])))
    assert ended.value.value == 3
