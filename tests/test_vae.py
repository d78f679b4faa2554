"""Tests of the VAE's equations against independent computations."""

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import Bernoulli, Normal, kl_divergence

import train
from common.errors import UserError
from datamodules.images.base import ImageDataModule, InMemoryImages
from datamodules.images.ring import Ring
from lightning_modules.core import latent_space as latent
from lightning_modules.core.code_mixture import CodeMixture
from lightning_modules.nn.encoders import output_bias
from lightning_modules.vae import (
    VAE,
    bernoulli_log_likelihood,
    gaussian_log_likelihood,
    importance_bound,
    normal_log_density,
    stage_learning_rate,
    standard_normal_kl,
)
from metrics.likelihood import ImportanceSampledNLL

SHAPE = [1, 8, 8]


def small(**options: object) -> VAE:
    return VAE(image_shape=SHAPE, num_classes=3, hidden=[16], latent_dim=4, **options)  # type: ignore[arg-type]


def images(count: int = 6) -> Tensor:
    return torch.bernoulli(torch.full((count, *SHAPE), 0.4)) * 2 - 1


class Bright(ImageDataModule):
    """Two-channel images of increasing brightness; the first row is black, the last one white."""

    def load_split(self, split: str) -> InMemoryImages:
        later = torch.arange(1100)[:, None, None, None] // 20
        images = (
            torch.randint(200, (1100, 2, 8, 8), generator=torch.Generator().manual_seed(0)) + later
        )
        images[:, :, 0], images[:, :, 7] = 0, 255
        return InMemoryImages(images.to(torch.uint8), torch.zeros(1100, dtype=torch.int64))


@pytest.mark.parametrize("network", ["mlp", "conv"])
def test_a_new_decoder_begins_with_the_training_set_s_mean(network: str) -> None:
    """Output biases start as logits of the mean pixel (mlp) or channel (conv), clipped at 1e-3."""
    data = Bright(batch_size=8, binarize=True)
    model: Any = VAE(image_shape=[2, 8, 8], network=network, hidden=[16], latent_dim=4)  # type: ignore[arg-type]
    model._trainer = SimpleNamespace(global_step=0, datamodule=data)
    model.on_train_start()
    data_set: Any = data.split("train")
    mean = (
        data_set.images.numpy()
        .astype(np.float64)
        .mean((0, 2, 3) if network == "conv" else 0)
        .ravel()
        / 255
    )
    clipped = mean.clip(1e-3, 1 - 1e-3)
    bias = output_bias(model.decoder).detach().clone()
    np.testing.assert_allclose(bias.numpy(), np.log(clipped / (1 - clipped)), rtol=1e-5, atol=1e-5)
    output_bias(model.decoder).data.add_(1)
    model.on_train_start()  # --init_from: a loaded bias is kept
    assert torch.equal(output_bias(model.decoder), bias + 1)


@pytest.mark.parametrize("model", [["VAE"], ["GAN", "--model.network", "maxout"]])
def test_output_biases_of_points_on_the_ring(model: list[str], tmp_path: Path) -> None:
    """The mean image also exists for data that are not uint8 images."""
    data = Ring()
    points: Any = data.split("train")
    torch.testing.assert_close(data.mean_image(), (points.images.double().mean(0) + 1) / 2)
    argv = [
        "fit",
        "--model",
        *model,
        "--data",
        "Ring",
        "--trainer.max_steps",
        "1",
        "--trainer.limit_val_batches",
        "0",
    ]
    network = ["--model.network", "mlp", "--model.hidden", "[8]"] if model == ["VAE"] else []
    assert train.main([*argv, *network, "--run_dir", str(tmp_path / "run")]) == 0


def test_equation_2_samples_have_the_posterior_mean_and_variance() -> None:
    """The mean of -log q(z) over many samples equals the entropy of q."""
    mean, log_var = torch.tensor([[0.5, -1.0]]), torch.tensor([[0.2, -0.7]])
    z = mean + (0.5 * log_var).exp() * torch.randn(200_000, 1, 2)
    torch.testing.assert_close(z.mean(0), mean, atol=0.01, rtol=0)
    torch.testing.assert_close(z.var(0), log_var.exp(), atol=0.02, rtol=0)
    entropy = Normal(mean, (0.5 * log_var).exp()).entropy().sum()
    torch.testing.assert_close(
        -normal_log_density(z, mean, log_var).mean(), entropy, atol=0.01, rtol=0
    )


def test_equation_3_is_the_negative_loss_and_beta_weighs_the_kl() -> None:
    model, batch = small(), {"image": images(), "label": torch.zeros(6, dtype=torch.int64)}
    torch.manual_seed(1)
    one = model.objective(batch, beta=1.0)
    torch.manual_seed(1)
    four = model.objective(batch, beta=4.0)
    torch.testing.assert_close(one["loss"], one["reconstruction"] + one["kl"])
    torch.testing.assert_close(four["loss"] - one["loss"], 3 * one["kl"])


def test_equation_4_equals_torch_and_monte_carlo_and_is_not_symmetric() -> None:
    mean, log_var = torch.tensor([[1.0, -0.5, 0.0]]), torch.tensor([[-1.0, 0.3, 0.0]])
    q, prior = Normal(mean, (0.5 * log_var).exp()), Normal(0.0, 1.0)
    closed = standard_normal_kl(mean, log_var)
    torch.testing.assert_close(closed, kl_divergence(q, prior).sum(1))
    z = q.sample((400_000,))
    torch.testing.assert_close(
        (q.log_prob(z) - prior.log_prob(z)).sum(-1).mean(0), closed, atol=0.01, rtol=0
    )
    reverse = kl_divergence(prior, q).sum(1)
    assert (closed - reverse).abs() > 0.1
    assert standard_normal_kl(torch.zeros(1, 3), torch.zeros(1, 3)) == 0


def test_equation_5_is_the_elbo_for_one_sample_and_grows_with_k() -> None:
    model, image = small(), images(4)
    with torch.no_grad():
        torch.manual_seed(1)
        log_weight = model.log_weight(image, 6000)
        torch.manual_seed(1)  # same noise: only the form of the KL differs
        mean, log_var = model.posterior(image)
        z = mean + (0.5 * log_var).exp() * torch.randn(6000, *mean.shape)
        log_likelihood = bernoulli_log_likelihood(model.logits(z), (image + 1) / 2)
        elbo = log_likelihood.mean(0) - standard_normal_kl(mean, log_var)
    torch.testing.assert_close(log_weight.mean(0), elbo, atol=0.1, rtol=0)
    bounds = [importance_bound(log_weight.view(k, -1, 4)).mean() for k in (1, 10, 1000)]
    assert bounds[0] < bounds[1] < bounds[2]


def test_equation_6_finds_the_class_whose_density_is_highest() -> None:
    """With three constant images as decoders, the nearest has the highest posterior probability."""
    model = small(conditional=True)
    prototypes = torch.where(torch.rand(3, *SHAPE) < 0.5, 3.0, -3.0)
    with torch.no_grad():
        for parameter in model.decoder.parameters():
            parameter.zero_()
        first, last = model.decoder[0][0], model.decoder[0][2]  # type: ignore[index]
        first.weight[:3, 4:7] = 10 * torch.eye(3)  # hidden unit y is on for class y
        last.weight[:, :3] = prototypes.flatten(1).T
    noisy = torch.where(torch.rand(3, *SHAPE) < 0.1, -prototypes.sign(), prototypes.sign())
    scores = model.classify(noisy)
    assert scores.argmax(1).tolist() == [0, 1, 2]
    torch.testing.assert_close(scores.exp().sum(1), torch.ones(3))
    assert model.classify(noisy[[1]]).argmax() == 1


def test_equation_7_recovers_gaussians_and_samples_follow_them() -> None:
    """A third of the codes is of the first of two Gaussians."""
    torch.manual_seed(0)
    means, scales = torch.tensor([[4.0, 0.0], [-4.0, 3.0]]), torch.tensor([[1.0, 0.3], [0.5, 2.0]])
    truth = torch.tensor([0] * 2000 + [1] * 4000)
    mixture = CodeMixture(2, 2)
    mixture.fit(means[truth] + scales[truth] * torch.randn(6000, 2))
    order = mixture.weights.argsort()
    torch.testing.assert_close(
        mixture.weights[order], torch.tensor([1 / 3, 2 / 3]), atol=0.01, rtol=0
    )
    torch.testing.assert_close(mixture.mean[order], means, atol=0.1, rtol=0)
    torch.testing.assert_close(mixture.variance[order].sqrt(), scales, atol=0.05, rtol=0)
    codes = torch.randn(5, 2)
    expected = normal_log_density(codes[:, None], mixture.mean, mixture.variance.log())
    torch.testing.assert_close(mixture.log_densities(codes), expected)
    z = mixture.sample(torch.randn(20_000, 2), torch.rand(20_000))
    first = z[:, 0] > 0
    assert first.float().mean() == pytest.approx(1 / 3, abs=0.015)
    torch.testing.assert_close(z[first].std(0), scales[0], atol=0.05, rtol=0)
    mixture.fit(torch.ones(1, 2))  # one image
    torch.testing.assert_close(
        mixture.sample(torch.randn(9, 2), torch.rand(9)), torch.ones(9, 2), atol=0.01, rtol=0
    )


def test_samples_come_from_the_mixture_unless_it_is_switched_off() -> None:
    """Two components with nearly no variance: a sample has one of two codes."""
    model = small(mixture_components=2)
    seeds = list(range(20))
    with torch.no_grad():
        assert model.mixture is not None
        model.mixture.mean.copy_(torch.tensor([[3.0, 0, 0, 0], [0, 0, 0, -3.0]]))
        model.mixture.variance.mul_(1e-8)
        codes = model.sample_codes(seeds, 1.0, mixture=True)[:, 0].round(decimals=2)
        assert {tuple(code) for code in codes.tolist()} == {(3, 0, 0, 0), (0, 0, 0, -3)}
    plain = small()
    plain.load_state_dict(model.state_dict(), strict=False)
    assert torch.equal(model.sample(seeds, mixture=False), plain.sample(seeds))
    torch.testing.assert_close(model.sample(seeds)[4:5], model.sample([4]))


def test_the_mixture_is_fitted_with_averaged_weights_and_labels() -> None:
    """With one component, the mean of the mixture is the mean of the codes."""
    model: Any = VAE(
        image_shape=[2, 8, 8], num_classes=3, conditional=True, hidden=[16], latent_dim=4,
        ema_decay=0.9, mixture_components=1,
    )  # fmt: skip
    data = Bright()
    model._trainer = SimpleNamespace(datamodule=data, global_step=0)
    model.ema.updates += 1
    with torch.no_grad():
        model.ema.networks["encoder"][1][0].weight.mul_(2)
    model.fit_mixture()
    batch = data.batch("train", list(range(1100)))
    with model.averaged_weights(), torch.no_grad():
        codes = model.encode(batch["image"], batch["label"])
    torch.testing.assert_close(model.mixture.mean[0], codes.mean(0), atol=1e-4, rtol=1e-4)
    trained = model.encode(batch["image"], batch["label"])
    assert (trained.mean(0) - codes.mean(0)).abs().max() > 0.01


def test_likelihoods_equal_torch_distributions() -> None:
    logits, x = torch.randn(5, 2, *SHAPE), torch.rand(2, *SHAPE)
    binary = x.round()
    expected = Bernoulli(logits=logits).log_prob(binary).sum((-3, -2, -1))
    torch.testing.assert_close(bernoulli_log_likelihood(logits, binary), expected)
    expected = Normal(logits.sigmoid(), 0.3).log_prob(x).sum((-3, -2, -1))
    torch.testing.assert_close(gaussian_log_likelihood(logits, x, 0.3), expected)


def test_book_weight_on_the_mean_loss_is_beta() -> None:
    """R times the *mean* squared error plus KL is 2 R / P times Eq. 3 with beta = P / (2 R)."""
    logits, x, kl, weight = torch.randn(1, *SHAPE), torch.rand(1, *SHAPE), torch.tensor(7.0), 500.0
    dims = x.numel()
    book = weight * (logits.sigmoid() - x).square().mean() + kl
    constant = 0.5 * dims * math.log(2 * math.pi)
    ours = -gaussian_log_likelihood(logits, x, 1.0)[0] - constant + dims / (2 * weight) * kl
    torch.testing.assert_close(book, ours * 2 * weight / dims)


def test_stages_fall_after_the_paper_epochs() -> None:
    """Stage i lasts 3^i epochs with factor 10^(-i/7) (Burda et al. 2016)."""
    changes = [
        epoch
        for epoch in range(1, 3280)
        if stage_learning_rate(epoch) != stage_learning_rate(epoch - 1)
    ]
    assert changes == [1, 4, 13, 40, 121, 364, 1093]
    assert stage_learning_rate(0) == 1
    assert stage_learning_rate(3279) == pytest.approx(0.1)


def test_nll_of_a_linear_gaussian_model_is_exact() -> None:
    """Importance sampling from a wrong q recovers the exact p(x) of a linear Gaussian model.

    For p(z) = N(0, 1) and p(x|z) = N(a z, s^2), p(x) is N(0, a^2 + s^2).
    """
    a, s, x = 1.5, 0.7, torch.tensor([0.3, -2.0, 1.1])

    def draw(count: int) -> Tensor:
        q = Normal(0.5 * x, 0.8)
        z = q.sample((count,))
        return Normal(0.0, 1.0).log_prob(z) + Normal(a * z, s).log_prob(x) - q.log_prob(z)

    metric = ImportanceSampledNLL(k=50_000, chunk=7_000)
    metric.update(draw)
    exact = -Normal(0.0, math.sqrt(a**2 + s**2)).log_prob(x).mean()
    torch.testing.assert_close(metric.compute(), exact, atol=0.01, rtol=0)


def test_nll_does_not_depend_on_the_chunks() -> None:
    weights = torch.randn(100, 4) * 5
    values = []
    for chunk in (1, 7, 100):
        rows = iter(weights)
        metric = ImportanceSampledNLL(k=100, chunk=chunk)
        metric.update(lambda count, rows=rows: torch.stack([next(rows) for _ in range(count)]))
        values.append(metric.compute())
    torch.testing.assert_close(values[0], values[2])
    torch.testing.assert_close(values[1], values[2])


def test_contradictions_are_refused() -> None:
    with pytest.raises(UserError, match="beta"):
        small(bound="iwae", beta=2.0)
    with pytest.raises(UserError, match=r"set model.beta_warmup_steps to 0 \(got 5\)"):
        small(bound="iwae", beta_warmup_steps=5)
    with pytest.raises(UserError, match="labels"):
        VAE(image_shape=SHAPE, conditional=True)
    with pytest.raises(UserError, match="multiples of 8"):
        VAE(image_shape=[3, 28, 28], network="conv", hidden=[8, 8, 8])


def test_interpolation_traversal_and_arithmetic_pass_through_what_they_should() -> None:
    model = small().eval()
    with torch.no_grad():
        codes, image = torch.randn(2, 4), images(2)
        strip = latent.interpolate(model, codes[:1], codes[1:], 5)[0]
        torch.testing.assert_close(strip[[0, -1]], model.decode(codes))
        middle = latent.traverse(model, codes[0] * torch.tensor([0, 1, 1, 1]), [0], 5)[0, 2]
        torch.testing.assert_close(middle, model.decode(codes[:1] * torch.tensor([0, 1, 1, 1]))[0])
        direction = latent.attribute_direction(model, image[:1], image[1:])
        shown = latent.add_attribute(model, image, direction, 9, span=4)
        torch.testing.assert_close(shown[:, 4], model.reconstruct(image))
        torch.testing.assert_close(
            shown[1, 5], model.decode(model.encode(image[1:]) + direction)[0]
        )
        assert latent.manifold(model, 3).shape == (9, *SHAPE)


def test_training_learns_and_codes_follow_the_labels_when_conditional() -> None:
    """After 150 updates on two kinds of images, the loss falls and samples match their label."""
    model = small(conditional=True, learning_rate=1e-2)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    label = torch.arange(64) % 2
    image = torch.full((64, *SHAPE), -1.0)
    image[label == 0, :, :4] = 1
    image[label == 1, :, 4:] = 1
    losses = []
    for _ in range(150):
        loss = model.objective({"image": image, "label": label}, beta=1.0)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.1 * losses[0]
    top = model.sample([0, 1, 2], label=0)
    assert (top[:, :, :4] > 0).all()
    assert (top[:, :, 4:] < 0).all()
    assert model.classify(image[:8]).argmax(1).tolist() == label[:8].tolist()


@pytest.mark.parametrize("network", ["mlp", "conv"])
def test_muon_leaves_the_layers_of_the_image_to_adam(network: str) -> None:
    model = small(network=network, optimizer="muon", learning_rate=0.01, ema_decay=0.9)
    made = model.configure_optimizers()
    matrices, others = made.param_groups
    assert (matrices["lr"], matrices["orthogonal"]) == (0.01, True)
    assert (others["lr"], others["orthogonal"]) == (3e-3, False)
    names = {p: name for name, p in model.named_parameters() if p.requires_grad}
    weights = {name for p, name in names.items() if p.dim() >= 2}
    found = {names[p] for p in matrices["params"]}
    first = min(name for name in weights if name.startswith("encoder"))
    last = max(name for name in weights if name.startswith("decoder"))
    assert weights - found == {first, last}
    assert found | {names[p] for p in others["params"]} == set(names.values())
    assert small().configure_optimizers().param_groups[0]["lr"] == 1e-3


def test_the_class_of_a_sample_is_its_seed_modulo_the_number_of_classes() -> None:
    model = small(conditional=True)
    for options in ({}, {"mode": "interpolate", "steps": 3}, {"mode": "traverse", "steps": 3}):
        drawn = model.sample([3, 4], **options)
        torch.testing.assert_close(
            drawn[:1], model.sample([3], label=3 % model.classes, **options), atol=1e-6, rtol=0
        )
        assert not torch.equal(drawn[:1], model.sample([3], label=2 % model.classes, **options))
