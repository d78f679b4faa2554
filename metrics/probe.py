"""Linear probe of the features of a frozen text encoder."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

BATCH = 250


def swap_two(tokens: Tensor, length: Tensor, generator: torch.Generator) -> Tensor:
    """Swap one random pair of adjacent tokens in each text; `tokens` is (N, T).

    The two tokens differ, and neither is the first or last token of the text. A text without such a
    pair is returned unchanged.
    """
    position = torch.arange(tokens.shape[1] - 1)
    can = (position > 0) & (position + 2 < length[:, None]) & (tokens[:, 1:] != tokens[:, :-1])
    chance = torch.rand(can.shape, generator=generator).masked_fill(~can, -1.0)
    value, first = chance.max(1)
    rows = torch.arange(len(tokens))[value >= 0]
    swapped, first = tokens.clone(), first[value >= 0]
    swapped[rows, first], swapped[rows, first + 1] = tokens[rows, first + 1], tokens[rows, first]
    return swapped


def features(
    represent: Callable[[Tensor, Tensor], Tensor], data: Any, split: str, count: int, device: Any
) -> tuple[Tensor, Tensor]:
    """Compute features of texts, both unchanged and with two adjacent tokens swapped.

    Returns:
        Features (2 N, 2 width): the mean and the maximum of the hidden states of each text. Labels
        (2 N,): 0 for an unchanged text, 1 for a changed text.
    """
    generator, hidden_states, labels = torch.Generator().manual_seed(0), [], []
    size = len(data.split(split))
    chosen = torch.randperm(size, generator=generator)[:count].tolist()
    for start in range(0, len(chosen), BATCH):
        batch = data.batch(split, chosen[start : start + BATCH], seed=start)
        tokens, length = batch["tokens"], batch["length"] + 1
        swapped = swap_two(tokens, length, generator)
        changed = (swapped != tokens).any(1)
        for texts, label in ((tokens[changed], 0.0), (swapped[changed], 1.0)):
            hidden = represent(texts.to(device), length[changed].to(device)).float().cpu()
            inside = torch.arange(tokens.shape[1]) < length[changed][:, None]
            mean = (hidden * inside[..., None]).sum(1) / length[changed][:, None]
            largest = hidden.masked_fill(~inside[..., None], -torch.inf).amax(1)
            hidden_states.append(torch.cat([mean, largest], 1))
            labels.append(torch.full((len(texts),), label))
    return torch.cat(hidden_states), torch.cat(labels)


def swapped_words_probe(
    represent: Callable[[Tensor, Tensor], Tensor],
    data: Any,
    device: Any,
    train: int = 4000,
    test: int = 1000,
) -> tuple[float, str]:
    """Compute the test accuracy of a logistic regression that detects swapped adjacent tokens.

    Each text is used twice, unchanged and with the swap. Guessing has an accuracy of 0.5.

    Args:
        represent: Function from tokens (N, T) and lengths (N,) to hidden states (N, T, width).
        data: Data module of the texts.
        device: Device of the encoder.
        train: Number of training texts.
        test: Number of test texts.

    Returns:
        Accuracy in [0, 1], and the signature, a string that records the settings.
    """
    (x, y), (x_test, y_test) = (
        features(represent, data, *texts, device) for texts in (("train", train), ("test", test))
    )
    with torch.inference_mode(False), torch.enable_grad():  # Lightning's test disables gradients
        weight, bias, mean, deviation = fit(x.clone(), y.clone())
    right = (
        (((x_test - mean) / deviation @ weight + bias > 0).float() == y_test).float().mean().item()
    )
    split = data.split_name("test")
    return (
        right,
        f"accuracy[task=swapped-neighbours|features=mean,max|l2=1e-3|n_train={len(x)}|"
        f"n={len(x_test)}|split={split}]",
    )


def fit(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Standardise features x (N, D), and fit a logistic regression to labels y (N,).

    Returns:
        Weights (D,), bias, and mean and standard deviation (D,) of x.
    """
    mean, deviation = x.mean(0), x.std(0) + 1e-6
    x = (x - mean) / deviation
    weight, bias = torch.zeros(x.shape[1], requires_grad=True), torch.zeros((), requires_grad=True)
    search = torch.optim.LBFGS([weight, bias], max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        search.zero_grad()
        loss = (
            torch.nn.functional.binary_cross_entropy_with_logits(x @ weight + bias, y)
            + 1e-3 * weight.square().sum()
        )
        loss.backward()
        return loss

    search.step(closure)
    return weight.detach(), bias.detach(), mean, deviation
