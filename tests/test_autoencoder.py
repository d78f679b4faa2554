"""Tests of the autoencoder's equations, corruption and decoded random codes."""

from typing import Any

import pytest
import torch
from torch.nn import functional as F

from common.errors import UserError
from lightning_modules.autoencoder import Autoencoder, corrupt
from metrics.likelihood import SquaredError

SHAPE = [1, 8, 8]


def test_hinton_and_salakhutdinov_shape() -> None:
    """The default widths are 784-1000-500-250-30, with logistic units and a linear code."""
    model = Autoencoder(image_shape=[1, 28, 28])
    widths = [part.out_features for part in model.modules() if isinstance(part, torch.nn.Linear)]
    assert widths == [1000, 500, 250, 30, 250, 500, 1000, 784]
    kinds = [type(part).__name__ for part in model.encoder.modules()]
    assert kinds.count("Sigmoid") == 3
    assert kinds[-1] == "Linear"


def test_equation_1_reconstruct_is_decode_after_encode() -> None:
    model, image = (
        Autoencoder(image_shape=SHAPE, hidden=[16], latent_dim=3),
        torch.rand(2, *SHAPE) * 2 - 1,
    )
    assert model.embed(image).shape == (2, 3)
    torch.testing.assert_close(model.reconstruct(image), model.decode(model.encode(image)))
    assert model.reconstruct(image).abs().max() <= 1


def test_equation_2_is_the_summed_cross_entropy() -> None:
    model, image = (
        Autoencoder(image_shape=SHAPE, hidden=[16], latent_dim=3),
        torch.rand(5, *SHAPE) * 2 - 1,
    )
    y = (model.reconstruct(image) + 1) / 2
    expected = F.binary_cross_entropy(y, (image + 1) / 2, reduction="none").sum((1, 2, 3)).mean()
    torch.testing.assert_close(model.reconstruction_error(image, image), expected)


def test_equation_3_corrupts_what_is_seen_and_not_what_is_asked() -> None:
    image = torch.zeros(4, 1, 100, 100)
    masked = corrupt(image, "masking", 0.25)
    assert set(masked.unique().tolist()) == {-1.0, 0.0}
    assert abs((masked == -1).float().mean() - 0.25) < 0.01
    assert abs(corrupt(image, "gaussian", 0.1).std() - 0.2) < 0.01, (
        "0.1 on the [0, 1] scale is 0.2 on the [-1, 1] scale"
    )
    assert corrupt(image, "none", 0.5) is image
    model = Autoencoder(image_shape=SHAPE, hidden=[16], latent_dim=3)
    image = torch.rand(3, *SHAPE) * 2 - 1
    corrupted = corrupt(image, "masking", 0.9)
    y = (model.reconstruct(corrupted) + 1) / 2
    expected = F.binary_cross_entropy(y, (image + 1) / 2, reduction="none").sum((1, 2, 3)).mean()
    torch.testing.assert_close(model.reconstruction_error(image, corrupted), expected)


def test_a_masking_probability_above_1_is_refused() -> None:
    with pytest.raises(UserError, match=r"give at most 1 \(got 25\)"):
        Autoencoder(image_shape=SHAPE, corruption="masking", corruption_level=25)


def test_validation_has_the_objective_of_training(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Autoencoder(image_shape=SHAPE, hidden=[16], latent_dim=3, corruption="masking")
    logged: dict[str, Any] = {}
    monkeypatch.setattr(model, "log", lambda name, value, **_: logged.update({name: value}))
    monkeypatch.setattr(model, "_log_squared_error", lambda *_: None)
    batch = {"image": torch.rand(3, *SHAPE) * 2 - 1}
    torch.manual_seed(0)
    model.validation_step(batch, 0)
    torch.manual_seed(0)
    corrupted = corrupt(batch["image"], "masking", model.hparams.corruption_level)
    assert logged["val/loss"] == model.reconstruction_error(batch["image"], corrupted)
    torch.manual_seed(0)
    assert logged["val/loss"] == model.loss(batch)["loss"]


def test_masking_blackens_whole_pixels() -> None:
    """A masked pixel is black in all channels, and each image has its own mask."""
    image = torch.rand(4, 3, 64, 64) * 1.8 - 0.8
    seen = corrupt(image, "masking", 0.25)
    black = seen == -1
    assert torch.equal(black, black[:, :1].expand_as(black))
    assert abs(black[:, 0].float().mean() - 0.25) < 0.02
    assert not torch.equal(black[0], black[1])
    assert torch.equal(seen[~black], image[~black])


def test_squared_error_of_a_known_difference() -> None:
    metric = SquaredError()
    x = torch.rand(6, *SHAPE)
    metric.update(x, x)
    assert metric.compute() == 0
    metric.update(x[:2] + 0.5, x[:2])
    torch.testing.assert_close(metric.compute(), torch.tensor(0.25 * 64 * 2 / 8))


def test_codes_drawn_at_random_fall_into_holes() -> None:
    """An autoencoder reconstructs its training bars, but random codes decode to no bar."""
    bars = torch.full((8, *SHAPE), -1.0)
    bars[torch.arange(8), 0, torch.arange(8)] = 1
    model = Autoencoder(image_shape=SHAPE, hidden=[64], activation="elu", latent_dim=8)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(300):
        loss = model.reconstruction_error(bars, bars)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert (model.reconstruct(bars) - bars).abs().max() < 0.1
    drawn = model.sample(list(range(64)), mode="holes")
    nearest = torch.cdist(drawn.flatten(1), bars.flatten(1)).min(1).values
    assert nearest.median() > 2, (
        "half of the samples differ from every bar by more than a whole pixel"
    )
