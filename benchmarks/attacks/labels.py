"""Numbers of classes and labels: of data, on the command line, and given by hand."""

import logging
import warnings

import numpy as np
import torch
from lightning.pytorch import Trainer
from support.labelled import NUM, Foreign, Hooked, Own, Stating, items, tensors

from attacks.processes import fingerprint, log_of, log_problem, row, run
from scorelight import (
    DDIM,
    MLP,
    VPSDE,
    ConfigurationError,
    Epsilon,
    EpsilonPrediction,
    LikelihoodProtocol,
    NetworkDenoiser,
    ScoreModule,
    bits_per_dim,
    log_likelihood,
)

SMALL = ["--model.network.base_channels=8", "--model.network.num_blocks=1", "--trainer.max_steps=2"]
SMALL += ["--data.batch_size=4", "--trainer.enable_progress_bar=false", "--trainer.accelerator=cpu"]
SMALL += ["--trainer.val_check_interval=2", "--model.sampler.num_steps=2"]
SIZE = 24


def labels(quick, folder, rng):
    """Labels that are no classes of the network, wherever a user can give them."""
    yield contradictions(folder / "contradictions", 1 if quick else 12, rng)
    yield odd_labels(20 if quick else 300, rng)
    yield labels_by_hand(50 if quick else 500, rng)


def contradictions(folder, number, rng):
    """Every pair of a number of classes of the data and of the network, from 1 to 12, by the command line."""
    wrong, cases = [], 0
    config = "--config=digits/vp_epsilon_conditional"
    for k in rng.sample(range(1, 13), number):
        place = folder / str(k)
        place.mkdir(parents=True)
        pixels = np.random.default_rng(k).integers(0, 256, (SIZE, 8, 8), dtype=np.uint8)
        np.savez(place / "data.npz", images=pixels, labels=np.arange(SIZE) % k)
        for stated in ["data", k, k - 1, k + 1]:
            before = fingerprint(place)
            (place / "log.txt").unlink(missing_ok=True)
            flags = [f"--model.network.num_classes={stated}", "--resume=false"]
            code = run(
                place, ["fit", config, "--data=ImageDataModule", "--data.path=data.npz", *SMALL, *flags]
            )
            cases, log = cases + 1, log_of(place)
            refused = stated not in ("data", k)
            if code != (2 if refused else 0) or (
                refused and (log_problem(log) or fingerprint(place) != before)
            ):
                wrong.append(f"{k} classes, {stated} stated: {code}: {log[-300:]}")
    return row(
        "numbers of classes stated on the command line", cases, wrong, "contradictions refused unwritten"
    )


LABELS = {
    "none": (lambda y, k: None, False),
    "from 1": (lambda y, k: y + 1, False),
    "below zero": (lambda y, k: y - 1, False),
    "above": (lambda y, k: torch.where(y == 0, k + 3, y), False),
    "a billion": (lambda y, k: torch.where(y == 0, 10**9, y), False),
    "floating-point": (lambda y, k: y.float(), False),
    "NaN": (lambda y, k: torch.where(y == 0, torch.nan, y.double()), False),
    "boolean": (lambda y, k: y > 0, False),
    "a column": (lambda y, k: y[:, None], False),
    "one-hot": (lambda y, k: torch.nn.functional.one_hot(y, k), False),
    "int64": (lambda y, k: y, True),
    "int32": (lambda y, k: y.int(), True),
    "uint8": (lambda y, k: y.byte(), True),
}
"""Labels made of those of k classes, and whether they are right."""


def trained(data, num_classes, dropout):
    """Train a small network in this process; the message if that is refused."""
    quiet = dict.fromkeys(
        ("logger", "enable_progress_bar", "enable_model_summary", "enable_checkpointing"), False
    )
    network = MLP((2,), 8, 1, num_classes=num_classes)
    module = ScoreModule(network, VPSDE(), Epsilon(), EpsilonPrediction(), DDIM(2), condition_dropout=dropout)
    try:
        Trainer(accelerator="cpu", max_steps=6, limit_val_batches=0, max_epochs=-1, **quiet).fit(module, data)
    except ConfigurationError as error:
        return str(error)
    return ""


def odd_labels(number, rng):
    """Labels that are no classes, and some that are, from five kinds of data, with dropout and without."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")
    wrong = []
    for _ in range(number):
        make, which = rng.choice([tensors, items, Own, Foreign, Hooked]), rng.choice([*LABELS])
        k, dropout = rng.randint(2, 9), rng.choice([0.0, 0.3, 0.9])
        if make is Hooked and which == "boolean":  # minus 7 they are numbers
            which = "from 1"
        change, right = LABELS[which]
        try:
            message = trained(make(change(torch.arange(NUM) % k, k)), k, dropout)
        except Exception as error:
            message, right = f"{type(error).__name__}: {error}", None
        if right is not (not message):
            wrong.append(f"{make.__name__}, {k} classes, {which}: {message or 'trained'}")
    for stated in (None, 1, 4):
        if not trained(Stating(stated, torch.arange(NUM) % 3), 3, 0.0):
            wrong.append(f"a module that states {stated} classes trained a network with 3")
    notes = "no classes: refused; every integer type: trained"
    return row("labels of data, in Python", number + 3, wrong, notes)


def labels_by_hand(number, rng):
    """Labels given to the denoiser, a sampler and the likelihoods."""
    wrong = []
    for _ in range(number):
        k, size = rng.randint(1, 9), rng.randint(2, 5)
        use, right = rng.choice([*USES]), rng.random() < 0.3
        good = torch.tensor([rng.randrange(k) for _ in range(size)])
        bad = good.clone()
        bad[rng.randrange(size)] = rng.choice([k, k + 1, -1, -100, 2**40])
        odd = [bad, good.float(), good[:, None], good > 0, torch.cat([good, good]), k, -1, "a"]
        given = rng.choice([good, good.int(), good.tolist(), k - 1, None] if right else odd)
        denoiser = NetworkDenoiser(MLP((2,), 8, 1, num_classes=k), VPSDE(), Epsilon())
        try:
            USES[use](denoiser, size, given)
            outcome = "accepted"
        except ConfigurationError:
            outcome = "refused"
        except Exception as error:
            outcome = f"{type(error).__name__}: {error}"
        if outcome != ("accepted" if right else "refused"):
            wrong.append(f"{use}, {k} classes, label={given}: {outcome}")
    return row("labels given by hand", number, wrong, "to a denoiser, a sampler, likelihoods")


USES = {
    "denoiser": lambda d, n, y: d(torch.randn(n, 2), torch.full((n,), 0.5), label=y),
    "sampler": lambda d, n, y: DDIM(2)(d, torch.randn(n, 2), label=y),
    "log_likelihood": lambda d, n, y: log_likelihood(d, torch.randn(n, 2), num_steps=2, label=y),
    "bits_per_dim": lambda d, n, y: bits_per_dim(
        d, torch.randint(256, (n, 2)), LikelihoodProtocol(num_steps=2), label=y
    ),
}
