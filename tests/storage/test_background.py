"""Work in another thread: its order, its errors, and what runs at the same time."""

import threading

import pytest
import torch

from scorelight.storage.background import copy_to_host, in_background


def test_work_is_done_in_order_and_is_complete_at_the_end():
    done = []
    with in_background() as later:
        for k in range(20):
            later(done.append, k)
    assert done == list(range(20))


def test_the_next_is_prepared_while_the_last_is_at_work():
    """The first piece of work ends only after the block has given a second one."""
    second, overlapped = threading.Event(), []
    with in_background() as later:
        later(lambda: overlapped.append(second.wait(30)))
        later(second.set)
        second.set()
    assert overlapped == [True]


def test_work_does_not_pile_up():
    released, given = threading.Event(), []
    with in_background() as later:

        def give():
            for k in range(10):
                later(released.wait, 30)
                given.append(k)

        giver = threading.Thread(target=give)
        giver.start()
        giver.join(0.3)
        assert giver.is_alive() and len(given) <= 3
        released.set()
        giver.join()
    assert len(given) == 10


def fail():
    raise OSError("no space left on device")


def test_an_error_is_raised_by_the_next_call_or_at_the_end():
    with pytest.raises(OSError, match="no space"), in_background() as later:
        later(fail)
    calls = []
    with pytest.raises(OSError, match="no space"), in_background() as later:
        for k in range(100):
            later(fail)
            calls.append(k)
    assert len(calls) < 5


def test_what_was_given_is_done_also_when_the_block_fails():
    done = []
    with pytest.raises(KeyboardInterrupt), in_background() as later:
        for k in range(3):
            later(done.append, k)
        raise KeyboardInterrupt
    assert done == [0, 1, 2]


def test_the_error_of_the_block_comes_before_that_of_the_work():
    with pytest.raises(KeyboardInterrupt), in_background() as later:
        later(fail)
        raise KeyboardInterrupt


def test_a_copy_of_what_is_on_the_host_is_the_tensor():
    x = torch.arange(6).reshape(2, 3)
    assert torch.equal(copy_to_host(x)(), x)
