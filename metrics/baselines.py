"""Simple baselines, with which the values of learned models are compared.

Each function returns a value and its signature, a string that records how the value was computed.
A file in `configs/_reproduce/` can name one of these functions instead of a model. `reproduce.py`
then passes data to the parameters that have one of these names:

- Images: `train_images`, `train_labels`, and these names with `val_` or `test_`.
- Two image domains: `train_a`, `train_b`, and these names with `val_` or `test_`.
- Text: `train_ids`, `val_ids`, `test_ids`.
- Pairs of texts: `train_texts`, `val_texts`, `test_texts`.
- Random seed: `seed`.
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
    """Compute the test error of principal component analysis, the optimal linear autoencoder.

    Args:
        train_images: Training images (N, C, H, W), uint8.
        test_images: Test images (M, C, H, W), uint8.
        components: Number of principal components.

    Returns:
        Squared error of pixels in [0, 1], summed over each image and averaged over images, and the
        signature, a string that records the settings.
    """
    fit, x = (images.flatten(1).double() / 255 for images in (train_images, test_images))
    mean = fit.mean(0)
    covariance = (fit - mean).T @ (fit - mean) / len(fit)
    # Eigenvalues are in ascending order: take the last columns, (D, components).
    basis = torch.linalg.eigh(covariance).eigenvectors[:, -components:]
    centred = x - mean
    error = (centred - centred @ basis @ basis.T).square().sum(1).mean().item()
    return (
        error,
        f"sse[sum=values|mean=images|scale=0..1|pca={components}|n_fit={len(fit)}|n_test={len(x)}]",
    )


def classifier_accuracy(
    train_images: Tensor,
    train_labels: Tensor,
    test_images: Tensor,
    test_labels: Tensor,
    seed: int,
    epochs: int = 3,
) -> tuple[float, str]:
    """Train a small classifier p(y|x) and compute its test accuracy.

    Args:
        train_images: Training images (N, C, H, W), uint8.
        train_labels: Classes (N,) of the training images.
        test_images: Test images (M, C, H, W), uint8.
        test_labels: Classes (M,) of the test images.
        seed: Random seed of the initial weights and of the order of the images.
        epochs: Number of passes over the training images.

    Returns:
        Accuracy in [0, 1], and the signature, a string that records the settings and a hash of the
        classifier's weights.
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
    """Compute the Parzen log-likelihood with real training images in place of generated samples.

    The value is the score that a perfect generator would have.

    Args:
        train_images: Training images (N, C, H, W), uint8.
        val_images: Validation images (K, C, H, W), uint8. The first 1,000 select the width of the
            kernel.
        test_images: Test images (M, C, H, W), uint8.
        seed: Random seed of the selection of training images.
        n: Number of training images that are used as samples.

    Returns:
        Mean log-likelihood of the test images in nats, and the signature, a string that records the
        settings and the standard error.
    """
    picked = torch.randperm(len(train_images), generator=torch.Generator().manual_seed(seed))[:n]
    mean, error, sigma = parzen(train_images[picked], val_images[:1000], test_images)
    counts = f"n_fake={len(picked)}|sigma={sigma:.3f}|n_test={len(test_images)}"
    return mean, f"parzen[real=train|{counts}|se={error:.2g}]"


def nearest_neighbour(
    train_images: Tensor, train_labels: Tensor, test_images: Tensor, test_labels: Tensor
) -> tuple[float, str]:
    """Compute the test error of the 1-nearest-neighbour classifier on pixels of real images.

    The value is the reference for a 1-nearest-neighbour classifier with generated training images.

    Args:
        train_images: Training images (N, C, H, W), uint8.
        train_labels: Classes (N,) of the training images.
        test_images: Test images (M, C, H, W), uint8.
        test_labels: Classes (M,) of the test images.

    Returns:
        Error in per cent, and the signature, a string that records the settings.
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
    """Score an image translator that copies its input or returns a constant image.

    Args:
        train_a: Training images of domain a (N, C, H, W), uint8.
        train_b: Training images of domain b (M, C, H, W), uint8.
        test_a: Test images of domain a (K, C, H, W), uint8.
        test_b: Test images of domain b (K, C, H, W), paired with `test_a`.
        rule: Output of the translator: "copy" for its input, "mean" for the mean training image of
            the target domain.
        direction: Direction of translation, "a2b" or "b2a".
        metric: Metric that compares the output with the paired image: "l1", "psnr" or "ssim".

    Returns:
        Value of the metric, and the signature, a string that records the settings.
    """
    given, truth, train = (
        (test_a, test_b, train_b) if direction == "a2b" else (test_b, test_a, train_a)
    )
    answer = given if rule == "copy" else train.double().mean(0).round().byte().expand_as(truth)
    value, signature = fidelity(answer, truth, [metric])[metric]
    return value, f"{signature[:-1]}|rule={rule}|direction={direction}|n={len(truth)}]"


def ngram(train_ids: np.ndarray, test_ids: np.ndarray, order: int = 5) -> tuple[float, str]:
    """Compute the negative log-likelihood per token of a Witten-Bell n-gram model.

    Args:
        train_ids: Token ids (L,) of the training text.
        test_ids: Token ids (M,) of the test text.
        order: Order n of the model; contexts have n - 1 tokens.

    Returns:
        Mean negative log-likelihood of the test text in nats per token, and the signature, a
        string that records the settings.
    """
    vocab_size = int(max(train_ids.max(), test_ids.max())) + 1
    value = witten_bell(train_ids, test_ids, order, vocab_size)
    return (
        value,
        f"nll[model={order}-gram|smoothing=witten-bell|state=carried|positions=all|"
        f"n={len(test_ids) - 1}|unit=nats/token]",
    )


def nearest_translation(train_texts: Texts, test_texts: Texts) -> tuple[float, str]:
    """Compute the accuracy of a translator that returns the target of the nearest training source.

    Sources are compared by the Jaccard similarity of their sets of words. Of equally near sources,
    the first in the training split is used.

    Args:
        train_texts: Sources and targets of the training split.
        test_texts: Sources and targets of the test split.

    Returns:
        Share of test sources whose output equals the target, and the signature, a string that
        records the settings.
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
