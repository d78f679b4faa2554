"""Metrics and floors against independent references."""

import numpy as np
import pytest
import torch

from metrics.classifier import Classifier, accuracy, train_classifier, weights_hash
from metrics.floors import pca_sse
from metrics.likelihood import ActiveUnits, LabelAccuracy, SquaredError, bits_per_dim


def test_pca_error_equals_the_singular_values() -> None:
    """On the data it was fitted on, the error is the mean of the squared singular values that were left out."""
    images = torch.randint(0, 256, (200, 1, 6, 6), dtype=torch.uint8)
    x = images.flatten(1).double().numpy() / 255
    singular = np.linalg.svd(x - x.mean(0), compute_uv=False)
    value, signature = pca_sse(images, images, components=5)
    assert value == pytest.approx((singular[5:] ** 2).sum() / 200, rel=1e-9)
    assert "pca=5" in signature
    assert pca_sse(images, images, components=36)[0] == pytest.approx(0, abs=1e-9)


def test_active_units_counts_what_varies() -> None:
    codes = torch.randn(500, 6) * torch.tensor([1, 0.5, 0.2, 0.05, 0.0, 0.0]) + torch.tensor([0, 3, 0, 0, 9, 0])
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
    """A uniform density over [0, 1] says nothing: 0 nats, and 8 bits for each byte."""
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
