"""Two and three real processes over gloo against one."""

import functools
import json
import os
import subprocess
import sys
from itertools import chain

import numpy as np
import pytest
from support.marks import slow

SCRIPT = """
import functools, json, os, sys, time, torch
torch.set_num_threads(1)
import warnings; warnings.simplefilter("ignore")
from lightning.pytorch import Callback, Trainer, seed_everything
from scorelight import *
from scorelight.data import Arrays

world, folder = int(sys.argv[1]), sys.argv[2]

class Spy(Callback):
    def __init__(self): self.noise = []; self.seen = []; self.loss = []; self.quartiles = []
    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        self.seen.append(batch.indices.tolist())
        logged = trainer.callback_metrics
        self.loss.append(logged["train/loss"].item())
        self.quartiles.append([logged[f"train/loss_t_quartile_{q}"].item() for q in (1, 2, 3, 4)])
        self.noise.append(torch.rand(()).item())

def flat(module):
    return torch.cat([p.detach().flatten() for p in module.parameters()]).tolist()

def trainer(**kwargs):
    strategy = "ddp_fork" if world > 1 else "auto"
    names = "logger enable_progress_bar enable_checkpointing enable_model_summary"
    quiet = dict.fromkeys(names.split(), False)
    options = {"log_every_n_steps": 1, "num_sanity_val_steps": 0, "max_epochs": -1} | quiet | kwargs
    return Trainer(accelerator="cpu", devices=world, strategy=strategy, default_root_dir=folder, **options)

class Report(Callback):
    def on_validation_end(self, trainer, module):
        if trainer.is_global_zero:
            with open(f"{folder}/val{world}.json", "w") as file:
                json.dump(trainer.callback_metrics["val/loss"].item(), file)
    def on_train_end(self, trainer, module):
        spy = trainer.callbacks[0]
        weights, averaged = flat(module.denoiser.network), flat(module.ema.denoiser.network)
        kept = {name: getattr(spy, name) for name in ("noise", "seen", "loss", "quartiles")}
        parts = {**kept, "weights": weights, "averaged": averaged}
        with open(f"{folder}/rank{trainer.global_rank}of{world}.json", "w") as file:
            json.dump(parts, file)

seed_everything(0)
objective = {"fit-stratified": EpsilonPrediction(StratifiedTime()),
             "fit-loss-aware": VariationalBound(4, time_sampler=LossAwareTime(4, history=3))
            }.get(sys.argv[3], EpsilonPrediction())
module = ScoreModule(MLP((2,), 16, 1, num_classes=3), VPSDE(), Epsilon(), objective, DDIM(8, eta=1.0),
                     optimizer=functools.partial(torch.optim.Adam, lr=1e-2, fused="fused" in sys.argv[3]),
                     condition_dropout=0.5)
class Labelled(ToyDataModule):
    num_classes = 3
    def arrays(self):
        return tuple(Arrays(a.x, {"label": torch.arange(len(a)) % 3}) for a in super().arrays())
data = Labelled(num_train=64, num_val=13, batch_size=24 // world, val_batch_size=4)
if sys.argv[3].startswith("fit"):
    trainer(max_steps=12, callbacks=[Spy(), Report()]).fit(module, data)
if sys.argv[3] == "validate":
    trainer(callbacks=[Report()]).validate(module, data, verbose=False)
if sys.argv[3] == "predict":
    torch.nn.init.normal_(module.ema.denoiser.network.last.weight, generator=torch.Generator().manual_seed(1))
    writer = SampleWriter(f"{folder}/samples{world}")
    trainer(callbacks=[writer]).predict(module, SeedDataModule(13, 5, 4), return_predictions=False)
if sys.argv[3].startswith("evaluate"):
    from scorelight.metrics import PixelFeatures
    torch.nn.init.normal_(module.ema.denoiser.network.last.weight, generator=torch.Generator().manual_seed(1))
    size = int(sys.argv[3].partition("-")[2])
    data.val_batch_size = size
    callbacks = [FIDCallback(PixelFeatures(), num_samples=13, batch_size=size, sampler=RK45()),
                 NLLCallback(num_examples=7)]
    evaluating = trainer(callbacks=callbacks)
    found = evaluating.validate(module, data, verbose=False)[0]
    if evaluating.is_global_zero:
        with open(f"{folder}/{sys.argv[3]}of{world}.json", "w") as file:
            json.dump(found, file)
if sys.argv[3].startswith("diverge"):
    class Bad(EpsilonPrediction):
        calls = 0
        def forward(self, denoiser, x0, **kwargs):
            loss, self.calls = super().forward(denoiser, x0, **kwargs), self.calls + torch.is_grad_enabled()
            bad = torch.distributed.get_rank() == 1 and self.calls == 3
            return Loss(loss.value * (torch.nan if bad else 1.0), loss.t)
    class Watch(Callback):
        def __init__(self): self.weights = []
        def on_train_batch_start(self, trainer, module, *_): self.weights.append(flat(module.denoiser))
    from scorelight.training.divergence import DivergenceGuard
    watch, read = Watch(), DivergenceGuard.read
    def reporting(self, module):
        try:
            read(self, module)
        except TrainingDivergedError as error:
            found = {"message": str(error), "weights": flat(module.denoiser), "before": watch.weights[:3]}
            path = f"{folder}/{sys.argv[3]}%d.json"
            with open(path % module.global_rank, "w") as file:
                json.dump(found, file)
            for _ in range(300):  # the first process that ends has the others killed
                if not os.path.exists(path % (1 - module.global_rank)): time.sleep(0.1)
            time.sleep(1)
            raise
    DivergenceGuard.read = reporting
    module.objective = Bad()
    trainer(max_steps=5, log_every_n_steps=100, callbacks=[watch]).fit(module, data)
"""


@pytest.fixture(scope="module")
def launch(tmp_path_factory):
    """Run the script with so many processes."""
    folder = tmp_path_factory.mktemp("ddp")
    (folder / "script.py").write_text(SCRIPT)

    @functools.cache
    def run(world, what, check=True):
        command = [sys.executable, str(folder / "script.py"), str(world), str(folder), what]
        env = os.environ | {"SCORELIGHT_CACHE": str(folder / "cache")}
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=env)
        assert done.returncode == 0 or not check, done.stderr
        return folder, done

    return run


def read(path):
    return json.loads(path.read_text())


@pytest.mark.parametrize(
    ("world", "what"), [(2, "fit"), slow(3, "fit"), slow(2, "fit-stratified"), slow(2, "fit-loss-aware")]
)
@pytest.mark.slow
def test_several_ranks_train_as_one_does(launch, world, what):
    """Loss curves, weights and average of the same global batches agree to rounding: sums in another order.

    float32 carries 6e-8; Adam divides by the root of what may be small, so a few steps make it 1e-6.
    """
    folder, _ = launch(world, what)
    launch(1, what)
    ranks = [read(folder / f"rank{r}of{world}.json") for r in range(world)]
    alone = read(folder / "rank0of1.json")
    batches = zip(*(rank["seen"] for rank in ranks), strict=True)
    together = [
        [*chain(*zip(*parts, strict=True))] for parts in batches
    ]  # example j of rank r has place j W + r
    assert together == alone["seen"]
    assert len({rank["noise"][0] for rank in ranks}) == world, "dropout of their own"
    for rank in ranks:
        for name in ("loss", "quartiles", "weights", "averaged"):
            np.testing.assert_allclose(rank[name], alone[name], rtol=2e-5, atol=2e-6, err_msg=name)
            assert rank[name] == ranks[0][name]


@pytest.mark.slow
def test_two_ranks_validate_every_example_once(launch):
    folder, _ = launch(2, "validate")
    launch(1, "validate")
    assert read(folder / "val2.json") == pytest.approx(read(folder / "val1.json"), rel=1e-6)


@pytest.mark.parametrize(("world", "batch_size"), [slow(1, 1), slow(2, 1), slow(2, 100), (3, 2)])
@pytest.mark.slow
def test_distances_and_likelihoods_do_not_depend_on_processes_and_batches(launch, world, batch_size):
    """13 samples by an adaptive solver and 7 likelihoods: shares and evaluations differ from rank to rank."""
    folder, _ = launch(world, f"evaluate-{batch_size}")
    launch(1, "evaluate-100")
    found, alone = (read(folder / f"evaluate-{b}of{w}.json") for b, w in ((batch_size, world), (100, 1)))
    assert {"val/frechet_distance", "val/nats_per_dim", "val/nats_per_dim_error"} < set(alone)
    assert found == pytest.approx(alone, rel=1e-5)


@pytest.mark.slow
def test_two_ranks_draw_the_same_samples_as_one(launch):
    folder, _ = launch(2, "predict")
    launch(1, "predict")
    two, one = (np.load(folder / f"samples{n}" / "samples.npz")["samples"] for n in (2, 1))
    assert one.shape == (13, 2) and abs(one).max() > 0.1
    np.testing.assert_allclose(two, one, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_the_command_line_trains_samples_and_evaluates_on_several_processes(tmp_path):
    two = "--trainer.accelerator cpu --trainer.devices 2 --trainer.strategy ddp"
    evaluate = (
        "evaluate runs/toy/vp_epsilon --num_samples 101 --seeds 0 3 --num_images 11 --metrics FrechetDistance"
    )
    evaluate += " NegativeLogLikelihood --features PixelFeatures"
    commands = [
        f"fit --config toy/vp_epsilon {two} --trainer.max_steps 6 --trainer.val_check_interval 3 "
        "--samples.every_n_steps 2 --checkpoint.every_n_steps 2",
        "sample runs/toy/vp_epsilon --num_samples 5 --batch_size 2 --devices 2 --accelerator cpu --out two",
        "sample runs/toy/vp_epsilon --num_samples 5 --out one",
        f"{evaluate} --batch_size 9 --devices 3 --accelerator cpu --out evaluated_by_three",
        f"{evaluate} --batch_size 100 --out evaluated_by_one",
    ]
    for command in commands:
        done = subprocess.run(
            [sys.executable, "-m", "scorelight", *command.split()],
            cwd=tmp_path,
            env=os.environ | {"SCORELIGHT_CACHE": str(tmp_path / "cache")},
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
    runs = list((tmp_path / "runs/toy/vp_epsilon").iterdir())
    assert [r.name for r in runs] == ["version_0"]
    assert {p.name for p in (runs[0] / "checkpoints").iterdir()} == {
        "best.ckpt",
        "last.ckpt",
        "previous.ckpt",
    }
    assert len(list(runs[0].glob("events*"))) == 1
    one, two = (np.load(tmp_path / f"{n}/samples.npz")["samples"] for n in ("one", "two"))
    np.testing.assert_allclose(two, one, rtol=1e-5, atol=1e-6)
    three, alone = (
        json.loads(next((tmp_path / f"evaluated_by_{n}").glob("*.json")).read_text())["results"]
        for n in ("three", "one")
    )
    for name, result in alone.items():
        assert three[name]["each"] == pytest.approx(result["each"], rel=1e-5), name


@pytest.mark.slow
@pytest.mark.parametrize("what", ["diverge", "diverge-fused"])
def test_divergence_on_one_rank_stops_both_with_the_weights_before_it(launch, what):
    """Without `fused` at the step, with it at the end, since no step is logged before."""
    folder, done = launch(2, what, check=False)
    assert done.returncode != 0 and "TrainingDivergedError" in done.stderr
    first, second = (read(folder / f"{what}{rank}.json") for rank in (0, 1))
    assert "loss is not finite at step 2 on another rank; this step was not taken" in first["message"]
    assert "loss is nan at step 2, for 12 of 12 examples with t from" in second["message"]
    assert ("nor any after it" in first["message"]) == (what == "diverge-fused")
    for rank in (first, second):
        assert rank["weights"] == rank["before"][2] == first["weights"] != rank["before"][1]
