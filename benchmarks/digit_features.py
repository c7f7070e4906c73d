"""The classifiers behind `DigitsFeatures` and `MNISTFeatures`: trains them and writes their weights.

    python benchmarks/digit_features.py --root data   # about ten minutes on one core

Writes digits.safetensors and mnist.safetensors in scorelight/metrics/features/weights, with the recipe and
the accuracy in their metadata, and digit_features.md beside this file. Accuracy is that on images that
training has not seen: the 10,000 test images of MNIST, and the validation images of `DigitsDataModule`.
Nothing was chosen by that accuracy: the weights are those at the end of training.
"""

import argparse
import os
import time

import torch
from common import HERE, RESULTS, commit
from safetensors.torch import save_file
from torch.nn.functional import cross_entropy, pad
from torchvision.datasets import MNIST
from tqdm import tqdm

from scorelight import DigitsDataModule
from scorelight.data.access import examples_of
from scorelight.images import to_uint8
from scorelight.metrics.features.digits import Classifier, weights_of

SEED, BATCH, RATE, DECAY, SMOOTHING = 0, 128, 3e-3, 0.05, 0.05


def digits(root):
    """Images as 0..255, and labels, to train on and to report on."""
    data = DigitsDataModule()
    for split in ("train", "val"):
        x0, cond, _ = examples_of(data, split).all()
        yield to_uint8(x0), cond["label"]


def mnist(root):
    for train in (True, False):
        data = MNIST(root, train=train)
        yield data.data[:, None], data.targets


SETS = {
    "digits": (digits, Classifier.of_digits, 100, 1),
    "mnist": (mnist, Classifier.of_mnist, 8, 2),
}


def shifted(x, reach, generator):
    """Images, each moved by up to `reach` pixels each way, black coming in."""
    size, canvas = x.shape[-1], pad(x, (reach,) * 4)
    moves = torch.randint(2 * reach + 1, (len(x), 2), generator=generator)
    rows, columns = (moves[:, i, None] + torch.arange(size) for i in (0, 1))
    return canvas[torch.arange(len(x))[:, None, None], 0, rows[:, :, None], columns[:, None, :]][:, None]


def train(network, x, labels, epochs, reach):
    generator = torch.Generator().manual_seed(SEED)
    steps = epochs * (len(x) // BATCH)
    optimizer = torch.optim.AdamW(network.parameters(), lr=RATE, weight_decay=DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps)
    with tqdm(total=steps) as bar:
        for _ in range(epochs):
            for index in torch.randperm(len(x), generator=generator).split(BATCH)[: len(x) // BATCH]:
                logits = network(shifted(x[index], reach, generator)).logits
                loss = cross_entropy(logits, labels[index], label_smoothing=SMOOTHING)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
                bar.update()
    return network.eval()


@torch.no_grad()
def num_right(network, x, labels):
    return sum(
        (network(a).logits.argmax(1) == b).sum().item()
        for a, b in zip(x.split(500), labels.split(500), strict=True)
    )


def weights_file(name):
    """The weights of the package; with BENCHMARK_RESULTS a file in that folder."""
    return weights_of(name) if RESULTS == HERE else RESULTS / weights_of(name).name


def make(name, root, begun):
    load, build, epochs, reach = SETS[name]
    (x, labels), (held_out, truth) = load(root)
    torch.manual_seed(SEED)
    begin = time.perf_counter()
    network = train(build(), x, labels, epochs, reach)
    seconds = time.perf_counter() - begin
    right = num_right(network, held_out, truth)
    metadata = {
        "images": f"{len(x)} to train, {len(truth)} held out",
        "accuracy": f"{right / len(truth):.4f}",
        "right": f"{right} of {len(truth)} held-out images",
        "recipe": f"AdamW, learning rate {RATE} one cycle, weight decay {DECAY}, batch {BATCH}, "
        f"{epochs} epochs, shifted by up to {reach} px, dropout 0.3, label smoothing {SMOOTHING}, "
        "last weights",
        "seed": str(SEED),
        "seconds": f"{seconds:.0f}",
        "torch": torch.__version__,
        "commit": begun,
    }
    save_file(network.state_dict(), path := weights_file(name), metadata)
    path.chmod(0o644)  # safetensors gives the owner alone access
    print(name, metadata)
    return metadata


def report(metadata_of):
    lines = [
        "Classifiers whose last hidden layer `DigitsFeatures` and `MNISTFeatures` are, on held-out images.",
        "",
        "| weights | size, kB | images | right | accuracy | seconds, one thread |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name, m in metadata_of.items():
        size = weights_file(name).stat().st_size / 1000
        cells = (name, f"{size:.0f}", m["images"], m["right"], m["accuracy"], m["seconds"])
        lines.append("| " + " | ".join(cells) + " |")
    lines += ["", *(f"{name}: {m['recipe']}; seed {m['seed']}." for name, m in metadata_of.items())]
    any_of = next(iter(metadata_of.values()))
    return "\n".join([*lines, "", f"Commit {any_of['commit']}, torch {any_of['torch']}."]) + "\n"


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--root", default="data", help="folder that holds MNIST/raw")
    parser.add_argument("--only", nargs="+", choices=SETS, help="train these, and leave the report as it is")
    options = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    begun = commit()
    metadata_of = {name: make(name, options.root, begun) for name in options.only or SETS}
    if not options.only:
        (RESULTS / "digit_features.md").write_text(report(metadata_of))
