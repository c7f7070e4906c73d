import pytest
import torch

from scorelight import ConfigurationError
from scorelight.data import Arrays
from scorelight.data.arrays import split


def arrays(size, **changes):
    parts = dict(x=torch.arange(size, dtype=torch.uint8)[:, None], cond={"label": torch.arange(size) % 3})
    return Arrays(**(parts | changes))


def test_the_digest_is_a_function_of_all_that_is_stored():
    base = arrays(6)
    others = [
        arrays(7),
        arrays(6, x=base.x + 1),
        arrays(6, x=base.x.long()),
        arrays(6, x=base.x.reshape(6)),
        arrays(6, cond={}),
        arrays(6, cond={"label": torch.zeros(6, dtype=torch.long)}),
        arrays(6, cond={"class": base.cond["label"]}),
    ]
    digests = [a.digest() for a in (base, *others)]
    assert len(set(digests)) == len(digests) and {len(d) for d in digests} == {16}
    assert arrays(6).digest() == base.digest()


def test_the_digest_does_not_depend_on_how_the_memory_is_laid_out():
    x = torch.rand(4, 3, 2)
    assert Arrays(x.permute(0, 2, 1).contiguous().permute(0, 2, 1), {}).digest() == Arrays(x, {}).digest()


def test_a_batch_is_a_copy():
    base = arrays(6)
    base.batch(torch.tensor([0, 1])).x0.zero_()
    assert torch.equal(base.x, arrays(6).x)


@pytest.mark.parametrize(("fraction", "val"), [(0.25, 2), (0.01, 1), (0.99, 7)])
def test_a_split_leaves_something_on_both_sides(fraction, val):
    parts = split(arrays(8), fraction, seed=0)
    assert [len(part) for part in parts] == [8 - val, val]
    assert sorted(torch.cat([part.x for part in parts])[:, 0].tolist()) == list(range(8))
    assert all(torch.equal(part.cond["label"], part.x[:, 0] % 3) for part in parts)


def test_a_single_example_cannot_be_split():
    with pytest.raises(ConfigurationError, match=r"1 example\(s\); at least 2"):
        split(arrays(1), 0.5, seed=0)
