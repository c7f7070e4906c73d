"""Features of the Inception network that defines FID."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from pickle import UnpicklingError
from typing import Literal

import torch
from torch import Tensor, nn
from typing_extensions import override

from scorelight.errors import ConfigurationError
from scorelight.metrics.features.base import FeatureExtractor, Features, images_of

__all__ = ["InceptionFeatures"]


class InceptionFeatures(FeatureExtractor):
    """TensorFlow's Inception-v3 of 2015: 2,048 pooled features, and 1,008 logits without bias.

    torch-fidelity's port, on which published FIDs are based. Images of any size are resized to 299×299 as in
    TensorFlow 1, without antialiasing. Grey images are repeated to three channels.

    Args:
        weights: File of torch-fidelity's weights (default: the one in ``$TORCH_HOME/hub/checkpoints``, which
            is downloaded if it does not exist).
        layer: Number of features: 2048, or 64, 192 or 768 of an earlier layer, for fewer images than the
            covariance of 2,048 needs; such distances are no FID, and there are no logits.

    Raises:
        ConfigurationError: If the weights do not exist and cannot be downloaded.
    """

    def __init__(self, weights: str | Path | None = None, layer: Literal[64, 192, 768, 2048] = 2048) -> None:
        super().__init__()
        if layer not in (64, 192, 768, 2048):
            raise ConfigurationError(f"features.layer={layer}: one of 64, 192, 768 and 2048 is needed")
        outputs = [str(layer)] + ["logits_unbiased"] * (layer == 2048)
        self.network = _inception(Path(weights) if weights else _cached(), outputs)

    @override
    def extract(self, x: Tensor) -> Features:
        if images_of(x, "InceptionFeatures").shape[1] not in (1, 3):
            raise ConfigurationError(f"InceptionFeatures expects 1 or 3 channels, not {x.shape[1]}")
        return Features(*self.network(x.expand(-1, 3, -1, -1)))


def _inception(path: Path, outputs: list[str]) -> nn.Module:
    """The network; its own loader would unpickle anything, so it is given a file that was read safely."""
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    safe = io.BytesIO()
    try:
        torch.save(torch.load(path, map_location="cpu", weights_only=True), safe)
        safe.seek(0)
        network: nn.Module = FeatureExtractorInceptionV3("inception-v3-compat", outputs, safe)
        return network
    except (OSError, RuntimeError, ValueError, TypeError, AttributeError, EOFError, UnpicklingError) as error:
        raise ConfigurationError(
            f"features.weights={path}: not torch-fidelity's Inception weights: {error}; "
            f"{_remedy(_cache_path())}"
        ) from error


def _cached() -> Path:
    """The file in torch's cache, downloaded if it does not exist."""
    from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3 as url

    path = _cache_path()
    if not path.exists():
        print(f"Downloading the Inception weights (91 MB) from {url} to {path}", file=sys.stderr)
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            torch.hub.download_url_to_file(url, str(path), path.stem.rsplit("-", 1)[1], sys.stderr.isatty())
        except (OSError, RuntimeError) as error:
            raise ConfigurationError(
                f"features: the weights of InceptionFeatures cannot be downloaded: {error}; {_remedy(path)}"
            ) from error
    return path


def _cache_path() -> Path:
    from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3 as url

    return Path(torch.hub.get_dir(), "checkpoints", url.rsplit("/", 1)[1])


def _remedy(path: Path) -> str:
    from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3 as url

    return (
        f"download {url} on another machine and copy it to {path}, or pass its path by "
        "InceptionFeatures(weights=PATH)"
    )
