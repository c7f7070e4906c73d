"""The report holds what numpy computes, and the YAML below it trains as it stands."""

import numpy as np
import pytest
import torch
import yaml
from lightning.pytorch import LightningDataModule
from scipy.spatial.distance import pdist
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, TensorDataset

from scorelight import ConfigurationError, DigitsDataModule, SMLDProcess
from scorelight.cli import main
from scorelight.cli.advise import advise
from scorelight.data.access import examples_of


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def fails(capsys, *args):
    assert main(["advise", *map(str, args)]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.startswith("scorelight: error: ")
    assert captured.err.count("\n") == 1
    return captured.err


def advised(capsys, *args):
    """The report, and the YAML read by a parser that knows nothing of ours."""
    assert main(["advise", *map(str, args)]) == 0
    report, _, text = capsys.readouterr().out.partition("\n\n# ")
    return report, yaml.safe_load(f"# {text}")["model"]


def digits():
    """The training images by other means: all of them but the validation set."""
    data = DigitsDataModule()
    data.setup("fit")
    everything = {row.tobytes() for row in load_digits().images.astype(np.uint8)}
    assert everything >= {row.tobytes() for row in data.train.x.numpy()}
    return data.train.x.numpy().reshape(len(data.train.x), -1) / 8 - 1


def line(report, key):
    (found,) = [words for words in map(str.split, report.splitlines()) if words[:1] == [key]]
    return float(found[1])


def test_the_report_on_the_digits_has_the_numbers_of_numpy(capsys):
    report, model = advised(capsys, "--data", "DigitsDataModule")
    x = digits()
    assert report.startswith(
        "DigitsDataModule: 1,438 training examples of shape (1, 8, 8), values from -1 to 1\n"
    )
    assert line(report, "sigma_max") == float(f"{pdist(x).max():.4g}")
    assert line(report, "sigma_data") == float(f"{x.std():.4g}")
    assert line(report, "sigma_min") == 0.01
    assert "1.361 in 64 dimensions" in report and "twice the scale" in report
    assert model["process"]["init_args"] == {
        "num_timesteps": line(report, "num_timesteps"),
        "sigma_min": 0.01,
        "sigma_max": line(report, "sigma_max"),
    }
    assert model["parameterization"]["init_args"] == {"sigma_data": line(report, "sigma_data")}
    SMLDProcess(**model["process"]["init_args"])


SMALL = ["--data.num_train", "300"]


@pytest.mark.parametrize("process", ["SMLDProcess", "VESDE"])
@pytest.mark.parametrize("sigma_min", ["0.01", "1e-5"])
@pytest.mark.one_in(3)
def test_the_yaml_trains_as_it_stands(process, sigma_min, capsys):
    flags = ["--process", process, "--sigma_min", sigma_min, "--out", "new/noise.yaml"]
    assert main(["advise", "--config", "toy/ve_score", *SMALL, *flags]) == 0
    assert "fit --config MODEL --config new/noise.yaml" in capsys.readouterr().out
    configs = ["--config", "toy/ve_score", "--config", "new/noise.yaml"]
    assert main(["fit", *configs, "--trainer.fast_dev_run", "true"]) == 0
    capsys.readouterr()
    with pytest.raises(SystemExit):
        main(["fit", *configs, "--print_config"])
    model = yaml.safe_load(capsys.readouterr().out)["model"]
    assert model["process"]["class_path"] == f"scorelight.{process}"
    assert model["process"]["init_args"]["sigma_min"] == float(sigma_min)
    assert model["parameterization"]["class_path"] == "scorelight.EDM"


def test_what_is_written_is_what_is_printed(capsys, tmp_path):
    assert main(["advise", "--data", "ToyDataModule", *SMALL, "--out", "a.yaml"]) == 0
    assert f"\n\n{(tmp_path / 'a.yaml').read_text()}\nWritten to a.yaml" in capsys.readouterr().out


def test_langevin_steps_change_the_step_alone(capsys):
    flags = ["--data", "ToyDataModule", *SMALL, "--langevin_steps"]
    one, _ = advised(capsys, *flags, 1)
    ten, _ = advised(capsys, *flags, 10)
    assert line(one, "epsilon") > line(ten, "epsilon")
    assert line(one, "num_timesteps") == line(ten, "num_timesteps")


def test_few_dimensions_take_the_ratio_of_ncsn(capsys):
    report, _ = advised(capsys, "--data", "ToyDataModule", *SMALL)
    assert "NCSN's 1.668" in report and "Technique 2 is for 29 dimensions and more" in report


def test_at_most_so_many_examples(capsys):
    report, _ = advised(capsys, "--data", "DigitsDataModule", "--max_examples", 100)
    number = int(report.split()[1])
    assert 90 < number <= 100
    assert line(report, "sigma_max") == float(f"{pdist(digits()[:: 1438 // number + 1]).max():.4g}")


def chosen(capsys, *args):
    with pytest.raises(SystemExit):
        main(["advise", *map(str, args), "--print_config"])
    return yaml.safe_load(capsys.readouterr().out)["data"]


def test_of_a_configuration_only_the_data_count_and_flags_win_wherever_they_stand(capsys):
    found = chosen(capsys, "--data.num_train", 7, "--config", "toy/swiss_roll", "--data.seed", 3)
    assert found["class_path"] == "scorelight.ToyDataModule"
    wanted = {"density": "swiss_roll", "num_train": 7, "seed": 3, "batch_size": 256}
    assert found["init_args"].items() >= wanted.items()
    assert chosen(capsys, "--config", "toy/swiss_roll", "--data", "DigitsDataModule")["class_path"] == (
        "scorelight.DigitsDataModule"
    )


def test_of_several_configurations_a_later_one_changes_what_it_names(capsys, tmp_path):
    (tmp_path / "seed.yaml").write_text("data:\n  class_path: ToyDataModule\n  init_args: {seed: 5}\n")
    (tmp_path / "model.yaml").write_text("model: {process: VESDE}\n")
    files = ["--config", "toy/swiss_roll", "--config", "seed.yaml", "--config", "model.yaml"]
    found = chosen(capsys, *files)["init_args"]
    assert (found["density"], found["seed"]) == ("swiss_roll", 5)
    found = chosen(capsys, *files, "--config", "digits/vp_epsilon")
    assert found["class_path"] == "scorelight.DigitsDataModule"


class OtherDataModule(LightningDataModule):
    """Nothing of ours: tuples, a last batch that is smaller, pixels that a hook scales."""

    def setup(self, stage):
        self.x = torch.randint(0, 256, (50, 3, 2, 2), generator=torch.Generator().manual_seed(0)).byte()

    def train_dataloader(self):
        return DataLoader(TensorDataset(self.x, torch.arange(50)), batch_size=16, shuffle=True)

    def on_after_batch_transfer(self, batch, dataloader_idx):
        x, label = batch
        return x / 255, label


def test_a_data_module_of_a_third_party_is_run_through_once(capsys):
    data = OtherDataModule()
    found = examples_of(data, "train").spread(None).x0
    rows = [sorted(map(tuple, x.flatten(1).tolist())) for x in (found, data.x / 255)]
    assert rows[0] == rows[1]
    advise(data)
    report = capsys.readouterr().out
    assert line(report, "sigma_max") == float(f"{pdist((data.x / 255).flatten(1)).max():.4g}")
    assert len(examples_of(data, "train", 20).spread(20).x0) == 20


def test_an_endless_stream_of_bytes_can_be_cut():
    class Endless(OtherDataModule):
        def train_dataloader(self):
            while True:
                yield self.x

        def on_after_batch_transfer(self, batch, dataloader_idx):
            return batch

    assert len(examples_of(Endless(), "train", 120).spread(120).x0) == 120
    with pytest.raises(ConfigurationError, match=r"Endless\.train_dataloader.*__len__"):
        examples_of(Endless(), "train")


def test_integers_that_no_hook_scales_are_taken_as_numbers(capsys):
    class Bytes(OtherDataModule):
        def on_after_batch_transfer(self, batch, dataloader_idx):
            return batch

    advise(Bytes())
    report = capsys.readouterr().out
    assert 60 < line(report, "sigma_data") < 90  # 74 for uniform bytes


MISTAKES = {
    "no data": ([], ["which data?", "--config digits/vp_epsilon"]),
    "an option of no data": (["--data.density", "x"], ["which data?"]),
    "an unknown class": (["--data", "DigitDataModule"], ["data", "did you mean 'DigitsDataModule'"]),
    "no training data": (["--data", "SeedDataModule"], ["train_dataloader"]),
    "an unknown configuration": (["--config", "digits/vp_epsilom"], ["did you mean 'digits/vp_epsilon'"]),
    "a level too large": (
        ["--data", "DigitsDataModule", "--sigma_min", 20],
        ["--sigma_min 20.0", "below 9.63"],
    ),
    "a level of zero": (["--data", "DigitsDataModule", "--sigma_min", 0], ["--sigma_min 0.0", "positive"]),
    "no steps": (["--data", "DigitsDataModule", "--langevin_steps", 0], ["--langevin_steps 0", "at least 1"]),
    "one example": (["--data", "DigitsDataModule", "--max_examples", 1], ["--max_examples 1", "at least 2"]),
    "data of one": (["--data", "ToyDataModule", "--data.num_train", 1], ["1 examples: at least 2"]),
    "another process": (["--data", "DigitsDataModule", "--process", "VPSDE"], ["process", "SMLDProcess"]),
    "a misspelt flag": (["--data", "DigitsDataModule", "--sigma_mn", 1], ["did you mean 'sigma_min'"]),
    "an existing file": (["--data", "DigitsDataModule", "--out", "old.yaml"], ["old.yaml", "exists already"]),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_give_one_line(mistake, capsys, tmp_path):
    (tmp_path / "old.yaml").write_text("mine")
    flags, words = MISTAKES[mistake]
    message = fails(capsys, *flags)
    assert [w for w in words if w not in message] == [], message
    assert (tmp_path / "old.yaml").read_text() == "mine"


def test_a_file_that_cannot_be_written_is_told_after_the_report(capsys, tmp_path):
    (tmp_path / "file").touch()
    assert main(["advise", "--data", "ToyDataModule", *SMALL, "--out", "file/a.yaml"]) == 2
    captured = capsys.readouterr()
    assert "sigma_data" in captured.out and "--out file/a.yaml: cannot be written" in captured.err


def test_help(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["advise", "--help"])
    assert stopped.value.code == 0 and "--sigma_min" in capsys.readouterr().out
    assert main([]) == 0 and "scorelight advise" in capsys.readouterr().out
