"""Accuracy and calibration of a classifier while it is trained."""

from __future__ import annotations

import csv
import io
from dataclasses import asdict
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from scorelight.classifiers import BayesClassifier, Classifier, accuracy_by_level
from scorelight.data.access import examples_of
from scorelight.denoisers.analytic import GaussianMixture
from scorelight.errors import ConfigurationError
from scorelight.storage.atomic import atomic_write
from scorelight.times import LogSNRGrid, NearestLevels
from scorelight.training.classifier import ClassifierModule
from scorelight.training.image_text import ImageTextModule
from scorelight.training.run_folder import check_run_folder, run_folder

__all__ = ["ClassifierReport"]

_REPORTED = ClassifierModule, ImageTextModule


class ClassifierReport(Callback):
    """Accuracy and calibration by noise level, after each validation: logged, and in the folder of the run.

    ``accuracy.csv`` has a row of `LevelAccuracy` for each level. On data that are a mixture in closed form
    with classes, such as ``ToyDataModule(classes=True)``, the columns ``bayes_...`` are those of the exact
    classifier, on the same examples with the same noise. ``val/accuracy_at_...`` is logged for each level
    σ/α, and ``val/calibration_error`` is the mean over the levels. Of encoders of images and captions, the
    `ZeroShotClassifier` is evaluated.

    Args:
        num_examples: Validation examples, from the first on.
        num_levels: Noise levels, equally spaced in log(σ/α) from t_min to t_max.
        seed: Seed of the noise.
    """

    def __init__(self, num_examples: int = 2000, num_levels: int = 12, seed: int = 0) -> None:
        for name, value, least in (("num_examples", num_examples, 1), ("num_levels", num_levels, 2)):
            if value < least:
                raise ConfigurationError(f"accuracy.{name}={value}: must be at least {least}")
        self.num_examples = num_examples
        self.num_levels = num_levels
        self.seed = seed

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Evaluate on the first process, and write."""
        data: Any = getattr(trainer, "datamodule", None)
        if trainer.sanity_checking or data is None or not isinstance(pl_module, _REPORTED):
            return
        folder = run_folder(trainer) if trainer.state.fn == "fit" else None
        if not trainer.is_global_zero:
            return
        rows = self._rows(pl_module, data)
        numbers = {f"val/accuracy_at_{row['noise']:.2g}": row["accuracy"] for row in rows}
        numbers["val/calibration_error"] = sum(row["calibration_error"] for row in rows) / len(rows)
        for logger in trainer.loggers:
            logger.log_metrics(numbers, trainer.global_step)
        if folder:
            check_run_folder(trainer)
            text = io.StringIO()
            writer = csv.DictWriter(text, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
            with atomic_write(folder / "accuracy.csv") as file:
                file.write(text.getvalue().encode())

    def _rows(self, module: ClassifierModule | ImageTextModule, data: Any) -> list[dict[str, float]]:
        """The trained classifier at each level and, where there is one, the exact one."""
        process, exact = module.process, getattr(data, "exact", None)
        levels = process.grid_levels(NearestLevels(LogSNRGrid())(process, self.num_levels))
        batch = examples_of(data, "val").first(self.num_examples)
        classifiers: dict[str, Classifier] = {"": module.classifier}
        if isinstance(exact, GaussianMixture) and exact.num_classes == module.num_classes:
            classifiers["bayes_"] = BayesClassifier(exact, process).to(module.device)
        rows: list[dict[str, float]] = [{} for _ in levels]
        for prefix, classifier in classifiers.items():
            x0, label = batch.x0.to(module.device), batch.cond["label"].to(module.device)
            found = accuracy_by_level(classifier, x0, label, levels, seed=self.seed)
            for row, result in zip(rows, found, strict=True):
                row |= {prefix * (k not in ("time", "noise")) + k: v for k, v in asdict(result).items()}
        return rows
