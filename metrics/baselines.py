"""Cheap models beside which the learned ones stand. Each takes tensors and gives its value and
signature.

A reproduction that names one of these functions instead of a model calls it with those of
`train_images`, `train_labels`, `val_images`, `val_labels`, `test_images`, `test_labels` and `seed`
that its signature has; of two domains there are `train_a`, `train_b` and so on, of a text
`train_ids`, of pairs of texts `train_texts`.
"""

from typing import Literal

import numpy as np
import torch
from torch import Tensor

from metrics.classifier import accuracy, train_classifier, weights_hash
from metrics.fidelity import fidelity
from metrics.ngram import witten_bell
from metrics.parzen import nearest_neighbour_error, parzen

Texts = tuple[list[str], list[str]]


def pca_sse(train_images: Tensor, test_images: Tensor, components: int = 30) -> tuple[float, str]:
    """Test error of the best linear code: squared error summed over pixels in [0, 1], mean over
    images.

    Args:
        train_images: uint8 images (N, C, H, W) that mean and components are fitted on.
        test_images: uint8 images (M, C, H, W).
        components: size of the code.

    Returns:
        The error and its signature.
    """
    fit, x = (images.flatten(1).double() / 255 for images in (train_images, test_images))
    mean = fit.mean(0)
    covariance = (fit - mean).T @ (fit - mean) / len(fit)
    basis = torch.linalg.eigh(covariance).eigenvectors[
        :, -components:
    ]  # (D, components), largest eigenvalues last
    centred = x - mean
    error = (centred - centred @ basis @ basis.T).square().sum(1).mean().item()
    return (
        error,
        f"sse[sum=values|mean=pictures|scale=0..1|pca={components}|n_fit={len(fit)}|"
        f"n_test={len(x)}]",
    )


def classifier_accuracy(
    train_images: Tensor,
    train_labels: Tensor,
    test_images: Tensor,
    test_labels: Tensor,
    seed: int,
    epochs: int = 3,
) -> tuple[float, str]:
    """Test accuracy of the small discriminative classifier, p(y|x) learned directly.

    Args:
        train_images: uint8 images (N, C, H, W).
        train_labels: their classes (N,).
        test_images: uint8 images (M, C, H, W).
        test_labels: their classes (M,).
        seed: of weights and order.
        epochs: passes over the training images.

    Returns:
        The accuracy and its signature, with the hash of the weights.
    """
    model = train_classifier(
        train_images, train_labels, int(train_labels.max()) + 1, epochs=epochs, seed=seed
    )
    value = accuracy(model, test_images, test_labels)
    return (
        value,
        f"accuracy[rule=discriminative|epochs={epochs}|weights={weights_hash(model)}|"
        f"n={len(test_images)}]",
    )


def parzen_control(
    train_images: Tensor, val_images: Tensor, test_images: Tensor, seed: int, n: int = 10_000
) -> tuple[float, str]:
    """Parzen log-likelihood with real training images in place of generated ones: what a perfect
    generator would get.

    Args:
        train_images: uint8 images (N, C, H, W), of which `n` are drawn.
        val_images: uint8 images; the first 1,000 choose the width.
        test_images: uint8 images (M, C, H, W).
        seed: of the draw.
        n: how many are drawn.

    Returns:
        The mean in nats and its signature, with the standard error.
    """
    picked = torch.randperm(len(train_images), generator=torch.Generator().manual_seed(seed))[:n]
    mean, error, sigma = parzen(train_images[picked], val_images[:1000], test_images)
    return (
        mean,
        f"parzen[real=train|n_fake={n}|sigma={sigma:.3f}|n_test={len(test_images)}|se={error:.2g}]",
    )


def nearest_neighbour(
    train_images: Tensor, train_labels: Tensor, test_images: Tensor, test_labels: Tensor
) -> tuple[float, str]:
    """Test error in per cent of the one-nearest-neighbour classifier on real pixels, beside that on
    generated ones.

    Args:
        train_images: uint8 images (N, C, H, W).
        train_labels: their classes (N,).
        test_images: uint8 images (M, C, H, W).
        test_labels: their classes (M,).

    Returns:
        The error and its signature.
    """
    error = nearest_neighbour_error(train_images, train_labels, test_images, test_labels)
    return (
        100 * error,
        f"nn-error[real=train|n_train={len(train_images)}|n_test={len(test_images)}|"
        "distance=euclidean]",
    )


def translation_baseline(
    train_a: Tensor,
    train_b: Tensor,
    test_a: Tensor,
    test_b: Tensor,
    rule: Literal["copy", "mean"],
    direction: Literal["a2b", "b2a"],
    metric: Literal["l1", "psnr", "ssim"],
) -> tuple[float, str]:
    """What a translation gets that answers with the image it was given, or with the mean training
    image of the other domain.

    Args:
        train_a: uint8 images (N, C, H, W).
        train_b: uint8 images (M, C, H, W).
        test_a: uint8 images (K, C, H, W).
        test_b: their answers.
        rule: which of the two.
        direction: from which domain to which.
        metric: see `fidelity`.

    Returns:
        The figure and its signature.
    """
    given, truth, train = (
        (test_a, test_b, train_b) if direction == "a2b" else (test_b, test_a, train_a)
    )
    answer = given if rule == "copy" else train.double().mean(0).round().byte().expand_as(truth)
    value, signature = fidelity(answer, truth, [metric])[metric]
    return value, f"{signature[:-1]}|rule={rule}|direction={direction}|n={len(truth)}]"


def ngram(train_ids: np.ndarray, test_ids: np.ndarray, order: int = 5) -> tuple[float, str]:
    """Nats per token of a Witten-Bell n-gram model.

    Args:
        train_ids: ids (L,) that are counted.
        test_ids: ids (M,) that are predicted.
        order: n.

    Returns:
        The figure and its signature.
    """
    vocab_size = int(max(train_ids.max(), test_ids.max())) + 1
    value = witten_bell(train_ids, test_ids, order, vocab_size)
    return (
        value,
        f"nll[model={order}-gram|smoothing=witten-bell|state=carried|positions=all|"
        f"n={len(test_ids) - 1}|unit=nats/token]",
    )


def nearest_translation(train_texts: Texts, test_texts: Texts) -> tuple[float, str]:
    """Share of test sources whose nearest training source, by the words they share, has just their
    translation.

    Args:
        train_texts: sources and targets.
        test_texts: the same of the test split.

    Returns:
        The share and its signature; of equally near ones the first counts.
    """
    known = [(set(source.split()), target) for source, target in zip(*train_texts)]
    right = 0
    for source, target in zip(*test_texts):
        words = set(source.split())
        answer = max(known, key=lambda pair: len(words & pair[0]) / len(words | pair[0]))[1]
        right += answer == target
    return right / len(
        test_texts[0]
    ), f"exact[compare=whole|rule=nearest-source|distance=jaccard-words|n={len(test_texts[0])}]"
