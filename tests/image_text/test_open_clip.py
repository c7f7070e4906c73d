"""OpenCLIP: its loading and its encodings, with random weights."""

import builtins

import pytest
import torch
from torchvision.transforms import Normalize

from scorelight import (
    VPSDE,
    AnalyticDenoiser,
    CLIPGuidance,
    ConfigurationError,
    GaussianMixture,
    OpenCLIP,
)

NAME = "ViT-tiny-for-tests"


def level_at(t=0.2):
    return next(iter(VPSDE().grid_levels(torch.tensor([t]))))


@pytest.mark.parametrize("channels", [1, 3])
def test_clean_images_have_the_encodings_of_the_package(open_clip, open_clip_weights, channels, generator):
    level, captions = level_at(), ["a cat", "two dogs"]
    x = torch.rand(3, channels, 32, 32, generator=generator)
    ours = OpenCLIP(NAME, open_clip_weights)
    theirs = open_clip.create_model(NAME, open_clip_weights).eval()
    shown = Normalize(open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD)(x.expand(-1, 3, -1, -1))
    with torch.no_grad():
        logits, _ = theirs.get_logits(shown, open_clip.get_tokenizer(NAME)(captions))
        images = ours.encode_images(level.alpha * (2 * x - 1), level)
        found = images @ ours.encode_captions(captions).T
    torch.testing.assert_close(found, logits, rtol=1e-4, atol=1e-4)


def test_it_guides_towards_a_caption(open_clip_weights, generator):
    """The score changes by the gradient of the product, which finite differences confirm."""
    process, shape = VPSDE(), (1, 28, 28)
    density = GaussianMixture(torch.ones(1), torch.zeros(1, *shape), torch.ones(1))
    model = AnalyticDenoiser(density, process)
    guided = CLIPGuidance(model, OpenCLIP(NAME, open_clip_weights), "a photo of a three", 2.0)
    x, level = torch.randn(2, *shape, generator=generator), level_at()
    change = guided.predict(x, level).score - model.predict(x, level).score
    direction = torch.randn(x.shape, generator=generator)
    ahead, behind = (guided.log_likelihood(x + h * direction, level) for h in (5e-3, -5e-3))
    slope = (change * direction).flatten(1).sum(1)
    torch.testing.assert_close(slope, 2 * (ahead - behind).detach() / 1e-2, rtol=2e-2, atol=2e-3)


@pytest.mark.usefixtures("open_clip")
def test_what_cannot_be_loaded_is_refused(tmp_path):
    with pytest.raises(ConfigurationError, match=r"name='ViT-B32'.*ViT-B-32"):
        OpenCLIP("ViT-B32", "openai")
    with pytest.raises(ConfigurationError, match=r"pretrained='nothing'.*laion2b"):
        OpenCLIP("ViT-B-32", "nothing")
    (tmp_path / "damaged.pt").write_bytes(b"PK\x03\x04 no weights")
    with pytest.raises(ConfigurationError, match="cannot be loaded"):
        OpenCLIP(NAME, str(tmp_path / "damaged.pt"))


def test_without_the_package_the_message_says_how_to_install_it(monkeypatch):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name == "open_clip":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ConfigurationError, match=r"pip install .scorelight\[openclip\]"):
        OpenCLIP("ViT-B-32", "openai")
