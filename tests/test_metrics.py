"""Metrics and baselines compared with independent references."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from common.errors import UserError
from datamodules.pairs.openmoji import OpenMojiPairs
from metrics.baselines import pca_sse, translation_baseline
from metrics.classifier import Classifier, accuracy, train_classifier, weights_hash
from metrics.fidelity import SSIM, fidelity
from metrics.likelihood import ActiveUnits, LabelAccuracy, SquaredError, bits_per_dim


def test_pca_error_equals_the_singular_values() -> None:
    """The error on the training data is the sum of the other squared singular values over N."""
    images = torch.randint(0, 256, (200, 1, 6, 6), dtype=torch.uint8)
    x = images.flatten(1).double().numpy() / 255
    singular = np.linalg.svd(x - x.mean(0), compute_uv=False)
    value, signature = pca_sse(images, images, components=5)
    assert value == pytest.approx((singular[5:] ** 2).sum() / 200, rel=1e-9)
    assert "pca=5" in signature
    assert pca_sse(images, images, components=36)[0] == pytest.approx(0, abs=1e-9)


def test_active_units_counts_what_varies() -> None:
    codes = torch.randn(500, 6) * torch.tensor([1, 0.5, 0.2, 0.05, 0.0, 0.0]) + torch.tensor(
        [0, 3, 0, 0, 9, 0]
    )
    metric = ActiveUnits(6)
    for part in codes.split(77):
        metric.update(part)
    assert metric.compute() == (codes.var(0, correction=0) > 0.01).sum() == 3


@pytest.mark.parametrize("sizes", [[10], [1] * 10, [3, 7]])
def test_means_over_pictures_do_not_depend_on_the_batches(sizes: list[int]) -> None:
    a, b = torch.rand(10, 3, 4, 4), torch.rand(10, 3, 4, 4)
    metric = SquaredError()
    for one, two in zip(a.split(sizes), b.split(sizes)):
        metric.update(one, two)
    torch.testing.assert_close(metric.compute(), (a - b).square().sum((1, 2, 3)).mean())


def test_bits_per_dim_of_uniform_noise() -> None:
    """A uniform density over [0, 1] has 0 nats, and 8 bits per byte."""
    assert bits_per_dim(torch.tensor(0.0), 784, levels=256) == 8
    assert bits_per_dim(torch.tensor(784 * np.log(2)), 784) == pytest.approx(1)


def test_label_accuracy() -> None:
    metric = LabelAccuracy("bayes|k=3")
    metric.update(torch.eye(4), torch.tensor([0, 1, 2, 0]))
    assert metric.compute() == 0.75
    assert metric.signature == "accuracy[rule=bayes|k=3]"


def test_classifier_is_seeded_and_leaves_the_generator_alone() -> None:
    labels = torch.arange(400) % 2
    images = torch.randint(0, 60, (400, 1, 12, 12), dtype=torch.uint8)
    images[labels == 1, :, :6] += 150
    before = torch.get_rng_state()
    one, two = (train_classifier(images, labels, 2, epochs=2, seed=5) for _ in range(2))
    assert torch.equal(before, torch.get_rng_state())
    assert weights_hash(one) == weights_hash(two)
    assert weights_hash(one) != weights_hash(Classifier(1, 2))
    assert accuracy(one, images, labels) == 1.0
    assert accuracy(one, images, 1 - labels) == 0.0


def valid_ssim(x: Tensor, y: Tensor) -> Tensor:
    """SSIM of images (N, C, H, W) in [0, 1] by Wang et al. 2004, Eq. 13.

    The Gaussian filter is 11x11 with sigma 1.5, without padding.
    """
    tap = torch.exp(-((torch.arange(11.0, dtype=torch.float64) - 5) ** 2) / (2 * 1.5**2))
    window = torch.outer(tap, tap) / tap.sum() ** 2
    x, y = x.double().flatten(0, 1)[:, None], y.double().flatten(0, 1)[:, None]  # (N C, 1, H, W)

    def mean(image: Tensor) -> Tensor:
        return F.conv2d(image, window[None, None])

    mean_x, mean_y = mean(x), mean(y)
    var_x, var_y, covariance = (
        mean(x * x) - mean_x**2,
        mean(y * y) - mean_y**2,
        mean(x * y) - mean_x * mean_y,
    )
    c1, c2 = 0.01**2, 0.03**2
    similarity = (
        (2 * mean_x * mean_y + c1)
        * (2 * covariance + c2)
        / ((mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2))
    )
    return similarity.mean((1, 2, 3))


@pytest.mark.parametrize("sides", [(11, 11), (16, 23), (64, 64)])
def test_ssim_averages_the_valid_region(sides: tuple[int, int]) -> None:
    """The value is independent of autocast and of the division into batches."""
    truth = torch.rand(5, 3, *sides, generator=torch.Generator().manual_seed(0))
    made = (
        truth + 0.2 * torch.randn(truth.shape, generator=torch.Generator().manual_seed(1))
    ).clamp(0, 1)
    expected = valid_ssim(made, truth).mean().item()
    for sizes in ([5], [1, 4]):
        metric = SSIM()
        with torch.autocast("cpu", torch.bfloat16):
            for one, other in zip(made.split(sizes), truth.split(sizes)):
                metric.update(one, other)
        assert metric.compute().item() == pytest.approx(expected, abs=1e-5)
    assert "|region=valid|" in SSIM.signature


def test_ssim_of_emoji_leaves_out_the_border() -> None:
    """White borders of line drawings agree everywhere and would raise the value of a copy."""
    split: Any = OpenMojiPairs(size=64).split("val")
    line, colour = (images.images[:40] for images in (split.a, split.b))
    value, signature = translation_baseline(
        line, colour, line, colour, rule="copy", direction="b2a", metric="ssim"
    )
    assert value == pytest.approx(valid_ssim(colour / 255, line / 255).mean().item(), abs=1e-5)
    assert (
        signature
        == "ssim[window=gauss11|sigma=1.5|region=valid|mean=images|rule=copy|direction=b2a|n=40]"
    )
    assert fidelity(line, line, ["ssim"])["ssim"][0] == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("sides", [(8, 8), (10, 64)])
def test_ssim_refuses_images_smaller_than_its_window(sides: tuple[int, int]) -> None:
    image = torch.rand(2, 3, *sides)
    with pytest.raises(UserError, match=f"at least 11x11 pixels \\(got {sides[0]}x{sides[1]}\\)"):
        SSIM().update(image, image)
