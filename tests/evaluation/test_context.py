"""The processes of an evaluation: their shares, and what a single one does."""

import pytest
import torch
from support.contexts import OneProcess, one_process

from scorelight import ConfigurationError
from scorelight.evaluation import context
from scorelight.evaluation.context import DistributedContext


def test_shares_are_disjoint_and_complete():
    ranks = [DistributedContext(rank, 3, torch.device("cpu"), OneProcess()) for rank in range(3)]
    shares = [of_rank.share(torch.arange(10)).tolist() for of_rank in ranks]
    assert shares == [[0, 3, 6, 9], [1, 4, 7], [2, 5, 8]]


@pytest.mark.parametrize("error", [ConfigurationError("a"), OSError(28, "No space left on device")])
def test_errors_of_the_user_are_raised_as_they_are(error):
    def fail():
        raise error

    with pytest.raises(type(error)) as raised:
        one_process().agree(fail)
    assert raised.value is error


def test_a_folder_that_a_process_does_not_see_is_named(tmp_path, monkeypatch):
    """What rank 0 says it has written is not there."""

    class Elsewhere(OneProcess):
        def broadcast(self, value):
            return ".shared-1"

    monkeypatch.setattr(context, "_VISIBLE", 0.2)
    monkeypatch.setattr(DistributedContext, "all_gather", lambda self, value: [None, value])
    second = DistributedContext(1, 2, torch.device("cpu"), Elsewhere())
    with pytest.raises(ConfigurationError, match=r"mine: process 1 on .* with several nodes, --out must be"):
        second.check_shared(tmp_path / "mine")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/.shared-1").touch()
    second.check_shared(tmp_path / "mine")
    one_process().check_shared(tmp_path / "nowhere")
