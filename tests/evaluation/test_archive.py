"""The archive of samples: its bytes, in whatever pieces they were drawn."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from scorelight import ConfigurationError
from scorelight.evaluation.archive import write_archive
from scorelight.evaluation.samples import quantize
from scorelight.images import grid, to_uint8
from scorelight.storage.shards import ShardStore


def archive(folder, x, pieces, rounded=True, **cond):
    store = ShardStore(folder / "parts")
    for index in pieces:
        more = {name: value[index] for name, value in cond.items()}
        store.write(index, x=quantize(x[index]) if rounded else x[index], **more)
    write_archive(store, len(x), folder, seed=5, num_shown=4)
    assert not (folder / "parts").exists()
    return (folder / "samples.npz").read_bytes(), np.asarray(Image.open(folder / "samples.png"))


def expected(x, **arrays):
    """What numpy writes of all samples at once."""
    images = to_uint8(x).permute(0, 2, 3, 1) if x.ndim == 4 else x
    name = "images" if x.ndim == 4 else "samples"
    np.savez(buffer := io.BytesIO(), seed=np.int64(5), **{name: images.numpy()}, **arrays)
    return buffer.getvalue()


ALL = torch.arange(11)
PIECES = {"one": [ALL], "batches": ALL.split(3), "ranks": [ALL[r::2][k::2] for r in (1, 0) for k in (0, 1)]}


@pytest.mark.parametrize("rounded", [True, False])
@pytest.mark.parametrize("pieces", PIECES.values(), ids=PIECES)
@pytest.mark.parametrize("shape", [(3, 4, 5), (2,), (2, 7)], ids=str)
def test_the_archive_is_that_of_numpy_however_samples_were_drawn(tmp_path, shape, pieces, rounded, generator):
    x = 1.5 * torch.randn(11, *shape, generator=generator)
    labels = ALL % 3
    found, picture = archive(tmp_path, x, pieces, rounded, label=labels)
    assert found == expected(x, labels=labels.numpy())
    shown = grid(x if x.ndim == 2 else x[:4])
    assert np.array_equal(picture, shown.squeeze(0) if shown.shape[0] == 1 else shown.permute(1, 2, 0))


def test_without_labels_there_are_none(tmp_path):
    found, _ = archive(tmp_path, torch.zeros(11, 2), [ALL])
    assert found == expected(torch.zeros(11, 2))


@pytest.mark.parametrize("shape", [(1, 4, 4), (2,)], ids=str)
def test_nothing_is_written_if_a_sample_is_missing_or_not_finite(tmp_path, shape):
    x = torch.zeros(11, *shape)
    archive(tmp_path, x, [ALL])
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(ConfigurationError, match="1 of 11 rows are missing"):
        archive(tmp_path, x, [ALL[:10]])
    ShardStore(tmp_path / "parts").clear()
    x[10].view(-1)[1] = torch.nan
    with pytest.raises(ConfigurationError, match="1 of 5 examples have values that are NaN"):
        archive(tmp_path, x, [ALL[:6], ALL[6:]], rounded=False)
    ShardStore(tmp_path / "parts").clear()
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
