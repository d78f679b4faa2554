"""CycleGAN and pix2pix: losses, networks, image pool, resumed and parallel runs, translation."""

import csv
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

import sample
import train
from cli import image_inputs
from common.errors import UserError
from lightning_modules import load
from lightning_modules.core.modes import frozen
from lightning_modules.cyclegan import CycleGAN, ImagePool, ResnetGenerator, adam
from lightning_modules.nn.patch_discriminator import PatchDiscriminator, smallest_side
from lightning_modules.pix2pix import Pix2Pix, StatisticsBatchNorm, UNet
from tests.runs import run_differences
from tests.test_parallel import fit

CONSTANT, DECAY = 2, 6
SCHEDULE = {
    "class_path": "lightning_modules.optim.schedules.ConstantThenLinear",
    "init_args": {"constant": CONSTANT, "decay": DECAY},
}


def random_images(count: int = 2, side: int = 16, seed: int = 0) -> Tensor:
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def cyclegan(**options: Any) -> CycleGAN:
    return CycleGAN(
        image_shape=[3, 16, 16],
        **{"width": 4, "blocks": 1, "patch": 16, "lambda_identity": 5.0, **options},
    )


def pix2pix(**options: Any) -> Pix2Pix:
    return Pix2Pix(image_shape=[3, 16, 16], **{"width": 4, "patch": 16, **options})


BATCH = {
    "a": random_images(seed=1),
    "b": random_images(seed=2),
    "paired": False,
    "index": torch.arange(2),
}


# Losses


def test_identity_generators_have_no_cycle_and_no_identity_loss() -> None:
    """Only Eq. 2 and the identity loss are zero."""
    model = cyclegan()
    model.generator = nn.ModuleDict({"a2b": nn.Identity(), "b2a": nn.Identity()})
    losses = model.generator_losses(BATCH, model.generate(BATCH))
    assert {name for name, value in losses.items() if value == 0} == {
        "cycle_a",
        "cycle_b",
        "identity_a",
        "identity_b",
    }
    assert losses["gan_a2b"] > 0


class Shift(nn.Module):
    """Network that adds a number to its input."""

    def __init__(self, by: float) -> None:
        super().__init__()
        self.by = by

    def forward(self, x: Tensor) -> Tensor:
        return x + self.by


def test_eq_1_to_3_with_known_networks() -> None:
    """Generators add 0.3 and 0.1, and discriminators return 0.25: losses are known."""
    model = cyclegan(lambda_cycle=10.0)
    model.generator = nn.ModuleDict({"a2b": Shift(0.3), "b2a": Shift(0.1)})
    constant = nn.Sequential(nn.Flatten(), Shift(0.0))
    constant.forward = lambda x: torch.full((len(x), 1, 2, 2), 0.25)  # type: ignore[method-assign]
    model.discriminator = nn.ModuleDict({"a": constant, "b": constant})
    losses = model.generator_losses(BATCH, model.generate(BATCH))
    expected = {
        "gan_a2b": 0.75**2,
        "gan_b2a": 0.75**2,
        "cycle_a": 0.4,
        "cycle_b": 0.4,
        "identity_a": 0.1,
        "identity_b": 0.3,
    }
    assert {name: value.item() for name, value in losses.items()} == pytest.approx(
        expected, abs=1e-6
    )
    assert model.weigh(losses).item() == pytest.approx(2 * 0.75**2 + 10 * 0.8 + 5 * 0.4, abs=1e-5)
    fake = model.generate(BATCH)
    assert model.domain_loss("b", BATCH["b"], fake["b"]).item() == pytest.approx(
        (0.75**2 + 0.25**2) / 2
    )


@torch.no_grad()
def test_errors_of_translations_are_those_of_the_averaged_generator() -> None:
    model = cyclegan(ema_decay=0.9).eval()
    batch = {"a": random_images(), "b": random_images(seed=1)}
    trained = model.generate(batch)
    assert model.averaged_output(batch, trained) is trained  # before the first update
    assert model.ema is not None
    for parameter in model.ema.parameters():
        parameter.mul_(2)
    model.ema.updates += 1
    with model.averaged_weights():
        expected = model.generate(batch)
    found = model.averaged_output(batch, trained)
    torch.testing.assert_close(found, expected)
    assert (found["a"] - trained["a"]).abs().max() > 0.01


def test_swapping_the_domains_swaps_every_loss() -> None:
    model = cyclegan(pool_size=0)
    there = model.generator_losses(BATCH, model.generate(BATCH))
    losses_d = {x: model.domain_loss(x, BATCH[x], model.generate(BATCH)[x]) for x in "ab"}
    model.generator = nn.ModuleDict({"a2b": model.generator["b2a"], "b2a": model.generator["a2b"]})
    model.discriminator = nn.ModuleDict(
        {"a": model.discriminator["b"], "b": model.discriminator["a"]}
    )
    swapped = {**BATCH, "a": BATCH["b"], "b": BATCH["a"]}
    back = model.generator_losses(swapped, model.generate(swapped))
    names = {"gan_a2b": "gan_b2a", "cycle_a": "cycle_b", "identity_a": "identity_b"}
    for one, other in names.items():
        assert torch.equal(there[one], back[other]), one
        assert torch.equal(there[other], back[one]), other
        assert not torch.equal(there[one], there[other])
    assert torch.equal(
        losses_d["a"], model.domain_loss("b", swapped["b"], model.generate(swapped)["b"])
    )


@pytest.mark.parametrize(
    ("options", "left"),
    [
        ({}, {"gan_a2b", "gan_b2a", "cycle_a", "cycle_b"}),
        ({"lambda_cycle": 0}, {"gan_a2b", "gan_b2a"}),
        ({"lambda_gan": 0}, {"cycle_a", "cycle_b"}),
        ({"cycle": "forward"}, {"gan_a2b", "gan_b2a", "cycle_a"}),
        ({"cycle": "backward"}, {"gan_a2b", "gan_b2a", "cycle_b"}),
        (
            {"lambda_identity": 5.0},
            {"gan_a2b", "gan_b2a", "cycle_a", "cycle_b", "identity_a", "identity_b"},
        ),
    ],
)
def test_each_loss_can_be_left_out(options: dict[str, Any], left: set[str]) -> None:
    model = cyclegan(**{"lambda_identity": 0.0, **options})
    losses = model.generator_losses(BATCH, model.generate(BATCH))
    assert set(losses) == left
    every = model.generator_losses(BATCH, model.generate(BATCH), every=True)
    assert len(every) == 6, "validation logs adversarial, cycle and identity losses at any weight"
    torch.testing.assert_close(model.weigh(every), model.weigh(losses))


def test_no_loss_at_all_is_refused() -> None:
    with pytest.raises(UserError, match="are all 0: give at least one of them a positive value"):
        cyclegan(lambda_gan=0, lambda_cycle=0, lambda_identity=0)


@pytest.mark.parametrize("model", [cyclegan(), pix2pix()], ids=["cyclegan", "pix2pix"])
def test_gradients_of_either_network_do_not_reach_the_other(model: Any) -> None:
    model.log_train = lambda **values: None
    generated = model.generate(BATCH)
    detached = (
        {name: value.detach() for name, value in generated.items()}
        if isinstance(generated, dict)
        else generated.detach()
    )
    model.discriminator_loss(BATCH, detached)["loss"].backward()
    assert all(p.grad is None for p in model.generator.parameters())
    assert all(p.grad is not None for p in model.discriminator.parameters())
    model.zero_grad()
    with frozen(model.discriminator):
        model.generator_loss(BATCH, generated)["loss"].backward()
    assert all(p.grad is None for p in model.discriminator.parameters())
    assert all(p.grad is not None for p in model.generator.parameters())


@pytest.mark.parametrize("conditional", [True, False])
def test_pix2pix_eq_1_to_4(conditional: bool) -> None:
    """D minimises half the negated Eq. 1 (or 2), G minimises -log D + lambda * Eq. 3."""
    model = pix2pix(loss="l1+cgan" if conditional else "l1+gan")
    generated = random_images(seed=3)
    discriminate = lambda b: (  # noqa: E731
        model.discriminator(torch.cat([BATCH["a"], b], 1) if conditional else b).sigmoid().double()
    )
    real, fake = discriminate(BATCH["b"]), discriminate(generated)
    torch.testing.assert_close(
        model.discriminator_loss(BATCH, generated)["loss"].double(),
        -(real.log().mean() + (1 - fake).log().mean()) / 2,
        atol=1e-6,
        rtol=1e-5,
    )
    losses = model.generator_losses(BATCH, generated)
    torch.testing.assert_close(losses["l1"], (generated - BATCH["b"]).abs().mean())
    torch.testing.assert_close(losses["gan"].double(), -fake.log().mean(), atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(model.weigh(losses), losses["gan"] + 100 * losses["l1"])


@pytest.mark.parametrize(
    ("loss", "weights"),
    [
        ("l1", (100, None)),
        ("gan", (0, 1)),
        ("cgan", (0, 1)),
        ("l1+gan", (100, 1)),
        ("l1+cgan", (100, 1)),
    ],
)
def test_losses_of_table_1(loss: Any, weights: tuple[int, int | None]) -> None:
    model = pix2pix(loss=loss)
    losses = model.generator_losses(BATCH, model.generate(BATCH))
    expected = weights[0] * losses["l1"] + (losses["gan"] if weights[1] else 0)
    assert ("gan" in losses) == (weights[1] is not None)
    torch.testing.assert_close(model.weigh(losses), expected)
    assert model.conditional == (loss not in ("gan", "l1+gan"))


# Networks


@pytest.mark.parametrize("patch", [1, 16, 70, 286])
def test_a_logit_sees_its_patch(patch: Any) -> None:
    """The receptive field of a logit is a square with side `patch`."""
    side = max(320, smallest_side(patch))
    network = PatchDiscriminator(1, 1, patch, "instance", side)
    for part in network:
        if isinstance(part, nn.Conv2d):
            nn.init.constant_(part.weight, 1.0)
    network = nn.Sequential(
        *[part for part in network if not isinstance(part, nn.InstanceNorm2d)]
    )  # its statistics depend on all pixels
    image = torch.rand(1, 1, side, side, requires_grad=True)
    logits = network(image)
    logits[0, 0, logits.shape[2] // 2, logits.shape[3] // 2].backward()
    assert image.grad is not None
    seen = image.grad[0, 0] != 0
    assert (seen.any(0).sum(), seen.any(1).sum()) == (patch, patch)


@pytest.mark.parametrize("patch", [16, 70, 286])
def test_a_patch_names_the_sizes_it_takes(patch: Any) -> None:
    side = smallest_side(patch)
    assert PatchDiscriminator(3, 2, patch, "batch", side)(random_images(1, side)).shape[2] == 1
    with pytest.raises(
        UserError,
        match=rf"model.patch {patch} needs images of at least {side} pixels \(got .*\): use 1",
    ):
        PatchDiscriminator(3, 2, patch, "batch", side - 1)


def parameters(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def test_networks_have_the_papers_size() -> None:
    """Parameter counts equal those of the released code, except for biases before norms."""
    biases_g = 64 + 128 + 256 + 9 * 2 * 256 + 128 + 64
    assert parameters(ResnetGenerator(3, 64, 9)) + biases_g == 11_378_179
    assert parameters(PatchDiscriminator(3, 64, 70, "instance", 256)) + 128 + 256 + 512 == 2_764_737
    assert parameters(UNet(3, 64, 8, "image")) == pytest.approx(
        54_413_955, abs=600
    )  # biases of two layers without norm
    assert parameters(PatchDiscriminator(6, 64, 70, "batch", 256)) == 2_768_705
    assert (
        sum(
            isinstance(part, nn.InstanceNorm2d)
            for part in CycleGAN([3, 128, 128], width=2).generator["a2b"].modules()
        )
        == 5 + 6 * 2
    )
    assert (
        sum(
            isinstance(part, nn.InstanceNorm2d)
            for part in CycleGAN([3, 256, 256], width=2).generator["a2b"].modules()
        )
        == 5 + 9 * 2
    )


@pytest.mark.parametrize("side", [16, 32, 64, 128, 256])
def test_u_net_goes_down_to_one_pixel_and_back(side: int) -> None:
    model = Pix2Pix([3, side, side], width=2, patch=1)
    assert model.levels == int(math.log2(side))
    assert model.generator(random_images(1, side)).shape == (1, 3, side, side)
    assert model.sample([0], batch={"a": random_images(1, 2 * side)}).shape[2] == 2 * side
    with pytest.raises(UserError, match=f"multiples of {side}"):
        model.sample([0], batch={"a": random_images(1, side + 2)})


def test_weights_begin_as_in_the_papers() -> None:
    for network in (cyclegan(width=32).generator, pix2pix(width=32).discriminator):
        weights = torch.cat([p.flatten() for p in network.parameters() if p.dim() == 4])
        assert weights.std().item() == pytest.approx(0.02, rel=0.05)


def test_statistics_of_one_image_are_a_batch_of_one() -> None:
    """At test time, each image is normalised like a training batch of one image."""
    norm, x = StatisticsBatchNorm(3, "image"), random_images(4)
    nn.init.normal_(norm.weight)
    trained = torch.cat(
        [F.batch_norm(one[None], None, None, norm.weight, norm.bias, training=True) for one in x]
    )
    torch.testing.assert_close(norm.eval()(x), trained, atol=1e-5, rtol=1e-5)
    running = StatisticsBatchNorm(3, "running")
    running(x)
    torch.testing.assert_close(
        running.eval()(x), F.batch_norm(x, running.running_mean, running.running_var)
    )


def test_dropout_is_the_noise_also_when_sampling() -> None:
    """An image depends on its own seed only; dropout zeroes half of the values."""
    model = pix2pix()
    batch = {"a": BATCH["a"][:1].repeat(3, 1, 1, 1)}
    drawn = model.sample([5, 6, 5], batch=batch)
    assert torch.equal(drawn[0], drawn[2])
    assert not torch.equal(drawn[0], drawn[1])
    torch.testing.assert_close(
        drawn[1:2], model.sample([6], batch={"a": BATCH["a"][:1]}), atol=1e-6, rtol=0
    )
    dropped = UNet.drop(torch.ones(50, 8, 8, 8), 3, list(range(50)))
    assert set(dropped.unique().tolist()) == {0.0, 2.0}
    assert dropped.mean().item() == pytest.approx(1, abs=0.05)
    levels = [UNet.drop(torch.ones(1, 8, 8, 8), level, [0]) for level in (2, 3)]
    assert not torch.equal(*levels), "each level has noise of its own"


# The pool


def test_pool_by_exact_trace() -> None:
    """Batches of one equal a plain implementation of the paper with the same random numbers."""
    pool, kept = ImagePool(5), []
    torch.manual_seed(3)
    answers = [pool.query(torch.full((1, 1, 1, 1), float(step))).item() for step in range(60)]
    torch.manual_seed(3)
    for step, answer in enumerate(answers):
        expected = float(step)
        if len(kept) < 5:
            kept.append(expected)
        else:
            slot, swap = int(torch.randperm(5)[0]), bool(torch.rand(1) < 0.5)
            if swap:
                expected, kept[slot] = kept[slot], expected
        assert answer == expected, step
    assert pool.images is not None
    assert pool.images.flatten().tolist() == kept


@pytest.mark.parametrize("batch", [1, 3, 8, 70])
def test_pool_statistics(batch: int) -> None:
    """Half of the returned images are old, none repeats; the mean age is twice the pool size."""
    pool, size, count = ImagePool(50), 50, 8400 // batch * batch
    torch.manual_seed(0)
    asked = torch.arange(count, dtype=torch.float32).view(-1, 1, 1, 1)
    answers = torch.cat([pool.query(part) for part in asked.split(batch)])
    assert answers.shape == asked.shape
    old = (answers != asked).flatten()[size:]
    assert old.float().mean().item() == pytest.approx(0.5, abs=0.03)
    replayed = answers.flatten()[size:][old]
    assert len(replayed.unique()) == len(replayed)
    age = (asked.flatten()[size:][old] - replayed).mean().item()
    assert age == pytest.approx(2 * size, rel=0.25 if batch < size else 0.6)
    assert torch.equal(answers[:size], asked[:size]), "a pool that is not full returns its input"


def test_no_pool_answers_with_what_it_is_given() -> None:
    pool, images = ImagePool(0), random_images()
    assert pool.query(images) is images


def test_pool_does_not_change_what_it_was_given() -> None:
    pool = ImagePool(2)
    for seed in range(8):
        images = random_images(3, seed=seed)
        before = images.clone()
        pool.query(images)
        assert torch.equal(images, before)


# Runs


def tiny(path: Path, system: str, **model: Any) -> Path:
    config = {
        "model": {
            "class_path": {
                "cyclegan": "lightning_modules.cyclegan.CycleGAN",
                "pix2pix": "lightning_modules.pix2pix.Pix2Pix",
            }[system],
            "init_args": {
                "width": 4,
                "patch": 16,
                "generator_schedule": SCHEDULE,
                "discriminator_schedule": SCHEDULE,
                **model,
            },
        },
        "data": {
            "class_path": "datamodules.pairs.openmoji.OpenMojiPairs",
            "init_args": {
                "size": 16,
                "load_size": 32,
                "flip": True,
                "paired": system == "pix2pix",
                "eval_batch_size": 64,
            },
        },
        "trainer": {"log_every_n_steps": 1, "max_steps": CONSTANT + DECAY, "limit_val_batches": 1},
    }
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    return path


@pytest.mark.parametrize("system", ["cyclegan", "pix2pix"])
def test_a_run_resumed_in_its_decay_goes_on_along_the_same_line(
    system: str, tmp_path: Path
) -> None:
    """A run stopped before and during the decay ends bit for bit like an uninterrupted run."""
    model = {"pool_size": 3, "blocks": 1} if system == "cyclegan" else {}
    argv = [
        "fit",
        "--config",
        str(tiny(tmp_path / "c.yaml", system, **model)),
        "--data.batch_size",
        "2",
    ]
    assert train.main([*argv, "--run_dir", str(tmp_path / "one")]) == 0
    for step in (1, 5):
        stop = [
            "--trainer.callbacks+=tests.runs.TerminateAt",
            "--trainer.callbacks.step",
            str(step),
        ]
        more = ["--ckpt_path", "last"] if step > 1 else []
        assert train.main([*argv, "--run_dir", str(tmp_path / "two"), *stop, *more]) == 143
    assert train.main([*argv, "--run_dir", str(tmp_path / "two"), "--ckpt_path", "last"]) == 0
    assert run_differences(tmp_path / "one", tmp_path / "two") == []
    with open(tmp_path / "two/metrics.csv", encoding="utf-8") as file:
        rates = [float(row["train/lr"]) for row in csv.DictReader(file) if row["train/lr"]]
    line = [2e-4 * min(1.0, (CONSTANT + DECAY - step) / DECAY) for step in range(CONSTANT + DECAY)]
    assert rates == pytest.approx(line)


# Small learning rate: instance norm after small weights and the sign gradient of absolute errors
# amplify rounding errors.
SGD = {"class_path": "torch.optim.SGD", "init_args": {"lr": 1e-4, "momentum": 0.5}}
PARALLEL: dict[str, Any] = {
    "model": {
        "class_path": "lightning_modules.cyclegan.CycleGAN",
        "init_args": {
            **{"width": 4, "blocks": 1, "patch": 16, "lambda_identity": 5.0, "pool_size": 0},
            **{"generator_optimizer": SGD, "discriminator_optimizer": SGD},
        },
    },
    "data": {
        "class_path": "datamodules.pairs.openmoji.OpenMojiPairs",
        "init_args": {"size": 16, "paired": True, "max_samples": 16, "eval_batch_size": 16},
    },
    "trainer": {
        "max_epochs": 2,
        "accelerator": "cpu",
        "log_every_n_steps": 1,
        "limit_val_batches": 1,
    },
}


def test_two_processes_equal_one_with_the_joined_batch(tmp_path: Path) -> None:
    """Ranks are bit-identical, and their total update equals the joined batch's to 0.1 %."""
    one, other = fit(tmp_path / "two", PARALLEL, "--trainer.devices", "2", "--data.batch_size", "2")
    (joined,) = fit(tmp_path / "one", PARALLEL, "--trainer.devices", "1", "--data.batch_size", "4")
    before = torch.load(tmp_path / "one/seen/rank0-epoch0.pt", weights_only=True)["state"]
    for name, value in one["state"].items():
        assert torch.equal(value, other["state"][name]), name
        way = (joined["state"][name] - before[name]).norm()
        assert way > 0, name
        assert (value - joined["state"][name]).norm() < 1e-3 * way, name


def test_every_rank_keeps_a_pool_of_its_own(tmp_path: Path) -> None:
    """A checkpoint has the pools of all ranks, and a resumed run equals an uninterrupted one."""
    common = ["--trainer.devices", "2", "--data.batch_size", "2", "--model.pool_size", "3"]
    fit(tmp_path / "whole", PARALLEL, *common)
    pools = torch.load(tmp_path / "whole/run/checkpoints/last.ckpt", weights_only=True)["pools"]
    assert [pool["a"]["count"] for pool in pools] == [3, 3]
    assert not torch.equal(pools[0]["a"]["images"], pools[1]["a"]["images"])
    fit(
        tmp_path / "half",
        PARALLEL,
        *common,
        "--trainer.max_steps",
        "6",
        "--checkpoint.every_n_train_steps",
        "6",
    )
    last = str(tmp_path / "half/run/checkpoints/last.ckpt")
    fit(tmp_path / "rest", PARALLEL, *common, "--ckpt_path", last, "--trainer.max_steps", "-1")
    tables = ["metrics.csv", "health.csv"]  # these start at the resumed step
    assert run_differences(tmp_path / "whole/run", tmp_path / "rest/run") == tables


# Translation of the user's images


@pytest.fixture(scope="module")
def translators(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Checkpoints of CycleGAN and pix2pix after one update."""
    home = tmp_path_factory.mktemp("translators")
    for system in ("cyclegan", "pix2pix"):
        argv = [
            "fit",
            "--config",
            str(tiny(home / f"{system}.yaml", system)),
            "--trainer.max_steps",
            "1",
        ]
        assert train.main([*argv, "--data.batch_size", "1", "--run_dir", str(home / system)]) == 0
    return {system: home / system / "checkpoints/last.ckpt" for system in ("cyclegan", "pix2pix")}


def write_image(path: Path, height: int, width: int, mode: str = "RGB") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(height * width).integers(0, 255, (height, width, 3), np.uint8)
    Image.fromarray(noise).convert(mode).save(path)


def test_a_folder_is_translated_under_its_names_and_sizes(
    translators: dict[str, Path], tmp_path: Path, capsys: Any
) -> None:
    """Unreadable images and wrong sizes are reported, and all other images are translated."""
    good = {"a.png": (16, 16), "b.png": (32, 48), "deep/c.jpg": (16, 16), "grey.png": (16, 16)}
    for name, (height, width) in good.items():
        write_image(tmp_path / "in" / name, height, width, "L" if name == "grey.png" else "RGB")
    checkpoint, out = str(translators["cyclegan"]), tmp_path / "out"
    assert (
        sample.main(
            [checkpoint, "--input", str(tmp_path / "in"), "--direction", "b2a", "--out", str(out)]
        )
        == 0
    )
    for name, (height, width) in good.items():
        assert Image.open(out / name).size == (width, height)
    alone = tmp_path / "alone"
    assert (
        sample.main(
            [
                checkpoint,
                "--input",
                str(tmp_path / "in/b.png"),
                "--direction",
                "b2a",
                "--out",
                str(alone),
            ]
        )
        == 0
    )
    assert (alone / "b.png").read_bytes() == (out / "b.png").read_bytes()
    translated = load(checkpoint).sample(
        [0],
        batch={
            "b": torch.from_numpy(np.array(Image.open(tmp_path / "in/b.png"))).permute(2, 0, 1)[
                None
            ]
            / 127.5
            - 1
        },
        direction="b2a",
    )
    shown = np.array(Image.open(out / "b.png")).transpose(2, 0, 1) / 127.5 - 1
    assert abs(shown - translated[0].numpy()).max() < 0.5 / 127.5 + 1e-4

    write_image(tmp_path / "in/odd.png", 17, 16)
    (tmp_path / "in/broken.png").write_bytes(b"no picture")
    capsys.readouterr()
    assert (
        sample.main([checkpoint, "--input", str(tmp_path / "in"), "--out", str(tmp_path / "again")])
        == 2
    )
    err = capsys.readouterr().err
    assert "warning: " + str(tmp_path / "in/broken.png") in err
    assert (
        "odd.png: images of 17x16: sides must be multiples of 4 and at least 8 "
        "(resize the images to a height of 16 or 20 and a width of 16 or 20)" in err
    )
    assert "error: 2 of 6 images could not be translated" in err.splitlines()[-1]
    assert len(list((tmp_path / "again").rglob("*.*"))) == 4


@pytest.mark.parametrize(
    ("arguments", "fragments"),
    [
        ("--input {d}/none", ("there is no such file or folder",)),
        ("--input {d}/empty", ("there are no images in it", "add some (")),
        ("--input {d}/in --out {d}/in", ("would overwrite", "give another folder")),
        ("--input {d}/in/odd.png", ("images of 17x16", "multiples of 16, such as 16 or 32")),
        ("--input {d}/in/good.png --direction b2a", ("(got b2a)", "one of a2b")),
        (
            "--input {d}/in/good.png --seeds 3",
            ("--seeds selects images of the test split", "give --seed"),
        ),
    ],
)
def test_translation_mistakes(
    arguments: str,
    fragments: tuple[str, ...],
    translators: dict[str, Path],
    tmp_path: Path,
    capsys: Any,
) -> None:
    (tmp_path / "empty").mkdir()
    write_image(tmp_path / "in/odd.png", 17, 16)
    write_image(tmp_path / "in/good.png", 16, 16)
    argv = [
        str(translators["pix2pix"]),
        "--out",
        str(tmp_path / "out"),
        *arguments.format(d=tmp_path).split(),
    ]
    assert sample.main(argv) == 2
    err = capsys.readouterr().err.splitlines()
    assert len(err) == 1
    for fragment in fragments:
        assert fragment in err[0]


def test_pix2pix_refuses_what_is_no_pair(tmp_path: Path, capsys: Any) -> None:
    argv = [
        "fit",
        "--config",
        "configs/pix2pix/openmoji.yaml",
        "--run_dir",
        str(tmp_path / "run"),
        "--data.paired",
        "false",
    ]
    assert (
        train.main([*argv, "--data.size", "16", "--model.patch", "16", "--trainer.max_steps", "1"])
        == 2
    )
    assert "give --data.paired true" in capsys.readouterr().err.splitlines()[-1]


def test_a_restored_pool_follows_its_images() -> None:
    """A restored pool adopts the data type of its queries."""
    pool, restored = ImagePool(2), ImagePool(2)
    pool.query(random_images(2))
    restored.load_state(pool.state())
    for _ in range(5):
        assert restored.query(random_images(2).double()).dtype == torch.float64


def test_many_pictures_pass_through_in_small_batches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Batches have at most `MAX_PIXELS` pixels and images of one size."""
    for number in range(9):
        write_image(tmp_path / f"{number}.png", 16, 16 if number < 7 else 32)
    monkeypatch.setattr(image_inputs, "MAX_PIXELS", 3 * 16 * 16)
    sizes = [
        (len(paths), tuple(images.shape))
        for paths, images in image_inputs.image_batches(tmp_path, 3, [])
    ]
    assert sizes == [
        (3, (3, 3, 16, 16)),
        (3, (3, 3, 16, 16)),
        (1, (1, 3, 16, 16)),
        (1, (1, 3, 16, 32)),
        (1, (1, 3, 16, 32)),
    ]


def test_a_run_has_the_losses_of_a_plain_loop(tmp_path: Path) -> None:
    """Losses equal those of a plain loop to 1e-5 in each update."""
    from benchmarks.translation import plain_step
    from datamodules.pairs.openmoji import OpenMojiPairs
    from lightning_modules.core.seeding import seed_generators

    steps, options = 6, {"pool_size": 2, "blocks": 1, "lambda_identity": 5.0}
    argv = [
        "fit",
        "--config",
        str(tiny(tmp_path / "c.yaml", "cyclegan", **options)),
        "--run_dir",
        str(tmp_path / "run"),
    ]
    constant = [
        f"--model.{player}_schedule.init_args.constant=100"
        for player in ("generator", "discriminator")
    ]
    assert (
        train.main([*argv, *constant, "--trainer.max_steps", str(steps), "--data.batch_size", "2"])
        == 0
    )
    with open(tmp_path / "run/metrics.csv", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["train/loss_g"]]

    torch.manual_seed(0)
    model = CycleGAN(image_shape=[3, 16, 16], width=4, patch=16, **options)
    counted = {"a2b": 0, "b2a": 0, "a": 0, "b": 0}
    for name, network in [*model.generator.items(), *model.discriminator.items()]:
        network.register_forward_hook(
            lambda *_, name=name: counted.update({name: counted[name] + 1})
        )
    data = OpenMojiPairs(size=16, load_size=32, flip=True, batch_size=2)
    optimizers = [adam(network.parameters()) for network in (model.generator, model.discriminator)]
    for row, batch in zip(rows, data.train_dataloader()):
        batch = data.transform(batch, training=True)
        seed_generators(batch["seed"], torch.device("cpu"))
        for name, value in plain_step(model, optimizers, batch).items():
            assert float(row[f"train/{name}"]) == pytest.approx(value.item(), abs=1e-5), name
    assert len(rows) == steps
    assert counted == {"a2b": 3 * steps, "b2a": 3 * steps, "a": 2 * steps, "b": 2 * steps}


def test_no_forward_pass_is_done_twice(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Per update, each generator runs 3 times (fake, cycle, identity), each discriminator twice."""
    calls: list[str] = []
    original = CycleGAN.set_networks

    def watched(self: CycleGAN, generator: nn.Module, discriminator: nn.Module) -> None:
        original(self, generator, discriminator)
        for name, network in [*self.generator.items(), *self.discriminator.items()]:
            network.register_forward_hook(lambda *_, name=name: calls.append(name))

    monkeypatch.setattr(CycleGAN, "set_networks", watched)
    argv = [
        "fit",
        "--config",
        str(tiny(tmp_path / "c.yaml", "cyclegan", lambda_identity=5.0)),
        "--run_dir",
        str(tmp_path / "run"),
    ]
    quiet = ["--trainer.limit_val_batches", "0", "--data.batch_size", "1"]
    counts = []
    for steps in (2, 7):
        calls.clear()
        assert (
            train.main(
                [
                    *argv[:-1],
                    str(tmp_path / f"run{steps}"),
                    *quiet,
                    "--trainer.max_steps",
                    str(steps),
                ]
            )
            == 0
        )
        counts.append({name: calls.count(name) for name in ("a2b", "b2a", "a", "b")})
    assert {name: counts[1][name] - counts[0][name] for name in counts[0]} == {
        "a2b": 15,
        "b2a": 15,
        "a": 10,
        "b": 10,
    }


def test_folders_are_scored_against_either_domain(
    tmp_path: Path, translators: dict[str, Path], capsys: Any
) -> None:
    """FID is 0 against the same domain only; a checkpoint is scored per direction."""
    import json

    import evaluate
    from datamodules.pairs.openmoji import OpenMojiPairs

    data = OpenMojiPairs(size=16)
    for number, image in enumerate(data.split("test").b.images):  # type: ignore[union-attr]
        (tmp_path / "colours").mkdir(exist_ok=True)
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(tmp_path / f"colours/{number:03d}.png")
    config, values = str(translators["cyclegan"].parents[1] / "config.yaml"), []
    for domain in ("b", "a"):
        argv = [
            str(tmp_path / "colours"),
            "--against",
            config,
            "--metrics",
            "fid",
            "--domain",
            domain,
        ]
        assert evaluate.main(argv) == 0
        values.append(json.loads(capsys.readouterr().out)["value"])
    assert values[0] == pytest.approx(0, abs=1e-3)
    assert values[1] > 1
    assert (
        evaluate.main([str(translators["cyclegan"]), "--metrics", "kid,l1", "--num", "5000"]) == 0
    )
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["metric"] for line in lines] == [
        "classifier-kid/a2b",
        "l1/a2b",
        "classifier-kid/b2a",
        "l1/b2a",
    ]
    assert f"n_fake={len(data.split('test'))}" in lines[0]["signature"], (
        "each image is translated once"
    )


def test_fid_says_at_once_what_is_missing(tmp_path: Path, capsys: Any) -> None:
    for name in ("trainA", "trainB", "testA", "testB"):
        for number in range(12):
            write_image(tmp_path / "home" / name / f"{number}.png", 16, 16)
    config = yaml.safe_load(tiny(tmp_path / "c.yaml", "cyclegan").read_text(encoding="utf-8"))
    config["data"] = {
        "class_path": "datamodules.pairs.folder.PairFolder",
        "init_args": {"folder": str(tmp_path / "home"), "size": 16},
    }
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    argv = [
        "fit",
        "--config",
        str(tmp_path / "c.yaml"),
        "--run_dir",
        str(tmp_path / "run"),
        "--fid.count",
        "10",
    ]
    assert train.main(argv) == 2
    assert (
        "needs labels, and this data has none: use the extractor inception"
        in capsys.readouterr().err.splitlines()[-1]
    )
    assert not (tmp_path / "run/checkpoints/last.ckpt").exists()
    assert train.main([*argv[:-2], "--data.batch_size", "4", "--trainer.max_steps", "3"]) == 0, (
        "training without FID needs no labels"
    )
    assert "val/cycle_a" in (tmp_path / "run/metrics.csv").read_text(encoding="utf-8")


def test_what_is_done_at_test_time_does_not_touch_training(tmp_path: Path) -> None:
    states = []
    for policy in ("image", "running"):
        argv = [
            "fit",
            "--config",
            str(tiny(tmp_path / f"{policy}.yaml", "pix2pix", test_statistics=policy)),
        ]
        assert (
            train.main([*argv, "--run_dir", str(tmp_path / policy), "--data.batch_size", "4"]) == 0
        )
        states.append(
            torch.load(tmp_path / policy / "checkpoints/last.ckpt", weights_only=True)["state_dict"]
        )
    assert [
        name for name, value in states[0].items() if not torch.equal(value, states[1][name])
    ] == []


def test_images_below_the_window_of_ssim_are_trained_on_and_scored_without_it(
    tmp_path: Path, capsys: Any
) -> None:
    import evaluate

    argv = [
        "fit",
        "--config",
        str(tiny(tmp_path / "c.yaml", "pix2pix", patch=1)),
        "--run_dir",
        str(tmp_path / "run"),
    ]
    small = [
        "--data.size",
        "8",
        "--data.load_size",
        "8",
        "--data.batch_size",
        "4",
        "--trainer.limit_train_batches",
        "4",
    ]
    assert train.main([*argv, *small]) == 0
    columns = (tmp_path / "run/metrics.csv").read_text(encoding="utf-8").splitlines()[0]
    assert "val/l1/a2b" in columns
    assert "ssim" not in columns
    checkpoint = str(tmp_path / "run/checkpoints/last.ckpt")
    capsys.readouterr()
    assert evaluate.main([checkpoint, "--metrics", "l1"]) == 0
    assert '"metric": "l1/a2b"' in capsys.readouterr().out
    assert evaluate.main([checkpoint, "--metrics", "ssim"]) == 2
    assert "SSIM needs images of at least 11x11 pixels (got 8x8)" in capsys.readouterr().err
