"""Diffusion: forward process, samplers, guidance and likelihood, compared with known solutions."""

import math
from typing import Any, Literal

import pytest
import torch
from torch import Tensor, nn

from common.errors import UserError
from lightning_modules.diffusion import (
    BOUND_STEPS,
    MAX_RATIO,
    MIN_RATIO,
    Diffusion,
    NoisePath,
    Objective,
    UNet,
    ddim_or_ddpm,
    heun,
)
from metrics.likelihood import reconstruction_nll

OBJECTIVES: list[Objective] = ["noise", "velocity", "image"]
MEAN, DEVIATION = 0.2, 0.3  # of the Gaussian data


def exact_output(path: NoisePath, x_t: Tensor, t: Tensor) -> Tensor:
    """Return the best output of a network for values of N(MEAN, DEVIATION^2)."""
    alpha, sigma = (part.view(-1, 1, 1, 1) for part in path.coefficients(t))
    noise = sigma * (x_t - alpha * MEAN) / ((alpha * DEVIATION).square() + sigma.square())
    if path.objective == "noise":
        return noise
    image = MEAN + alpha * DEVIATION**2 * (x_t - alpha * MEAN) / (
        (alpha * DEVIATION).square() + sigma.square()
    )
    return noise - image if path.objective == "velocity" else image


class Exact(nn.Module):
    """Network with the best output for Gaussian data."""

    def __init__(self, path: NoisePath) -> None:
        super().__init__()
        self.path = path

    def forward(self, x: Tensor, t: Tensor, label: Tensor | None) -> Tensor:
        return exact_output(self.path, x, t)


def gaussian_model(objective: Objective, shape: list[int]) -> Diffusion:
    """Return a model of Gaussian data, without a trained network."""
    model = Diffusion(shape, levels=[1], attention=[], width=8, objective=objective)
    model.ema = None
    model.network = Exact(model.path)  # type: ignore[assignment]
    return model.eval()


def tiny(**options: Any) -> Diffusion:
    """Return a small model with random weights in all layers."""
    torch.manual_seed(0)
    model = Diffusion([3, 8, 8], width=8, levels=[1, 2], blocks=1, attention=[1], **options)
    for parameter in model.network.parameters():
        nn.init.normal_(parameter, 0.0, 0.3)
    return model.eval()


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_forward_process(objective: Objective) -> None:
    """x_0 is the image and x_1 the noise; the ratio of the coefficients is inverted by `time`."""
    path = NoisePath(objective)
    alpha, sigma = path.coefficients(torch.tensor([0.0, 1.0]))
    torch.testing.assert_close(alpha, torch.tensor([1.0, 0.0]), atol=1e-3, rtol=0)
    torch.testing.assert_close(sigma, torch.tensor([0.0, 1.0]), atol=1e-3, rtol=0)
    t = torch.linspace(0.01, 0.98, 50, dtype=torch.float64)
    alpha, sigma = path.coefficients(t)
    torch.testing.assert_close(path.time(sigma / alpha), t)
    total = alpha.square() + sigma.square() if objective == "noise" else alpha + sigma
    torch.testing.assert_close(total, torch.ones_like(t))


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_predictions_invert_the_forward_process(objective: Objective) -> None:
    model, t = tiny(objective=objective), torch.tensor([0.1, 0.6])
    image, noise = torch.rand(2, 3, 8, 8), torch.randn(2, 3, 8, 8)
    target = {"noise": noise, "velocity": noise - image, "image": image}[objective]
    denoised, predicted = model.path.predictions(model.add_noise(image, t, noise), t, target)
    torch.testing.assert_close(denoised, image)
    torch.testing.assert_close(predicted, noise)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_the_posterior_agrees_with_the_forward_process(objective: Objective) -> None:
    """If x_t is sampled given x, and x_s given x_t and x, then x_s has the moments of Eq. 1."""
    path = NoisePath(objective)
    s, t = torch.tensor([0.1, 0.3, 0.7]).double(), torch.tensor([0.2, 0.9, 0.71]).double()
    (alpha_t, sigma_t), (alpha_s, sigma_s) = path.coefficients(t), path.coefficients(s)
    x = torch.tensor(1.7).double()
    mean, deviation = path.posterior(alpha_t * x, x, t, s)
    slope = path.posterior(alpha_t * x + 1, x, t, s)[0] - mean
    torch.testing.assert_close(mean, alpha_s * x)
    variance = (slope * sigma_t).square() + deviation.square()
    torch.testing.assert_close(variance, sigma_s.square())


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_the_error_of_heun_falls_with_the_square_of_the_steps(objective: Objective) -> None:
    """For Gaussian data, the solution of Eq. 6 is known."""
    path = NoisePath(objective)
    noise = torch.randn(4, 1, 2, 2, generator=torch.Generator().manual_seed(0)).double()
    start = MAX_RATIO * noise
    exact = MEAN + (start - MEAN) * DEVIATION / math.sqrt(DEVIATION**2 + MAX_RATIO**2)

    def predict(x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        times = t.expand(len(x))
        return path.predictions(x, times, exact_output(path, x, times))

    errors = [
        (heun(path, predict, lambda x, t: x, noise, steps) - exact).abs().max()
        for steps in (40, 80)
    ]
    assert 3.5 < errors[0] / errors[1] < 7
    assert errors[1] < 2e-3


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("sampler", ["ddpm", "ddim", "heun"])
def test_samples_have_the_moments_of_the_data(
    objective: Objective, sampler: Literal["ddpm", "ddim", "heun"]
) -> None:
    model = gaussian_model(objective, [1, 4, 4])
    images = model.sample(list(range(500)), sampler=sampler, steps=200)
    assert images.mean().item() == pytest.approx(MEAN, abs=0.02)
    assert images.std().item() == pytest.approx(DEVIATION, abs=0.02)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_ddim_can_be_inverted(objective: Objective) -> None:
    """DDIM from an image to noise, and back, gives the image."""
    model = gaussian_model(objective, [1, 4, 4])
    first, last = model.path.time(torch.tensor([MAX_RATIO, MIN_RATIO]))
    times = torch.lerp(first, last, torch.linspace(0, 1, 400))
    image = MEAN + DEVIATION * torch.randn(2, 1, 4, 4)
    x = model.add_noise(image, last.expand(2), torch.zeros_like(image))
    for t, s in zip(times.flip(0), times.flip(0)[1:]):
        output = exact_output(model.path, x, t.expand(2))
        denoised, noise = model.path.predictions(x, t.expand(2), output)
        alpha, sigma = model.path.coefficients(s)
        x = alpha * denoised + sigma * noise

    def predict(x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        return model.path.predictions(x, t.expand(2), exact_output(model.path, x, t.expand(2)))

    start = x / model.path.coefficients(first)[1]
    back = ddim_or_ddpm(model.path, predict, lambda x, t: x, start, 400, None)
    torch.testing.assert_close(back, image, atol=0.03, rtol=0)


def test_guidance() -> None:
    """0 ignores the label, 1 is the conditional model, and between and beyond Eq. 7 is linear."""
    model = tiny(conditional=True, num_classes=4)
    x, t, label = torch.randn(2, 3, 8, 8), torch.tensor([0.3, 0.7]), torch.tensor([1, 2])
    none = model.network(x, t, torch.tensor([4, 4]))
    given = model.network(x, t, label)
    torch.testing.assert_close(model.guided(x, t, label, 0), none)
    torch.testing.assert_close(model.guided(x, t, label, 1), given)
    torch.testing.assert_close(model.guided(x, t, label, 3), none + 3 * (given - none))
    assert not torch.allclose(given, none)
    same = model.sample([0, 1], steps=3, label=1, guidance=0)
    torch.testing.assert_close(same, model.sample([0, 1], steps=3, label=2, guidance=0))


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_the_bound_is_close_to_the_entropy_of_known_data(objective: Objective) -> None:
    """With the best network, the bound exceeds the entropy of rounded Gaussian values by little.

    The number of steps adds about 0.05 nats. The network, which is best for values that are not
    rounded, adds as much at noise levels below the distance of two levels.
    """
    torch.manual_seed(0)
    model = gaussian_model(objective, [1, 8, 8])
    image = ((MEAN + DEVIATION * torch.randn(200, 1, 8, 8)) * 127.5).round().clamp(-127, 127)
    image = (image + 0.5) / 127.5  # levels of uint8 images lie at half steps around 0
    entropy = 0.5 * math.log(2 * math.pi * math.e * DEVIATION**2) + math.log(127.5)
    nats = model.bound(image, None, times=40).mean().item() / 64
    assert 0 < nats - entropy < 0.15
    assert BOUND_STEPS == 1000


def test_the_choice_among_levels_is_a_distribution() -> None:
    levels = torch.linspace(-1, 1, 256)[:, None, None, None]
    nll = reconstruction_nll(torch.full((256, 1, 1, 1), 0.1234), levels, 0.01)
    assert (-nll).exp().sum().item() == pytest.approx(1, abs=1e-5)


def test_inpainting_keeps_the_known_pixels() -> None:
    model, image = tiny(), torch.rand(2, 3, 8, 8) * 2 - 1
    mask = torch.zeros(2, 1, 8, 8)
    mask[..., 4:] = 1
    for sampler in ("heun", "ddim", "ddpm"):
        found = model.sample([0, 1], sampler=sampler, steps=3, image=image, mask=mask)  # type: ignore[arg-type]
        assert torch.equal(found[..., :4], image[..., :4])
        assert not torch.equal(found[..., 4:], image[..., 4:])
        alone = model.sample([1], sampler=sampler, steps=3, image=image[1:], mask=mask[1:])  # type: ignore[arg-type]
        torch.testing.assert_close(found[1:], alone, atol=1e-4, rtol=0)
        everywhere = torch.ones_like(mask)  # nothing is known
        new = model.sample([0, 1], sampler=sampler, steps=3, image=image, mask=everywhere)  # type: ignore[arg-type]
        assert torch.equal(new, model.sample([0, 1], sampler=sampler, steps=3))  # type: ignore[arg-type]
    with pytest.raises(UserError, match="--input and --mask belong together"):
        model.sample([0], image=image)
    with pytest.raises(UserError, match="--guidance needs a model"):
        model.sample([0], guidance=2.0)


def test_many_steps_of_ddpm_are_finite() -> None:
    path = NoisePath("noise")
    t = torch.linspace(1, 0.001, 100_000)
    mean, deviation = path.posterior(torch.ones(()), torch.ones(()), t[:-1], t[1:])
    assert mean.isfinite().all()
    assert deviation.isfinite().all()


def test_the_objective_image_has_the_weights_of_velocity() -> None:
    """An error of x^ is an error of the velocity times t, and counts as such above t = .05."""
    model, image = tiny(objective="image"), torch.rand(3, 3, 8, 8)
    t = torch.tensor([0.01, 0.2, 0.9])
    model.network = nn.Module()  # type: ignore[assignment]
    model.network.forward = lambda x, t, label: image + 0.1  # type: ignore[assignment]
    errors = model.losses_at({"image": image}, t, None)
    torch.testing.assert_close(errors, torch.tensor([0.1 / 0.05, 0.1 / 0.2, 0.1 / 0.9]).square())


def test_logit_normal_times_are_evenly_spaced_quantiles() -> None:
    """A batch has one time in each of N intervals of equal probability."""
    model = tiny(times="logit-normal")
    found: list[Tensor] = []
    model.losses_at = lambda batch, t, label: found.append(t) or t  # type: ignore[assignment, func-returns-value]
    model.loss({"image": torch.zeros(8, 3, 8, 8)})
    quantiles = torch.special.ndtr(torch.logit(found[0])) * 8
    assert quantiles.floor().tolist() == [*range(8)]


def test_a_new_network_predicts_zero() -> None:
    """The output layer starts at 0, as in the released code."""
    network = UNet(3, 2, 8, [1, 2], 1, [1], 0.1, 0)
    assert not network(torch.randn(2, 3, 8, 8), torch.rand(2), None).any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"levels": [1, 2, 2, 2, 2]}, "sides must be multiples of 16 for 5 model.levels"),
        ({"width": 7}, "model.width must be even"),
        ({"conditional": True}, "model.conditional needs labels"),
        ({"levels": [1, 2], "attention": [2]}, r"model.attention has \[2\]; model.levels has 2"),
    ],
)
def test_mistakes(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Diffusion([3, 8, 8], **options)
