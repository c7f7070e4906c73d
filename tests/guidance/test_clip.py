"""Guidance by a caption: with exact encoders it is classifier guidance, and so gives p(x | c)."""

import pytest
import torch
from support.densities import classes
from support.networks import randomized
from support.processes import every_kind_of_process

from scorelight import (
    VPSDE,
    AnalyticDenoiser,
    BayesClassifier,
    ClassifierGuidance,
    CLIPGuidance,
    ConfigurationError,
    ImageText,
    MLPEncoder,
    NoisyCLIP,
    ZeroShotClassifier,
)

D = torch.float64
PROCESSES = every_kind_of_process()
every_process = pytest.mark.parametrize("process", PROCESSES, ids=lambda p: type(p).__name__)


class Exact(ImageText):
    """f = log p(c | x_t) of all classes and g = one class, up to a term of x_t alone."""

    def __init__(self, process):
        super().__init__()
        self.bayes = BayesClassifier(classes(), process)

    def encode_images(self, x_t, level):
        return self.bayes.log_prob(x_t, level)

    def encode_captions(self, captions):
        return torch.eye(2, dtype=D)[[int(caption) for caption in captions]]


def inputs(process, generator):
    x = torch.randn(5, 2, dtype=D, generator=generator)
    return x, process.grid_levels(torch.tensor([0.4], dtype=D))[0]


@every_process
@pytest.mark.parametrize("scale", [1.0, 2.5])
def test_with_exact_encoders_it_is_classifier_guidance(process, scale, generator):
    (x, level), inner = inputs(process, generator), AnalyticDenoiser(classes(), process)
    found = CLIPGuidance(inner, Exact(process), "1", scale).predict(x, level)
    label = torch.ones(5, dtype=torch.long)
    classified = ClassifierGuidance(inner, BayesClassifier(classes(), process), scale)
    expected = classified.predict(x, level, label=label)
    torch.testing.assert_close(found.score, expected.score, rtol=1e-9, atol=1e-9)
    if scale == 1:
        torch.testing.assert_close(found.score, inner.predict(x, level, label=label).score)


def clip(process):
    made = randomized(NoisyCLIP(MLPEncoder((2,), 16, 2), process, num_features=8), 0.3)
    torch.nn.init.constant_(made.log_scale, 2.0)
    return made.double().eval()


@every_process
def test_the_gradient_is_that_of_finite_differences(process, generator):
    (x, level), inner = inputs(process, generator), AnalyticDenoiser(classes(), process)
    model = clip(process)
    guided = CLIPGuidance(inner, model, "a thick three", scale=1.3)
    added = guided.predict(x, level).score - inner.unconditional(x, level).score
    text = model.encode_captions(["a thick three"])[0]
    h = 1e-5
    for d in range(2):
        step = h * torch.eye(2, dtype=D)[d]
        up, down = (model.encode_images(y, level) @ text for y in (x + step, x - step))
        torch.testing.assert_close(added[:, d], 1.3 * (up - down) / (2 * h), rtol=1e-5, atol=1e-7)


def test_encodings_have_the_norms_that_are_stated(generator):
    model, (x, level) = clip(VPSDE()), inputs(VPSDE(), generator)
    norms = model.encode_images(x, level).norm(dim=1)
    torch.testing.assert_close(norms, torch.full((5,), 2.0, dtype=D).exp())
    torch.nn.init.constant_(model.log_scale, 9.0)
    assert model.encode_images(x, level).norm(dim=1).max() < 100
    torch.testing.assert_close(model.encode_captions(["a 3", "one"]).norm(dim=1), torch.ones(2, dtype=D))


def test_outside_of_the_interval_nothing_is_added(generator):
    process = VPSDE()
    (x, level), inner = inputs(process, generator), AnalyticDenoiser(classes(), process)
    noise = level.sigma / level.alpha
    guided = CLIPGuidance(inner, clip(process), "a 3", interval=(2 * noise, 3 * noise))
    assert torch.equal(guided.predict(x, level).output, inner.unconditional(x, level).output)


def test_an_unknown_word_is_refused_before_anything_runs():
    with pytest.raises(ConfigurationError, match=r"caption 'a cat': 'cat'"):
        CLIPGuidance(AnalyticDenoiser(classes(), VPSDE()), clip(VPSDE()), "a cat")


@every_process
def test_with_exact_encoders_the_zero_shot_classifier_is_that_of_bayes(process, generator):
    x, level = inputs(process, generator)
    exact = BayesClassifier(classes(), process)
    found = ZeroShotClassifier(Exact(process), ["0", "1"], process).log_prob(x, level)
    torch.testing.assert_close(found, exact.log_prob(x, level), rtol=1e-12, atol=1e-12)
