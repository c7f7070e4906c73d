"""Batches of a fixed size, and of a size that is found: every index once, whatever fails."""

import math

import pytest
import torch

from scorelight import ConfigurationError
from scorelight.evaluation import batch_size
from scorelight.evaluation.batch_size import Batches


class Device:
    """A device with a clock: a batch of B takes overhead + B seconds, up to a size at which memory is out."""

    def __init__(self, monkeypatch, overhead=0.0, largest=math.inf):
        self.now, self.overhead, self.largest = 0.0, overhead, largest
        self.tried, self.done = [], []
        monkeypatch.setattr(batch_size.time, "perf_counter", lambda: self.now)

    def __call__(self, index):
        self.tried.append(len(index))
        if len(index) > self.largest:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has ...")
        self.now += self.overhead + len(index)
        self.done += index.tolist()
        return index

    def run(self, num, size, **options):
        batches = Batches(torch.arange(num) * 3, size, **options)
        sizes = [len(index) for index in batches.results(self)]
        assert self.done == [3 * i for i in range(num)], "every index once, in order"
        assert len(batches) == num
        full = [k for k, size in enumerate(sizes) if k < len(sizes) - 1 or size == batches.size]
        assert batches.used == (sizes[full[-1]] if full else num)
        return sizes, batches.size


def test_a_fixed_size(monkeypatch):
    assert Device(monkeypatch).run(23, 10) == ([10, 10, 3], 10)
    assert Device(monkeypatch).run(0, 10) == ([], 10)


def test_the_size_is_doubled_as_long_as_that_is_faster(monkeypatch):
    """Speed B/(600 + B): from 16 on the double is faster by more than 5 % until 8192 → 16384, 3.5 %."""
    sizes, last = Device(monkeypatch, overhead=600).run(100_000, "auto")
    assert last == 8192
    assert sizes[:4] == [16, 16, 32, 32] and sizes.count(16384) == 2
    assert set(sizes[sizes.index(16384) + 2 : -1]) == {8192}


def test_a_device_that_is_busy_with_few_keeps_few(monkeypatch):
    sizes, last = Device(monkeypatch).run(1000, "auto")
    assert last == 16 and sizes[:5] == [16, 16, 32, 32, 16]


def test_what_does_not_fit_is_computed_in_halves(monkeypatch):
    device = Device(monkeypatch, overhead=1e9, largest=100)
    sizes, last = device.run(1000, "auto")
    assert last == 64 and max(sizes) == 64
    assert device.tried.count(128) == 1, "and is not tried again"


@pytest.mark.parametrize("largest", [1, 3, 15])
def test_less_than_the_first_size_may_fit(monkeypatch, largest):
    sizes, last = Device(monkeypatch, largest=largest).run(20, "auto")
    assert last == max(sizes) == 2 ** int(math.log2(largest))


def test_memory_that_is_used_up_later_makes_the_batches_smaller(monkeypatch):
    device = Device(monkeypatch, overhead=1e9)
    batches = Batches(torch.arange(2000), "auto")
    for number, _ in enumerate(batches.results(device)):
        device.largest = 50 if number > 6 else math.inf
    assert device.done == list(range(2000)) and batches.size == 32


def test_out_of_memory_is_one_message(monkeypatch):
    with pytest.raises(
        ConfigurationError, match=r"batch_size=10: out of memory: CUDA .*smaller one, or auto$"
    ):
        Device(monkeypatch, largest=9).run(20, 10)
    with pytest.raises(ConfigurationError, match=r"batch_size=1: out of memory: .*a larger device"):
        Device(monkeypatch, largest=0).run(20, "auto")
    with pytest.raises(ConfigurationError, match=r"batch_size=1: out of memory: .*a larger device"):
        Device(monkeypatch, largest=0).run(20, 1)


def test_the_memory_of_the_host_bounds_the_size(monkeypatch):
    """A batch of B takes B bytes; free are 200 for each of two processes, of which 80 % are used."""
    device, peak = Device(monkeypatch, overhead=1e9), [1000]
    monkeypatch.setattr(batch_size, "available_memory", lambda: 400)

    def work(index):
        peak.append(max(peak[-1], 1000 + len(index)))
        return device(index)

    monkeypatch.setattr(batch_size, "peak_memory", lambda: peak[-1])
    batches = Batches(torch.arange(2000), "auto", num_processes=2)
    assert max(len(index) for index in batches.results(work)) == batches.size == 128


def test_a_system_that_tells_nothing_bounds_nothing(monkeypatch):
    monkeypatch.setattr(batch_size, "available_memory", lambda: None)
    assert Device(monkeypatch, overhead=1e9).run(2000, "auto")[1] > 128
