"""Features of the Inception network that FID is defined by."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from pickle import UnpicklingError
from typing import Literal

import torch
from torch import Tensor, nn

from scorelight.errors import ConfigurationError
from scorelight.metrics.features.base import FeatureExtractor, Features, images_of

__all__ = ["InceptionFeatures"]


class InceptionFeatures(FeatureExtractor):
    """Inception-v3 as TensorFlow had it in 2015: 2,048 pooled features, and 1,008 logits without bias.

    torch-fidelity's port; published FIDs are by these. Images of any size are resized to 299×299 as
    TensorFlow 1 did, without antialiasing. Grey images are repeated to three channels.

    Args:
        weights: File of torch-fidelity's weights (default: that in ``$TORCH_HOME/hub/checkpoints``, which is
            downloaded if it is not there).
        layer: Number of features: 2048, or those of an earlier layer, 64, 192 or 768, for fewer images than
            the covariance of 2,048 needs; such distances are no FID, and there are no logits.

    Raises:
        ConfigurationError: If the weights are not there and cannot be downloaded.
    """

    def __init__(self, weights: str | Path | None = None, layer: Literal[64, 192, 768, 2048] = 2048) -> None:
        super().__init__()
        if layer not in (64, 192, 768, 2048):
            raise ConfigurationError(f"features.layer={layer}: one of 64, 192, 768 and 2048 is needed")
        wanted = [str(layer)] + ["logits_unbiased"] * (layer == 2048)
        self.network = _inception(Path(weights) if weights else _cached(), wanted)

    def extract(self, x: Tensor) -> Features:
        """Shapes (N, layer) and (N, 1008)."""
        if images_of(x, "InceptionFeatures").shape[1] not in (1, 3):
            raise ConfigurationError(f"InceptionFeatures looks at 1 or 3 channels, not at {x.shape[1]}")
        return Features(*self.network(x.expand(-1, 3, -1, -1)))


def _inception(path: Path, wanted: list[str]) -> nn.Module:
    """The network; its own loader would unpickle anything, so it gets what a safe one has read."""
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    safe = io.BytesIO()
    try:
        torch.save(torch.load(path, map_location="cpu", weights_only=True), safe)
        safe.seek(0)
        return FeatureExtractorInceptionV3("inception-v3-compat", wanted, safe)
    except (OSError, RuntimeError, ValueError, TypeError, AttributeError, EOFError, UnpicklingError) as error:
        raise ConfigurationError(
            f"features.weights={path}: not torch-fidelity's Inception weights: {error}; {_remedy(_place())}"
        ) from error


def _cached() -> Path:
    """The file in torch's cache, downloaded if it is not there."""
    from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3 as url

    path = _place()
    if not path.exists():
        print(f"Downloading the Inception weights (91 MB) from {url} to {path}", file=sys.stderr)
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            torch.hub.download_url_to_file(url, str(path), path.stem.rsplit("-", 1)[1], sys.stderr.isatty())
        except (OSError, RuntimeError) as error:
            raise ConfigurationError(
                f"features: the weights of InceptionFeatures are not here and cannot be had: {error}; "
                f"{_remedy(path)}"
            ) from error
    return path


def _place() -> Path:
    from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3 as url

    return Path(torch.hub.get_dir()) / "checkpoints" / url.rsplit("/", 1)[1]


def _remedy(path: Path) -> str:
    from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3 as url

    return (
        f"download {url} on a machine that can, and put it at {path}, or say where it is by "
        "InceptionFeatures(weights=PATH)"
    )
