"""Features of CIFAR-10 for the benchmark of quality: a small classifier, trained here.

    DATA=FOLDER python benchmarks/quality_features.py   # about half an hour on one core

FOLDER holds cifar10_train.npz and cifar10_test.npz. Writes cifar10_features.safetensors beside this file,
with the accuracy on the test set, by which nothing is chosen, in its metadata.
"""

import argparse
from pathlib import Path

import torch
from common import HERE, RESULTS, commit
from digit_features import shifted
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn.functional import cross_entropy

from scorelight.metrics.features.base import FeatureExtractor, Features, images_of

FILE = "cifar10_features.safetensors"
BATCH, RATE, DECAY, SMOOTHING, REACH = 128, 3e-3, 0.05, 0.1, 3


class Classifier(nn.Module):
    """Six convolutions of 32x32 images in colours, 128 features, ten classes."""

    def __init__(self):
        super().__init__()
        layers, channels = [], 3
        for width, pool in ((32, False), (32, True), (64, False), (64, True), (128, False), (128, True)):
            layers += [nn.Conv2d(channels, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.SiLU()]
            layers += [nn.MaxPool2d(2)] if pool else []
            channels = width
        self.trunk = nn.Sequential(
            *layers, nn.Flatten(), nn.Dropout(0.3), nn.Linear(16 * 128, 128), nn.SiLU()
        )
        self.head = nn.Linear(128, 10)

    def forward(self, x):
        values = self.trunk(x.float() / 127.5 - 1)
        return Features(values, self.head(values))


class CIFAR10Features(FeatureExtractor):
    """The last hidden layer of the classifier, for uint8 images (N, 3, 32, 32)."""

    def __init__(self):
        super().__init__()
        self.network = Classifier()
        self.network.load_state_dict(load_file(HERE / FILE))

    def extract(self, x):
        return self.network(images_of(x, "CIFAR10Features", (3, 32, 32)))


def train(images, labels, epochs):
    torch.manual_seed(0)
    generator, network = torch.Generator().manual_seed(0), Classifier()
    optimizer = torch.optim.AdamW(network.parameters(), lr=RATE, weight_decay=DECAY, fused=True)
    steps = epochs * (len(images) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps)
    for epoch in range(epochs):
        for index in torch.randperm(len(images), generator=generator).split(BATCH)[: len(images) // BATCH]:
            x = augmented(images[index], generator)
            loss = cross_entropy(network(x).logits, labels[index], label_smoothing=SMOOTHING)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        print(f"epoch {epoch + 1} of {epochs}: loss {loss.item():.3f}", flush=True)
    return network.eval()


def augmented(x, generator):
    """Half of the images mirrored, each moved by up to three pixels each way."""
    mirrored = torch.rand(len(x), 1, 1, 1, generator=generator) < 0.5
    x = torch.where(mirrored, x.flip(-1), x)
    moves = generator.get_state()
    parts = [shifted(channel, REACH, generator.set_state(moves)) for channel in x.split(1, 1)]  # alike
    return torch.cat(parts, 1)


@torch.no_grad()
def num_right(network, images, labels):
    return sum(
        (network(a).logits.argmax(1) == b).sum().item()
        for a, b in zip(images.split(500), labels.split(500), strict=True)
    )


if __name__ == "__main__":
    from quality_models import examples

    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=10)
    options = parser.parse_args()
    torch.set_num_threads(1)
    network = train(*examples("cifar10", "train"), options.epochs)
    stored = {k: v.half() if v.is_floating_point() else v for k, v in network.state_dict().items()}
    network.load_state_dict(stored)
    held_out = examples("cifar10", "val")
    right = f"{num_right(network, *held_out)} of {len(held_out[0])} test images"
    path = Path(RESULTS / FILE)
    save_file(stored, path, {"right": right, "epochs": str(options.epochs), "commit": commit()})
    path.chmod(0o644)
    with safe_open(path, "pt") as file:
        print(file.metadata())
