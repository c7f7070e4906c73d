"""The metric that runs over batches and processes."""

import torch

from scorelight.metrics import FrechetDistance, PixelFeatures
from scorelight.metrics.quality import SampleQuality


def test_smoke():
    g = torch.Generator().manual_seed(0)
    a, b = torch.randn(100, 3, generator=g), torch.randn(90, 3, generator=g) + 1
    q = SampleQuality(PixelFeatures(), [FrechetDistance()])
    for x in a.split(7):
        q.update(x, real=True)
    for x in b.split(9):
        q.update(x)
    print(q.compute(), q.feature_set())
    q.reset()
