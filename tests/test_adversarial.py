"""Tests of the adversarial base class and of the losses, networks and recipes of GAN and DCGAN."""

import csv
import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import numpy as np
import pytest
import torch
import yaml
from pytorch_lightning import Callback, Trainer
from torch import Tensor, nn

import train
from cli.compilation import compile_networks
from cli.init_weights import copy_weights
from cli.recipes import purpose, recipes
from common.errors import UserError
from common.files import ROOT
from datamodules.images.base import ImageDataModule, InMemoryImages
from datamodules.images.openmoji import OpenMoji
from datamodules.pairs.openmoji import OpenMojiPairs
from lightning_modules import load
from lightning_modules.cyclegan import CycleGAN
from lightning_modules.dcgan import DCGAN, channel_plan
from lightning_modules.gan import (
    GAN,
    LossName,
    Maxout,
    clip_weights,
    discriminator_objective,
    generator_objective,
    gradient_penalty,
    r1_penalty,
)
from lightning_modules.nn.augmentation import diff_augment
from lightning_modules.nn.convolution import conv_size, same_padding, transposed_size
from lightning_modules.nn.spectral_norm import apply_spectral_norm
from lightning_modules.optim.schedules import ConstantThenLinear, GoodfellowSchedule
from lightning_modules.pix2pix import Pix2Pix
from tests.runs import run_differences


def test_sizes_are_those_of_pytorch() -> None:
    for kernel in range(1, 6):
        for stride in (1, 2, 3):
            for padding in range(kernel // 2 + 1):
                x = torch.zeros(1, 1, 17)
                assert nn.Conv1d(1, 1, kernel, stride, padding)(x).shape[2] == conv_size(
                    17, kernel, stride, padding
                )
                for extra in range(stride):
                    made = nn.ConvTranspose1d(1, 1, kernel, stride, padding, extra)(x).shape[2]
                    assert made == transposed_size(17, kernel, stride, padding, extra)
                    assert conv_size(made, kernel, stride, padding) == 17, (
                        "a transposed convolution restores the input size"
                    )
    assert transposed_size(7, 4, 2, 1) < transposed_size(7, 4, 2, 0), (
        "padding makes the output smaller"
    )
    for stride in (1, 2, 3):
        assert nn.Conv1d(1, 1, 5, stride, same_padding(5))(torch.zeros(1, 1, 17)).shape[
            2
        ] == math.ceil(17 / stride)
    with pytest.raises(UserError, match="odd"):
        same_padding(4)


@pytest.mark.parametrize(
    ("loss", "smoothing", "accuracy"),
    [("non_saturating", 0.0, 0.5), ("least_squares", 0.0, 1.0), ("least_squares", 0.3, 1.0)],
)
def test_accuracy_of_the_discriminator_has_the_threshold_of_the_loss(
    loss: Any, smoothing: float, accuracy: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Outputs are 1 for real images and 0.2 for generated ones; least squares has targets 1 and 0.

    A Wasserstein critic has no threshold.
    """
    image = torch.rand(4, 3, 4, 4)
    batch = {"image": image}
    model = GAN([3, 4, 4], hidden=[8], loss=loss, label_smoothing=smoothing)
    critic = GAN([3, 4, 4], hidden=[8], loss="wasserstein", weight_clip=0.01)
    outputs = torch.tensor([1.0] * 4 + [0.2] * 4)
    for one in (model, critic):
        monkeypatch.setattr(one, "discriminate", lambda *_: outputs)
    assert model.discriminator_loss(batch, image)["accuracy_d"] == accuracy
    assert "accuracy_d" not in critic.discriminator_loss(batch, image)


def test_logistic_losses_are_eq_1() -> None:
    real, fake = torch.randn(2, 50, dtype=torch.float64)
    d_real, d_fake = real.sigmoid(), fake.sigmoid()
    torch.testing.assert_close(
        discriminator_objective("non_saturating", real, fake),
        -(d_real.log().mean() + (1 - d_fake).log().mean()),
    )
    torch.testing.assert_close(generator_objective("minimax", fake), (1 - d_fake).log().mean())
    torch.testing.assert_close(generator_objective("non_saturating", fake), -d_fake.log().mean())
    smooth = -(0.9 * d_real.log() + 0.1 * (1 - d_real).log()).mean() - (1 - d_fake).log().mean()
    torch.testing.assert_close(discriminator_objective("non_saturating", real, fake, 0.9), smooth)


@pytest.mark.parametrize("name", get_args(LossName))
def test_a_swapped_discriminator_loses_more(name: LossName) -> None:
    real, fake = torch.randn(100) + 1, torch.randn(100) - 1
    assert discriminator_objective(name, real, fake) < discriminator_objective(name, fake, real)
    assert generator_objective(name, fake + 3) < generator_objective(name, fake), (
        "raising the logits of generated images lowers the loss"
    )


def test_eq_2_is_the_best_discriminator() -> None:
    """For two known densities, the logits log p_data - log p_g have a lower loss than others."""
    x_real, x_fake = (
        torch.randn(20000, dtype=torch.float64),
        torch.randn(20000, dtype=torch.float64) + 1,
    )

    def logits(x: Tensor) -> Tensor:
        return 0.5 - x  # log N(x; 0, 1) - log N(x; 1, 1)

    best = discriminator_objective("non_saturating", logits(x_real), logits(x_fake))
    for scale, shift in ((0.5, 0.0), (2.0, 0.0), (1.0, 0.5), (1.0, -0.5)):
        assert best < discriminator_objective(
            "non_saturating", scale * logits(x_real) + shift, scale * logits(x_fake) + shift
        )


def test_the_minimax_gradient_vanishes_and_the_other_does_not() -> None:
    fake = torch.full((1,), -10.0, requires_grad=True)
    slopes = [
        torch.autograd.grad(generator_objective(loss, fake), fake)[0].abs()
        for loss in ("minimax", "non_saturating")
    ]
    assert slopes[0] < 1e-4
    assert slopes[1] > 0.99


def test_hinge_is_satisfied_beyond_the_margin() -> None:
    assert discriminator_objective("hinge", torch.tensor([1.5]), torch.tensor([-1.5])) == 0
    assert discriminator_objective("hinge", torch.tensor([0.0]), torch.tensor([0.0])) == 2


def test_penalties_of_a_linear_critic_are_known() -> None:
    """The gradient of D(x) = <w, x> is w everywhere."""
    weight = torch.randn(3 * 4 * 4, dtype=torch.float64)
    real, fake = torch.randn(2, 5, 3, 4, 4, dtype=torch.float64)
    critic = lambda image: image.flatten(1) @ weight  # noqa: E731
    torch.testing.assert_close(gradient_penalty(critic, real, fake), (weight.norm() - 1) ** 2)
    torch.testing.assert_close(r1_penalty(critic, real), weight.square().sum() / 2)


def test_penalties_reach_the_weights() -> None:
    critic = nn.Linear(4, 1)
    gradient_penalty(critic, torch.randn(3, 4), torch.randn(3, 4)).backward()
    assert critic.weight.grad is not None
    assert critic.weight.grad.abs().sum() > 0


def test_spectral_norm_is_one_after_some_iterations() -> None:
    network = apply_spectral_norm(nn.Sequential(nn.Linear(20, 30), nn.ReLU(), nn.Linear(30, 1)))
    for _ in range(50):
        network(torch.randn(2, 20))
    for layer in (network[0], network[2]):
        assert torch.linalg.matrix_norm(layer.weight, 2).item() == pytest.approx(1, abs=1e-3)


def test_clipped_weights_stay_within() -> None:
    network = nn.Linear(5, 5)
    clip_weights(network, 0.01)
    assert max(p.abs().max() for p in network.parameters()) <= 0.01


def test_augmentation_moves_images_and_lets_gradients_through() -> None:
    image = torch.rand(64, 3, 16, 16).requires_grad_()
    augmented = diff_augment(image)
    assert augmented.shape == image.shape
    augmented.sum().backward()
    assert image.grad is not None
    assert (image.grad.flatten(1).abs().sum(1) > 0).all()
    zero = (augmented == 0).all(1).float().mean((1, 2))  # (N,) share of zero pixels
    assert zero.max() <= 0.25 + 2 * 2 / 16
    assert zero.min() < 0.2
    torch.manual_seed(5)
    one = diff_augment(image)
    torch.manual_seed(5)
    assert torch.equal(one, diff_augment(image))
    assert torch.equal(diff_augment(image, probability=0.0), image)
    many = image.repeat(32, 1, 1, 1)
    whole = ((diff_augment(many, probability=0.7) == 0).all(1).sum((1, 2)) == 0).float().mean()
    # neither cut nor shifted: the shift is 0 in each direction with probability 1/5
    assert whole == pytest.approx(0.3 * (0.3 + 0.7 / 25), abs=0.03)
    unchanged = (diff_augment(many, probability=0.7) == many).flatten(1).all(1).float().mean()
    assert unchanged == pytest.approx(0.3 * 0.3 * (0.3 + 0.7 / 25), abs=0.02)


def test_maxout_is_the_largest_of_its_pieces() -> None:
    layer, x = Maxout(6, 4, 5), torch.randn(3, 6)
    pieces = (x @ layer.weight.T + layer.bias).reshape(3, 4, 5)
    torch.testing.assert_close(layer(x), pieces.max(2).values)


def test_schedule_of_the_released_recipe() -> None:
    sgd = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1, momentum=0.5)
    schedule = GoodfellowSchedule(sgd, momentum_updates=10)
    for _ in range(5):
        sgd.step()
        schedule.step()
    assert sgd.param_groups[0]["lr"] == pytest.approx(0.1 / 1.000004**5)
    assert sgd.param_groups[0]["momentum"] == pytest.approx(0.6)
    again = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1, momentum=0.5)
    other = GoodfellowSchedule(again, momentum_updates=10)
    again.load_state_dict(sgd.state_dict())
    other.load_state_dict(schedule.state_dict())
    for one in (sgd, again):
        one.step()
    schedule.step()
    other.step()
    assert sgd.param_groups[0] == {**again.param_groups[0], "params": sgd.param_groups[0]["params"]}


def rates_of(updates: int, **options: int) -> list[float]:
    """Learning rates of `ConstantThenLinear` at each update, starting at 1."""
    sgd = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule, rates = ConstantThenLinear(sgd, **options), []
    for _ in range(updates):
        rates.append(sgd.param_groups[0]["lr"])
        sgd.step()
        schedule.step()
    return rates


def test_linear_decay() -> None:
    assert rates_of(8, constant=2, decay=4) == [1, 1, 1, 0.75, 0.5, 0.25, 0, 0]


def test_linear_decay_in_epochs_equals_the_releases() -> None:
    """The rates equal those of both released codes: constant within an epoch of three updates."""
    epochs = range(200)
    lua = [
        1 - max(0, e - 100) / 100 for e in epochs
    ]  # train.lua lowers the rate after epochs 101, 102, ... counted from 1
    pytorch = [
        1 - max(0, e + 1 - 100) / (100 + 1) for e in epochs
    ]  # networks.get_scheduler, stepped after each epoch
    for constant, decay, expected in ((300, 300, lua), (297, 303, pytorch)):
        rates = rates_of(600, constant=constant, decay=decay, every=3)
        assert rates == pytest.approx([rate for rate in expected for _ in range(3)], abs=1e-12)
    assert rates[3 * 99 : 3 * 100 + 1] == pytest.approx([1, 1, 1, 100 / 101]), (
        "the first lower rate is that of epoch 100"
    )
    assert rates[-1] == pytest.approx(1 / 101)


@pytest.mark.parametrize(
    ("name", "updates"), [("horse2zebra", 1334), ("monet2photo", 6287), ("vangogh2photo", 6287)]
)
def test_cyclegan_recipes_decay_as_the_release(name: str, updates: int) -> None:
    """One epoch has one update per image of the larger domain."""
    config = yaml.safe_load((ROOT / f"configs/cyclegan/{name}.yaml").read_text(encoding="utf-8"))
    options = [
        config["model"]["init_args"][f"{network}_schedule"]["init_args"]
        for network in ("generator", "discriminator")
    ]
    assert config["trainer"]["max_steps"] == 200 * updates
    assert options == [{"constant": 99 * updates, "decay": 101 * updates, "every": updates}] * 2
    assert config["model"]["init_args"]["lambda_identity"] == 5.0, (
        "half of lambda_cycle, as in the released code"
    )


def test_the_dcgan_recipe_for_digits_decays_as_the_release() -> None:
    """The rate is constant for 100 epochs of 195 updates and falls linearly to 0 over 100 more."""
    config = yaml.safe_load(
        (ROOT / "configs/dcgan/mnist_conditional.yaml").read_text(encoding="utf-8")
    )
    options = [
        config["model"]["init_args"][f"{network}_schedule"]["init_args"]
        for network in ("generator", "discriminator")
    ]
    assert config["trainer"]["max_epochs"] * (50_000 // 128) == 200 * 195
    assert options == [{"constant": 100 * 195, "decay": 100 * 195, "every": 195}] * 2


@pytest.mark.parametrize(
    "wrong",
    [
        {"loss": "hinge", "label_smoothing": 0.1},
        {"loss": "hinge", "penalty_weight": 10.0},
        {"loss": "wasserstein"},
        {"loss": "non_saturating", "weight_clip": 0.01},
    ],
    ids=str,
)
def test_contradictions_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"model\."):
        GAN(image_shape=[3, 4, 4], hidden=[8, 8], **wrong)


@pytest.mark.parametrize(
    ("system", "option", "value"),
    [
        ("GAN", "label_smoothing", "1.5"),
        ("GAN", "weight_clip", "-1"),
        ("DCGAN", "width", "0"),
        ("CycleGAN", "pool_size", "-1"),
        ("Pix2Pix", "lambda_l1", "-1"),
    ],
)
def test_values_out_of_range_are_refused_in_one_line(
    system: str, option: str, value: str, capsys: Any
) -> None:
    data = "OpenMojiPairs" if system in ("CycleGAN", "Pix2Pix") else "OpenMoji"
    argv = ["fit", "--model", system, "--data", data, f"--model.{option}={value}"]
    assert train.main(argv) == 2
    error = capsys.readouterr().err.strip()
    assert "\n" not in error
    assert option in error
    assert value in error


COMBINED = (
    "loss",
    "label_smoothing",
    "norm",
    "spectral",
    "penalty_weight",
    "r1_weight",
    "weight_clip",
    "augment",
    "n_critic",
    "simultaneous",
)


def combinations() -> dict[str, list[str]]:
    """Arguments of short runs on the ring or small emoji, by name of a GAN or DCGAN recipe.

    Each run has the losses, regularisers and optimizers of the recipe; duplicates are dropped.
    """
    small = ["--model.width=4", "--data.size=32", "--data.batch_size=16", "--data.max_samples=400"]
    runs = {
        "GAN": ["--config", "configs/gan/ring.yaml", "--model.r1_weight=0.0"],
        "DCGAN": ["--model", "DCGAN", "--data", "OpenMoji", *small],
    }
    recipe_of: dict[tuple[str, ...], str] = {}
    for path in recipes():
        model = yaml.safe_load(path.read_text(encoding="utf-8"))["model"]
        system = model["class_path"].rpartition(".")[2]
        if system not in runs:
            continue
        options = [
            f"--model.{name}={value if isinstance(value, str) else json.dumps(value)}"
            for name, value in model.get("init_args", {}).items()
            if name in COMBINED or name.endswith(("_optimizer", "_schedule"))
        ]
        arguments = (*runs[system], *options)
        recipe_of.setdefault(arguments, path.relative_to(ROOT / "configs").as_posix())
    return {name: list(arguments) for arguments, name in recipe_of.items()}


COMBINATIONS = combinations()


@pytest.mark.parametrize("recipe", COMBINATIONS)
def test_every_combination_of_losses_and_regularisers_stays_finite(
    recipe: str, tmp_path: Path
) -> None:
    argv = ["fit", *COMBINATIONS[recipe], "--run_dir", str(tmp_path / "run")]
    limits = [
        "--trainer.max_steps",
        "200",
        "--trainer.limit_val_batches",
        "0",
        "--previews.every_n_train_steps",
        "1000",
        "--trainer.log_every_n_steps",
        "10",
    ]
    assert train.main([*argv, *limits]) == 0
    with open(tmp_path / "run/metrics.csv", encoding="utf-8") as file:
        values = [float(value) for row in csv.DictReader(file) for value in row.values() if value]
    assert len(values) > 40
    assert all(map(math.isfinite, values))


@pytest.mark.parametrize("recipe", ["ring", "ring_wgan_gp"])
def test_losses_are_trained_in_bf16(recipe: str, tmp_path: Path) -> None:
    argv = [
        "fit",
        "--config",
        f"configs/gan/{recipe}.yaml",
        "--run_dir",
        str(tmp_path / "run"),
        "--trainer.precision",
        "bf16-mixed",
    ]
    assert train.main([*argv, "--trainer.max_steps", "20", "--trainer.limit_val_batches", "1"]) == 0


def test_clipped_weights_are_so_after_every_update(tmp_path: Path) -> None:
    argv = [
        "fit",
        "--config",
        "configs/gan/ring_wgan.yaml",
        "--run_dir",
        str(tmp_path / "run"),
        "--trainer.max_steps",
        "3",
    ]
    assert train.main([*argv, "--trainer.limit_val_batches", "0"]) == 0
    checkpoint = torch.load(tmp_path / "run/checkpoints/last.ckpt", weights_only=True)
    limit = checkpoint["hyper_parameters"]["weight_clip"]
    weights = [
        value
        for name, value in checkpoint["state_dict"].items()
        if name.startswith("discriminator.")
    ]
    assert max(value.abs().max() for value in weights) == pytest.approx(limit)


def recipe(path: str) -> dict[str, Any]:
    """Model arguments of a recipe."""
    init_args: dict[str, Any] = yaml.safe_load(
        (ROOT / "configs" / path).read_text(encoding="utf-8")
    )["model"]["init_args"]
    return init_args


def shapes(network: nn.Module) -> list[tuple[int, ...]]:
    return [tuple(parameter.shape) for parameter in network.parameters()]


def norm(channels: int) -> list[tuple[int, ...]]:
    """Shapes of a batch norm's gain and bias."""
    return [(channels,), (channels,)]


def test_networks_for_faces_are_the_released_ones() -> None:
    """Weights equal gw..gwx and dw..dwy of `faces/train_uncond_dcgan.py` with ngf = ndf = 128.

    Only batch norm has biases.
    """
    arguments = {
        name: value
        for name, value in recipe("dcgan/celeba.yaml").items()
        if not name.endswith("_optimizer")
    }
    model = DCGAN(image_shape=[3, 64, 64], **arguments)
    assert shapes(model.generator) == [
        *[(16384, 100), *norm(16384)],  # gw, normalised before it becomes 1024 channels of 4x4
        *[(1024, 512, 5, 5), *norm(512)],
        *[(512, 256, 5, 5), *norm(256)],
        *[(256, 128, 5, 5), *norm(128)],
        (128, 3, 5, 5),
    ]
    assert shapes(model.discriminator) == [
        (128, 3, 5, 5),
        *[(256, 128, 5, 5), *norm(256)],
        *[(512, 256, 5, 5), *norm(512)],
        *[(1024, 512, 5, 5), *norm(1024)],
        (1, 1024, 4, 4),  # dwy, (16384, 1)
    ]
    counts = [
        sum(parameter.numel() for parameter in network.parameters())
        for network in (model.generator, model.discriminator)
    ]
    assert counts == [18_885_760, 17_232_768]


def test_networks_for_digits_are_the_released_ones() -> None:
    """Weights equal gw..gwx and dw..dwy of `mnist/train_cond_dcgan.py` with ngf = ndf = 64.

    Each layer gets the label, and batch norm has no parameters.
    """
    model = DCGAN(image_shape=[1, 28, 28], num_classes=10, conditional=True, network="mnist")
    assert shapes(model.generator) == [(1024, 110), (6272, 1034), (138, 64, 5, 5), (74, 1, 5, 5)]
    assert shapes(model.discriminator) == [(64, 11, 5, 5), (128, 74, 5, 5), (1024, 6282), (1, 1034)]
    counts = [
        sum(parameter.numel() for parameter in network.parameters())
        for network in (model.generator, model.discriminator)
    ]
    assert counts == [6_820_538, 6_688_202]


@pytest.mark.parametrize("network", ["radford", "mnist"])
def test_batch_norm_has_the_released_epsilon(network: Any) -> None:
    model = DCGAN(
        image_shape=[1, *2 * [32 if network == "radford" else 28]], width=4, network=network
    )
    norms = [part for part in model.modules() if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d)]
    assert len(norms) == 5
    assert {part.eps for part in norms} == {1e-8}


@pytest.mark.parametrize(
    ("name", "decay"), [("celeba", 1e-5), ("celeba_hq", 1e-5), ("mnist_conditional", 2.5e-5)]
)
def test_recipes_have_the_released_weight_decay(name: str, decay: float) -> None:
    """Weight decay is the L2 term in Adam's gradient, not decoupled."""
    for network in ("generator", "discriminator"):
        optimizer = recipe(f"dcgan/{name}.yaml")[f"{network}_optimizer"]
        assert optimizer["class_path"] == "torch.optim.Adam"
        assert optimizer["init_args"] == {"lr": 2e-4, "betas": [0.5, 0.999], "weight_decay": decay}


@pytest.mark.parametrize(
    "path", sorted((ROOT / "configs/dcgan").glob("*.yaml")), ids=lambda path: path.stem
)
def test_a_smaller_dcgan_says_so(path: Path) -> None:
    """A recipe with fewer base channels than the released 128 says so in its header."""
    width = recipe(f"dcgan/{path.name}").get("width", 128)
    header = purpose(path)
    if "released" in header and recipe(f"dcgan/{path.name}").get("network") != "mnist":
        assert {128: "128", 64: "half"}[width] in header
    else:
        assert "paper's recipe" not in header


@pytest.mark.parametrize("size", [32, 64, 128])
@pytest.mark.parametrize("kernel", [4, 5])
def test_dcgan_sizes_and_start(size: int, kernel: int) -> None:
    model = DCGAN(image_shape=[3, size, size], width=4, kernel=kernel)
    images = model.sample([0, 1])
    assert images.shape == (2, 3, size, size)
    assert model.discriminator(images, None).shape == (2,)
    norms = [part for part in model.discriminator.modules() if isinstance(part, nn.BatchNorm2d)]
    assert len(norms) == len(channel_plan([3, size, size], 4)) - 1, (
        "no batch norm at the discriminator's input"
    )
    weights = torch.cat(
        [p.flatten() for name, p in model.generator.named_parameters() if p.dim() == 4]
    )
    assert weights.std().item() == pytest.approx(0.02, rel=0.05)


def test_dcgan_names_the_sizes_it_takes() -> None:
    with pytest.raises(UserError, match="32, 64 or 128"):
        DCGAN(image_shape=[3, 48, 48])


@pytest.mark.parametrize("system", [GAN, DCGAN])
def test_conditional_samples_follow_their_label(system: Any) -> None:
    model = system(
        image_shape=[1, 28, 28],
        num_classes=10,
        conditional=True,
        **({"network": "mnist"} if system is DCGAN else {}),
    )
    one, other = (model.sample([0], label=label) for label in (1, 2))
    assert not torch.equal(one, other)
    torch.testing.assert_close(model.sample([3, 13])[0], model.sample([3])[0], atol=1e-5, rtol=0)
    assert torch.equal(model.sample([3]), model.sample([3], label=3)), (
        "the class is the seed modulo the number of classes"
    )


@pytest.mark.parametrize(
    ("system", "kind", "edge"),
    [
        (GAN, "normal", math.inf),
        (GAN, "unit_uniform", 3**0.5),
        (DCGAN, "normal", math.inf),
        (DCGAN, "uniform", 1.0),
    ],
)
def test_noise_by_seed(system: Any, kind: str, edge: float) -> None:
    side = {GAN: 4, DCGAN: 32}[system]
    model = system(
        image_shape=[1, side, side],
        latent_dim=50,
        noise=kind,
        **({"width": 2} if system is DCGAN else {"hidden": [8, 8]}),
    )
    for noise in (model.seeded_noise(list(range(200)))[:, 0], model.draw_noise(200)):
        assert noise.shape == (200, 50)
        assert noise.abs().max() <= edge
        assert noise.mean().item() == pytest.approx(0, abs=0.05)
        assert noise.var().item() == pytest.approx({"uniform": 1 / 3}.get(kind, 1.0), rel=0.05)
    assert torch.equal(model.seeded_noise([7, 9])[1], model.seeded_noise([9])[0])


def test_interpolation() -> None:
    for model in (
        GAN(image_shape=[1, 4, 4], hidden=[8, 8], latent_dim=5),
        DCGAN(image_shape=[1, 32, 32], width=2, latent_dim=5),
    ):
        shape = model.hparams.image_shape
        assert model.sample([0, 1], mode="interpolate", steps=5).shape == (2, 5, *shape)
        torch.testing.assert_close(
            model.sample([0], mode="interpolate")[0, 0], model.sample([0])[0], atol=1e-6, rtol=0
        )


def test_arithmetic() -> None:
    model = DCGAN(image_shape=[1, 32, 32], width=2, latent_dim=5)
    same = model.sample([0], mode="arithmetic", base=[4], minus=[5], plus=[5])
    assert (same - model.sample([4])).abs().mean() < (same - model.sample([6])).abs().mean()
    groups: dict[str, Any] = {"base": [4], "minus": [5], "plus": [6]}
    still = model.sample([0], mode="arithmetic", **groups, truncation=1e-4)
    torch.testing.assert_close(still, model.eval().generator(torch.zeros(1, 5), None))
    with pytest.raises(UserError, match="--base"):
        model.sample([0], mode="arithmetic")


class MyDCGAN(DCGAN):
    """Subclass of a system, as a user would write it."""

    def __init__(self, extra: int = 1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.extra = extra


def test_a_subclass_with_keyword_arguments_trains_and_is_loaded_again(tmp_path: Path) -> None:
    model = MyDCGAN(extra=2, image_shape=[3, 32, 32], width=4, latent_dim=5, ema_decay=0.5)
    assert model.hparams.extra == 2
    assert model.hparams.width == 4
    assert model.hparams.ema_decay == 0.5
    before = [parameter.detach().clone() for parameter in model.generator.parameters()]
    trainer = Trainer(
        accelerator="cpu",
        max_steps=2,
        limit_val_batches=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(model, datamodule=OpenMoji(size=32, batch_size=8, max_samples=40))
    assert trainer.global_step == 2
    assert any(not torch.equal(*pair) for pair in zip(before, model.generator.parameters()))
    trainer.save_checkpoint(tmp_path / "model.ckpt")
    again = MyDCGAN.load_from_checkpoint(tmp_path / "model.ckpt", weights_only=True)
    assert (again.extra, again.latent_dim, again.ema_decay) == (2, 5, 0.5)
    assert torch.equal(again.sample([0]), model.sample([0]))
    assert torch.equal(load(tmp_path / "model.ckpt").sample([0]), model.sample([0]))


def test_every_network_of_a_dictionary_is_compiled() -> None:
    model = CycleGAN(image_shape=[3, 16, 16], width=2, blocks=1, patch=1)
    compile_networks(model, "eager")
    networks = [*model.generator.values(), *model.discriminator.values()]
    assert all(network._compiled_call_impl is not None for network in networks)


def test_compiled_networks_make_the_same_checkpoint(tmp_path: Path) -> None:
    """Compiling in place with a tracing backend changes neither names nor values."""
    argv = [
        "fit",
        "--config",
        "configs/gan/ring.yaml",
        "--trainer.max_steps",
        "6",
        "--trainer.limit_val_batches",
        "0",
    ]
    states = []
    for name, more in {"plain": [], "compiled": ["--compile", "eager"]}.items():
        assert train.main([*argv, "--run_dir", str(tmp_path / name), *more]) == 0
        states.append(
            torch.load(tmp_path / name / "checkpoints/last.ckpt", weights_only=True)["state_dict"]
        )
    assert states[0].keys() == states[1].keys()
    assert [
        name for name, value in states[0].items() if not torch.equal(value, states[1][name])
    ] == []


def test_gradient_penalties_are_not_compiled(capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["fit", "--config", "configs/gan/ring.yaml", "--compile", "inductor"]
    assert train.main([*argv, "--trainer.fast_dev_run", "1"]) == 2
    assert "torch.compile cannot differentiate gradients" in capsys.readouterr().err


def test_a_schedule_that_has_ended_is_not_extended(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """More updates would be made with a learning rate of 0."""
    end = ["--model.generator_schedule", "lightning_modules.optim.schedules.ConstantThenLinear"]
    end += ["--model.generator_schedule.constant", "2", "--model.generator_schedule.decay", "2"]
    end += ["--trainer.limit_val_batches", "0", "--trainer.max_steps"]
    argv = ["fit", "--config", "configs/gan/ring.yaml", "--run_dir", str(tmp_path)]
    assert train.main([*argv, *end, "4"]) == 0
    more = ["fit", "--run_dir", str(tmp_path), "--ckpt_path", "last", "--trainer.max_steps", "8"]
    assert train.main(more) == 2
    assert "the learning rate is 0 from update 4 on" in capsys.readouterr().err


def test_the_period_of_a_schedule_divides_its_length() -> None:
    sgd = torch.optim.SGD([nn.Parameter(torch.zeros(1))], 0.1)
    with pytest.raises(UserError, match=r"every \(100\) of ConstantThenLinear must divide"):
        ConstantThenLinear(sgd, 150, 150, every=100)


def test_schedules_of_a_metric_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    plateau = ["--model.generator_schedule", "ReduceLROnPlateau"]
    plateau += ["--model.generator_schedule.monitor", "val/loss_g"]
    assert train.main(["fit", "--config", "configs/gan/ring.yaml", "--dry_run", *plateau]) == 2
    assert "give another one than ReduceLROnPlateau" in capsys.readouterr().err


def noise_statistics(model: Any, batches: int) -> list[tuple[Tensor, Tensor]]:
    """Input mean and variance of each batch norm of the average, over batches of 100 samples."""
    seen: dict[nn.Module, list[Tensor]] = {}
    norms = [
        part for part in model.ema.modules() if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d)
    ]
    hooks = [
        norm.register_forward_pre_hook(
            lambda norm, x: seen.setdefault(norm, []).append(x[0].clone())
        )
        for norm in norms
    ]
    model.ema.train()
    state = {name: value.clone() for name, value in model.ema.state_dict().items()}
    with torch.no_grad():
        for _ in range(batches):
            model.ema.networks["generator"](model.draw_noise(100), None)
    for hook in hooks:
        hook.remove()
    model.ema.load_state_dict(state)
    model.ema.eval()
    moments = []
    for norm in norms:
        each = [x.transpose(0, 1).flatten(1) for x in seen[norm]]  # (C, values) of each batch
        moments.append(
            (
                torch.stack([x.mean(1) for x in each]).mean(0),
                torch.stack([x.var(1) for x in each]).mean(0),
            )
        )
    return moments


def running_statistics(generator: nn.Module) -> list[tuple[Tensor, Tensor]]:
    norms: list[Any] = [
        part for part in generator.modules() if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d)
    ]
    return [(norm.running_mean, norm.running_var) for norm in norms]


@pytest.fixture(scope="module")
def averaged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run of a small DCGAN whose averaged generator differs much from the trained one."""
    run = tmp_path_factory.mktemp("averaged") / "run"
    model = [
        "--model.width",
        "8",
        "--model.kernel",
        "4",
        "--model.ema_decay",
        "0.98",
        "--data.size",
        "32",
        "--data.batch_size",
        "32",
    ]
    limits = [
        "--trainer.max_steps",
        "90",
        "--trainer.limit_val_batches",
        "0",
        "--previews.every_n_train_steps",
        "1000",
    ]
    assert (
        train.main(
            [
                "fit",
                "--model",
                "DCGAN",
                "--data",
                "OpenMoji",
                "--run_dir",
                str(run),
                *model,
                *limits,
            ]
        )
        == 0
    )
    return run


def test_an_averaged_generator_has_the_batch_norm_statistics_of_its_own_activations(
    averaged: Path,
) -> None:
    """Statistics of the average are within 2 % of those of new noise; the trained ones are not."""
    model = load(averaged / "checkpoints/last.ckpt")
    far = 0.0
    for (mean, variance), (true_mean, true_variance), (_, trained) in zip(
        running_statistics(model.ema),
        noise_statistics(model, 50),
        running_statistics(model.generator),
        strict=True,
    ):
        assert (variance / true_variance).mean().item() == pytest.approx(1, abs=0.02)
        assert ((mean - true_mean).square() / true_variance).mean().item() < 0.02
        far = max(far, (trained / true_variance).mean().item())
    assert far > 1.2


def test_sampling_recomputes_the_statistics_of_an_averaged_generator(averaged: Path) -> None:
    """Recomputed statistics depend on the weights only, and no random state changes."""
    model = load(averaged / "checkpoints/last.ckpt")
    found = [value.clone() for value in model.ema.networks.buffers()]
    for value in model.ema.networks.buffers():
        value.zero_()
    model._uncalibrated = True
    before, modes = torch.get_rng_state(), [part.training for part in model.modules()]
    model.sample([0])
    assert torch.equal(before, torch.get_rng_state())
    assert [part.training for part in model.modules()] == modes
    assert all(
        torch.equal(one, other)
        for one, other in zip(model.ema.networks.buffers(), found, strict=True)
    )
    assert all(
        norm.momentum == 0.1
        for norm in model.ema.modules()
        if isinstance(norm, nn.BatchNorm1d | nn.BatchNorm2d)
    )


def test_synchronised_batch_norm_is_refused() -> None:
    """A preview on rank 0 would wait for the statistics of the other ranks."""
    model = nn.SyncBatchNorm.convert_sync_batchnorm(DCGAN(image_shape=[3, 32, 32], width=8))
    with pytest.raises(UserError, match=r"trainer\.sync_batchnorm"):
        model.configure_optimizers()


def test_every_calibration_of_pix2pix_reads_the_same_number_of_images() -> None:
    """Calibration reads 1,280 different training images, here with batches of one image."""
    data = OpenMojiPairs(size=32, paired=True, batch_size=1)
    model = Pix2Pix(image_shape=[3, 32, 32], width=8, patch=16, ema_decay=0.9)
    model._trainer = SimpleNamespace(datamodule=data)  # type: ignore[assignment]
    index = torch.cat([batch["index"] for batch in model.calibration_batches()])
    assert len(index) == 1280
    assert len(index.unique()) == 1280


@pytest.mark.parametrize(("statistics", "used"), [("image", False), ("running", True)])
def test_pix2pix_estimates_only_statistics_that_it_uses(
    statistics: Any, used: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = Pix2Pix([3, 32, 32], width=8, patch=16, test_statistics=statistics, ema_decay=0.9)
    monkeypatch.setattr(Pix2Pix, "has_averaged_weights", True)
    read: list[int] = []
    monkeypatch.setattr(model, "calibration_batches", lambda: read.append(1) or [])
    model._uncalibrated = True
    model.calibrate()
    assert bool(read) == used


def test_an_empty_list_of_layers_is_a_linear_discriminator() -> None:
    model = GAN([1, 4, 4], hidden=[8, 8], discriminator_hidden=[])
    assert [tuple(part.shape) for part in model.discriminator.parameters()] == [(1, 16), (1,)]


class Start(Callback):
    """Stores the output biases at the start of training."""

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step == 0:
            self.bias, self.average = (
                network.output.bias.detach().clone()
                for network in (pl_module.generator, pl_module.ema.networks["generator"])
            )


class Framed(ImageDataModule):
    """Noise images of increasing brightness, with a black first and a white last row."""

    data_spec = {"image_shape": [1, 4, 4]}

    def load_split(self, split: str) -> InMemoryImages:
        images = (
            torch.randint(200, (1100, 1, 4, 4), generator=torch.Generator().manual_seed(0))
            + torch.arange(1100)[:, None, None, None] // 20
        )
        images[:, :, 0], images[:, :, 3] = 0, 255
        return InMemoryImages(images.to(torch.uint8), torch.zeros(1100, dtype=torch.int64))


def test_maxout_begins_with_the_training_set_s_mean() -> None:
    """Output biases start as logits of the mean training image, clipped at 1e-7."""
    data, start = Framed(batch_size=8), Start()
    quiet: dict[str, Any] = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    model = GAN(image_shape=[1, 4, 4], network="maxout", ema_decay=0.9)
    Trainer(accelerator="cpu", max_steps=1, limit_val_batches=0, callbacks=[start], **quiet).fit(
        model, datamodule=data
    )
    images: Any = data.split("train")
    mean = images.images.numpy().astype(np.float64).mean(0).ravel() / 255
    clipped = mean.clip(1e-7, 1 - 1e-7)
    expected = np.log(clipped) - np.log(1 - clipped)
    np.testing.assert_allclose(start.bias.numpy(), expected, rtol=1e-5, atol=1e-5)
    assert (
        start.bias.max().item()
        == -start.bias.min().item()
        == pytest.approx(math.log(1e7), rel=1e-4)
    )
    assert torch.equal(start.bias, start.average)


@pytest.mark.parametrize("name", ["discriminator_loss", "generator_loss"])
def test_a_loss_without_the_scalar_is_named(name: str, tmp_path: Path) -> None:
    def lossless(self: GAN, batch: dict[str, Any], generated: Tensor) -> dict[str, Tensor]:
        return {"total": generated.sum()}

    lossless.__qualname__ = f"Lossless.{name}"
    model = type("Lossless", (GAN,), {name: lossless})(image_shape=[1, 4, 4])
    trainer = Trainer(
        accelerator="cpu",
        max_steps=1,
        limit_val_batches=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
    )
    with pytest.raises(UserError, match=f"Lossless.{name} returned no 'loss'; it returned total"):
        trainer.fit(model, datamodule=Framed(batch_size=8))


def test_maxout_resumes_with_the_bias_it_has(tmp_path: Path) -> None:
    argv = [
        "fit",
        "--model",
        "GAN",
        "--model.network",
        "maxout",
        "--data",
        "OpenMoji",
        "--data.size",
        "16",
        "--data.batch_size",
        "8",
    ]
    limits = [
        "--data.max_samples",
        "40",
        "--trainer.limit_val_batches",
        "0",
        "--checkpoint.every_n_train_steps",
        "1",
    ]
    for run, steps in (("straight", ["2"]), ("resumed", ["1", "2"])):
        for step in steps:
            resume = ["--ckpt_path", "last"] if step != steps[0] else []
            assert (
                train.main(
                    [
                        *argv,
                        *limits,
                        "--run_dir",
                        str(tmp_path / run),
                        "--trainer.max_steps",
                        step,
                        *resume,
                    ]
                )
                == 0
            )
    assert run_differences(tmp_path / "straight", tmp_path / "resumed") == []


def test_averages_of_a_new_run_begin_with_the_weights_it_was_given() -> None:
    """With --init_from a run without averages, averages start at the given weights."""
    source = GAN(image_shape=[1, 8, 8], hidden=[8, 8], latent_dim=2)
    model = GAN(image_shape=[1, 8, 8], hidden=[8, 8], latent_dim=2, ema_decay=0.999)
    copy_weights(model, source.state_dict())
    average = model.ema.networks["generator"].state_dict()
    for name, value in source.generator.state_dict().items():
        assert torch.equal(average[name], value), name
