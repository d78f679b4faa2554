"""What a frozen text encoder knows, read off by a linear classifier."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

BATCH = 250


def swap_two(tokens: Tensor, length: Tensor, generator: torch.Generator) -> Tensor:
    """Texts (N, T) with two different neighbours exchanged, neither of them the first or the last
    token; rows without such stay.
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
    """Mean and largest hidden states (2 N, 2 width) of texts of a split, as they are and with two
    words exchanged; and which.
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
    """Test accuracy of a logistic regression that says whether two neighbouring tokens of a text
    were exchanged; chance is .5.

    Args:
        represent: hidden states (N, T, width) of tokens (N, T) with lengths (N,).
        data: whose training and test texts are used; each counts once as it is and once changed.
        device: of the encoder.
        train: texts that the classifier learns from.
        test: texts that it is tested on.

    Returns:
        The accuracy and its signature.
    """
    (x, y), (x_test, y_test) = (
        features(represent, data, *texts, device) for texts in (("train", train), ("test", test))
    )
    with torch.inference_mode(False), torch.enable_grad():  # a test has switched gradients off
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
    """Weights (D,) and bias of a logistic regression from x (N, D), standardised, to y (N,); and x'
    mean and deviation (D,).
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
