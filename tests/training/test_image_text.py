"""Training of encoders of noisy images and captions."""

import math

import pytest
import torch

from scorelight import (
    VPSDE,
    ConfigurationError,
    DescribedDigitsDataModule,
    DigitsDataModule,
    ImageTextModule,
    MLPEncoder,
    StratifiedTime,
)
from scorelight.training.loading import load_classifier, load_image_text


def digits(batch_size=50):
    return DescribedDigitsDataModule(DigitsDataModule(val_batch_size=359), batch_size)


def module(**options):
    torch.manual_seed(0)
    return ImageTextModule(MLPEncoder((1, 8, 8), 16), VPSDE(), 8, 1, seed=0, **options)


def test_encodings_that_are_all_alike_have_the_loss_log_b(make_trainer):
    made = module()
    torch.nn.init.constant_(made.model.log_scale, -30.0)
    (numbers,) = make_trainer().validate(made, digits(), verbose=False)
    assert numbers["val/loss"] == pytest.approx(math.log(359), rel=1e-5)


def test_the_loss_is_the_mean_cross_entropy_of_rows_and_columns():
    made, batch = module(), torch.randn(6, 1, 8, 8)
    cond = {"label": torch.arange(6), "width": torch.arange(6) % 3, "slant": torch.zeros(6, dtype=torch.long)}
    generator = torch.Generator().manual_seed(1)
    state = generator.get_state()
    loss = made.training_loss(batch, cond, generator)
    generator.set_state(state)
    t, _ = made.time_sampler(made.process, 6, generator=generator, device=batch.device)
    noise = torch.randn(batch.shape, generator=generator)
    level = made.process.at(t, like=batch)
    images = made.model.encode_images(level.alpha * batch + level.sigma * noise, level)
    products = images @ made.model.encode_captions(made.model.captions.draw(cond, generator)).T
    rows, columns = products.log_softmax(1).diagonal(), products.log_softmax(0).diagonal()
    torch.testing.assert_close(loss.value, -(rows + columns) / 2)


def test_a_checkpoint_is_built_again_and_is_of_its_own_kind(tmp_path, make_trainer):
    trainer = make_trainer(max_steps=2)
    trainer.fit(made := module(), digits())
    trainer.save_checkpoint(path := tmp_path / "a.ckpt")
    again = load_image_text(path)
    for mine, theirs in zip(made.model.parameters(), again.parameters(), strict=True):
        assert torch.equal(mine, theirs)
    with pytest.raises(ConfigurationError, match="holds a pair of encoders of images and captions; a"):
        load_classifier(path)


def test_a_resumed_training_ends_with_the_same_weights(tmp_path, make_trainer):
    make = lambda: module(time_sampler=StratifiedTime())  # noqa: E731
    make_trainer(max_steps=9).fit(whole := make(), digits())
    (first := make_trainer(max_steps=5)).fit(make(), digits())
    first.save_checkpoint(path := tmp_path / "a.ckpt")
    make_trainer(max_steps=9).fit(resumed := make(), digits(), ckpt_path=path)
    for a, b in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b)


def test_data_without_descriptions_are_refused(make_trainer):
    with pytest.raises(ConfigurationError, match="no slant and no width, of which captions are made; use"):
        make_trainer(max_steps=1).fit(module(), DigitsDataModule())
