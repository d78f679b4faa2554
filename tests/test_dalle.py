"""DALL-E (sequence, masks, guidance, cache), its discrete VAE (quantisers, likelihood), CLIP."""

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor
from torch.nn import functional as F

from common.errors import UserError
from common.files import ROOT
from datamodules.captions.openmoji import CaptionedEmoji
from datamodules.images.openmoji import OpenMoji
from lightning_modules.clip import CLIP, contrastive_loss
from lightning_modules.dalle import DALLE, Pattern, image_mask, layer_pattern
from lightning_modules.decoding.filters import SamplingConfig
from lightning_modules.decoding.generation import generate
from lightning_modules.dvae import (
    DiscreteVAE,
    GumbelQuantiser,
    VectorQuantiser,
    annealed,
    load_discrete_vae,
    logit_laplace_log_likelihood,
    uniform_kl,
)
from metrics.image_tokens import ImageTokensKept, ImageTokenUsage
from metrics.retrieval import image_keys, ranking_accuracy

DVAE: dict[str, Any] = {
    "image_shape": [3, 16, 16],
    "codebook_size": 7,
    "token_width": 8,
    "width": 8,
    "downsamplings": 2,
    "blocks": 1,
}
VOCABULARY, LENGTH, POSITIONS = 11, 5, 16


def dalle(**options: Any) -> DALLE:
    """Small DALL-E with weights so large that logits differ clearly."""
    torch.manual_seed(0)
    model = DALLE(
        DVAE, [3, 16, 16], VOCABULARY, LENGTH, 4, 2, 16, **{"kernel": 3, **options}
    ).eval()
    for name, parameter in model.named_parameters():
        if not name.startswith("dvae"):
            parameter.data.mul_(8 if parameter.dim() > 1 else 1)
    return model


def captions(count: int) -> Tensor:
    """Random captions of different lengths, padded with 0."""
    tokens = torch.randint(1, VOCABULARY, (count, LENGTH))
    return tokens * (torch.arange(LENGTH) < torch.randint(1, LENGTH + 1, (count, 1)))


# The discrete VAE


def test_kl_is_a_sum_over_positions() -> None:
    """Eq. 4 equals the KL of torch.distributions, summed over positions."""
    logits = torch.randn(3, 7, 2, 4)
    q = torch.distributions.Categorical(logits=logits.movedim(1, 3))
    p = torch.distributions.Categorical(logits=torch.zeros_like(logits).movedim(1, 3))
    torch.testing.assert_close(
        uniform_kl(logits), torch.distributions.kl_divergence(q, p).sum((1, 2))
    )
    assert uniform_kl(torch.zeros(1, 7, 2, 4)).item() == pytest.approx(0, abs=1e-5)
    certain = torch.full((1, 7, 2, 4), -1e4).index_fill(1, torch.tensor([3]), 1e4)
    assert uniform_kl(certain).item() == pytest.approx(8 * math.log(7))


def test_annealing() -> None:
    """Half a cosine for temperature (1 to 1/16) and beta (0 to 6.6), constant after the end."""
    assert [annealed(step, 1, 1 / 16, 100) for step in (0, 50, 100, 500)] == pytest.approx(
        [1, 17 / 32, 1 / 16, 1 / 16]
    )
    assert [annealed(step, 0, 6.6, 10) for step in (0, 5, 10)] == pytest.approx([0, 3.3, 6.6])
    assert annealed(0, 0, 6.6, 0) == 6.6


def test_logit_laplace_is_a_density() -> None:
    """Eq. 5 integrates over [0, 1] to the Laplace probability between the logits of 0.1 and 0.9."""
    x = torch.linspace(0, 1, 20001).view(-1, 1, 1, 1)
    mean, log_scale = (
        torch.full_like(x, 0.3),
        torch.full_like(x, math.log(0.1)),
    )  # b = 0.1 + MIN_SCALE
    density = logit_laplace_log_likelihood(mean, log_scale, x).exp()
    laplace = torch.distributions.Laplace(0.3, 0.2)
    inside = laplace.cdf(torch.tensor(0.9).logit()) - laplace.cdf(torch.tensor(0.1).logit())
    assert torch.trapezoid(density, x.flatten()).item() == pytest.approx(inside.item(), abs=1e-3)


def test_weighted_pixels_have_equal_gradients() -> None:
    """Eq. 8: with r = 1, mu has a gradient of 1 at each pixel; b keeps the sign of its gradient."""
    torch.manual_seed(0)
    x, gradients = torch.rand(2, 3, 4, 4), {}
    mean, log_scale = (torch.randn(2, 3, 4, 4).requires_grad_() for _ in range(2))
    for exponent in (0.0, 1.0):
        loss = -logit_laplace_log_likelihood(mean, log_scale, x, exponent).sum()
        gradients[exponent] = torch.autograd.grad(loss, [mean, log_scale])
    torch.testing.assert_close(gradients[1.0][0].abs(), torch.ones(2, 3, 4, 4))
    scale = (log_scale.exp() + 0.1).detach()
    for plain, weighted in zip(gradients[0.0], gradients[1.0]):
        torch.testing.assert_close(weighted, scale * plain)


def test_gumbel_samples_become_choices() -> None:
    """Eq. 2 at a low temperature samples from the softmax, and gradients reach the logits."""
    torch.manual_seed(0)
    quantiser = GumbelQuantiser(3, 3)
    quantiser.codebook.data.copy_(torch.eye(3))
    logits = (
        torch.tensor([0.0, 1.0, -1.0])[None, :, None, None]
        .expand(1, -1, 100, 100)
        .clone()
        .requires_grad_()
    )
    z, _ = quantiser(logits, 1e-3)
    torch.testing.assert_close(z.mean((0, 2, 3)), logits[0, :, 0, 0].softmax(0), atol=0.02, rtol=0)
    quantiser(logits, 1.0)[0][:, 0].sum().backward()
    assert logits.grad is not None
    assert logits.grad.abs().sum() > 0


def test_straight_through() -> None:
    """Eq. 6: the nearest codebook vector in the forward pass, the identity in the backward pass."""
    quantiser = VectorQuantiser(7, 4)
    features = torch.randn(2, 4, 3, 3, requires_grad=True)
    z, term = quantiser(features, 1.0)
    rows = features.detach().movedim(1, 3)
    nearest = torch.cdist(rows.reshape(-1, 4), quantiser.codebook).argmin(1).view(2, 3, 3)
    assert torch.equal(quantiser.nearest(features), nearest)
    torch.testing.assert_close(z.detach(), quantiser.codebook[nearest].movedim(3, 1))
    weight = torch.randn_like(z)
    (gradient,) = torch.autograd.grad((z * weight).sum(), features, retain_graph=True)
    torch.testing.assert_close(gradient, weight)
    (pull,) = torch.autograd.grad(term.sum(), features)
    torch.testing.assert_close(pull, 2 * (features - z).detach())


def test_codebook_follows_and_unused_vectors_are_replaced() -> None:
    """Eq. 7: codebook vectors become means of their features; features replace unused vectors."""
    torch.manual_seed(0)
    quantiser = VectorQuantiser(3, 2)
    centres = torch.tensor([[5.0, 0.0], [-5.0, 0.0]])
    features = (centres[torch.arange(64) % 2] + 0.01 * torch.randn(64, 2)).T.reshape(1, 2, 8, 8)
    for step in range(600):
        quantiser.update_codebook(features, step, lambda x: x)
    assert torch.cdist(centres, quantiser.codebook).min(1).values.max() < 0.05
    assert torch.cdist(quantiser.codebook, centres).min(1).values.max() < 0.05, (
        "no codebook vector is far from all features"
    )
    assert quantiser.uses.sum().item() == pytest.approx(64, rel=0.1)


class History(Callback):
    """Stores the trained network's state after each update."""

    def __init__(self) -> None:
        self.states: list[dict[str, Tensor]] = []

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        self.states.append(
            {name: value.double().clone() for name, value in pl_module.network.state_dict().items()}
        )  # type: ignore[union-attr]


def test_the_averaged_codebook_belongs_to_the_averaged_encoder() -> None:
    """Weights, sums and counts share one decay; the averaged codebook is sums / counts (Eq. 7)."""
    model = DiscreteVAE(**DVAE, quantiser="vq")
    expected = {name: value.double().clone() for name, value in model.network.state_dict().items()}
    history = History()
    quiet: dict[str, Any] = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    Trainer(accelerator="cpu", max_steps=12, limit_val_batches=0, callbacks=[history], **quiet).fit(
        model, datamodule=OpenMoji(size=16, batch_size=8, max_samples=120)
    )
    assert len(history.states) == 12
    for step, state in enumerate(history.states):
        decay = min(0.999, (1 + step) / (10 + step))  # update step + 1
        expected = {
            name: decay * value + (1 - decay) * state[name] for name, value in expected.items()
        }
    averaged = model.ema.networks["network"]
    for name, value in averaged.state_dict().items():
        torch.testing.assert_close(value.double(), expected[name], atol=1e-5, rtol=1e-5, msg=name)
    codes = expected["quantiser.sums"] / expected["quantiser.uses"][:, None]
    torch.testing.assert_close(averaged.quantiser.codebook.double(), codes, atol=1e-4, rtol=1e-4)
    assert (codes - model.network.quantiser.codebook).abs().max() > 1e-3, (
        "the codebook of the trained network differs"
    )
    looked_up = averaged.embed(torch.arange(7)[None, None])[0, :, 0].T
    torch.testing.assert_close(looked_up.double(), codes, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("quantiser", ["gumbel", "vq"])
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_the_discrete_vae_groups_kernels_codebook_and_biases(
    quantiser: str, optimizer: str
) -> None:
    """Muon updates the kernels; AdamW updates the other parameters at 2e-3. Biases do not decay."""
    model = DiscreteVAE(**DVAE, quantiser=quantiser, optimizer=optimizer, learning_rate=0.01)
    model._trainer = SimpleNamespace(estimated_stepping_batches=100)  # type: ignore[assignment]
    (made,), _ = model.configure_optimizers()
    kernels, codebook, biases = made.param_groups
    assert all(p.dim() == 4 for p in kernels["params"])
    assert len(codebook["params"]) == (quantiser == "gumbel")
    assert all(p.dim() == 1 for p in biases["params"])
    assert sum(len(group["params"]) for group in made.param_groups) == len(
        [*model.network.parameters()]
    )
    assert biases["weight_decay"] == 0 < kernels["weight_decay"] == codebook["weight_decay"]
    rates = [group["initial_lr"] for group in made.param_groups]
    assert rates == ([0.01, 2e-3, 2e-3] if optimizer == "muon" else [0.01] * 3)
    assert kernels.get("orthogonal", False) == (optimizer == "muon")
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    made.step()


@torch.no_grad()
def test_several_image_tokens_at_each_position() -> None:
    """Three vectors per position are quantised separately, and are three rows of the token grid."""
    model = DiscreteVAE(**DVAE, tokens_per_position=3, quantiser="vq").eval()
    image = torch.rand(2, 3, 16, 16) * 2 - 1
    network = model.network
    codes = model.encode_tokens(image)
    assert model.grid == [12, 4]
    assert codes.shape == (2, 12, 4)
    features = network.encoder(image)  # (2, 3 * 8, 4, 4)
    for row, column, number in ((0, 0, 0), (1, 3, 2), (3, 2, 1)):
        vectors = features[:, 8 * number : 8 * number + 8, row, column]
        nearest = torch.cdist(vectors, network.quantiser.codebook).argmin(1)
        assert torch.equal(codes[:, 3 * row + number, column], nearest)
    decoded = torch.cat(network.decode(network.encode(image)), 1)
    torch.testing.assert_close(decoded, network.decoder(features))
    assert model.sample([0, 1]).shape == image.shape
    assert model.preview({"image": image})["codebook"].shape == (7, 3, 4, 4)  # type: ignore[union-attr]


def test_the_latent_of_cifar10_is_8x8x10() -> None:
    """As in van den Oord et al. 2017, section 3.2: the commitment is a mean, weighted by 0.25."""
    config: dict[str, Any] = yaml.safe_load(
        (ROOT / "configs/dvae/cifar10.yaml").read_text(encoding="utf-8")
    )["model"]["init_args"]
    model = DiscreteVAE(image_shape=[3, 32, 32], **{**config, "width": 8})
    latents = 8 * 8 * 10
    assert math.prod(model.grid) == latents
    features = model.network.encode(torch.rand(1, 3, 32, 32) * 2 - 1)
    _, commitment = model.network.quantiser(features, 1.0)
    rows = features.detach().movedim(1, 3).reshape(latents, -1)
    mean = torch.cdist(rows, model.network.quantiser.codebook).amin(1).square().mean()
    assert (config["beta"] * commitment).item() == pytest.approx(0.25 * mean.item(), rel=1e-3)


@torch.no_grad()
def test_blocks_of_pixels_can_be_channels() -> None:
    """`patch` halves the sides before the encoder: the grid is H / (patch * 2^downsamplings)."""
    model = DiscreteVAE(**{**DVAE, "downsamplings": 1}, patch=2).eval()
    assert model.grid == [4, 4] == DiscreteVAE(**DVAE).grid
    image = torch.rand(2, 3, 16, 16) * 2 - 1
    assert model.encode_tokens(image).shape == (2, 4, 4)
    assert model.reconstruct(image).shape == image.shape
    assert model.preview({"image": image})["codebook"].shape == (7, 3, 4, 4)  # type: ignore[union-attr]
    with pytest.raises(UserError, match="sides must be multiples of 8"):
        DiscreteVAE(**{**DVAE, "image_shape": [3, 12, 16]}, patch=2)


@pytest.mark.parametrize("quantiser", ["gumbel", "vq"])
@torch.no_grad()
def test_image_tokens_and_images(quantiser: Any) -> None:
    """Image tokens are ids on the grid, and decode to the reconstruction in [-1, 1]."""
    model = DiscreteVAE(**DVAE, quantiser=quantiser).eval()
    image = torch.rand(2, 3, 16, 16) * 2 - 1
    codes = model.encode_tokens(image)
    assert codes.shape == (2, 4, 4)
    assert codes.min() >= 0
    assert codes.max() < 7
    made = model.reconstruct(image)
    assert made.shape == image.shape
    assert made.abs().max() <= 1
    torch.testing.assert_close(made, model.decode_tokens(codes))


@torch.no_grad()
def test_image_tokens_are_the_same_in_any_step() -> None:
    """Mixed precision does not change image tokens; images of another shape are refused."""
    model = DiscreteVAE(**{**DVAE, "codebook_size": 64}, quantiser="vq").eval()
    image = torch.rand(32, 3, 16, 16) * 2 - 1
    with torch.autocast("cpu", torch.bfloat16):
        codes = model.encode_tokens(image)
    assert torch.equal(codes, model.encode_tokens(image))
    with pytest.raises(UserError, match=r"of shape \[3, 16, 16\], not \[3, 8, 16\]"):
        model.encode_tokens(image[:, :, :8])


def test_a_batch_with_images_is_encoded_itself() -> None:
    """Augmented images have their own image tokens; a batch without images has the cached ones."""
    model = dalle()
    image, index = torch.rand(2, 4, 3, 16, 16) * 2 - 1, torch.arange(4)
    model._image_tokens["train"] = model.dvae.encode_tokens(image[0]).flatten(1).int()
    batch = {"image": image[1], "index": index}
    assert model.image_tokens(batch, "train").equal(model.dvae.encode_tokens(image[1]).flatten(1))
    cached = model.image_tokens({"index": index}, "train")
    assert cached.equal(model.dvae.encode_tokens(image[0]).flatten(1))
    assert cached.dtype == torch.int64


def test_image_token_metrics() -> None:
    usage, perplexity = ImageTokenUsage(8, "share"), ImageTokenUsage(8, "perplexity")
    tokens_kept = ImageTokensKept()
    tokens = torch.tensor([0, 0, 1, 1, 2, 2, 3, 3])
    for metric in (usage, perplexity):
        metric.update(tokens)
    tokens_kept.update(tokens, torch.tensor([0, 0, 1, 1, 2, 2, 3, 0]))
    assert usage.compute() == 0.5
    assert perplexity.compute() == pytest.approx(4)
    assert tokens_kept.compute() == pytest.approx(7 / 8)


# The Transformer


@pytest.mark.parametrize(("height", "width"), [(4, 4), (3, 5)])
@pytest.mark.parametrize("pattern", ["row", "column", "conv"])
def test_masks_are_their_definitions(pattern: Pattern, height: int, width: int) -> None:
    """Masks equal an enumeration of the paper's Figure 11, with a 3x3 kernel for conv."""
    mask = image_mask(pattern, height, width, 3)
    for m in range(height * width):
        seen = {
            "row": set(range(max(0, m - width), m + 1)),
            "column": {j for j in range(m + 1) if j % width == m % width},
            "conv": {j for j in (m, m - 1, m - width - 1, m - width, m - width + 1) if j >= 0},
        }[pattern]
        assert set(mask[m].nonzero().flatten().tolist()) == seen


def test_layers_alternate() -> None:
    """Appendix B.1 for 64 layers: column where (i - 2) mod 4 = 0, conv in the last, else row."""
    patterns = [layer_pattern(layer, 64) for layer in range(1, 65)]
    assert patterns[:7] == ["row", "column", "row", "row", "row", "column", "row"]
    assert patterns[-1] == "conv"
    assert patterns.count("conv") == 1


@pytest.mark.parametrize("attention", ["dense", "sparse"])
@torch.no_grad()
def test_nothing_looks_ahead(attention: str) -> None:
    """A changed token affects later logits only, and every image token depends on all text."""
    model = dalle(attention=attention)
    text, codes = model.pad_text(captions(1)), torch.randint(7, (1, POSITIONS))
    of_text, of_codes = model(text, codes)
    changed = codes.clone()
    changed[0, 9] = (changed[0, 9] + 1) % 7
    again = model(text, changed)
    torch.testing.assert_close(again[0], of_text)
    torch.testing.assert_close(again[1][:, :10], of_codes[:, :10])
    assert (again[1][:, 10:] - of_codes[:, 10:]).abs().max() > 1e-3
    text[0, -1] = (text[0, -1] + 1) % VOCABULARY
    assert (model(text, codes)[1] - of_codes).abs().amax((0, 2)).min() > 1e-6, (
        "every image token attends to all text"
    )


@torch.no_grad()
def test_two_heads_are_one_masked_softmax() -> None:
    """Separate heads equal one softmax over all tokens in which the other kind is masked."""
    model = dalle()
    text, codes = model.pad_text(captions(2)), torch.randint(7, (2, POSITIONS))
    joint = torch.cat(
        [
            model.text_head(hidden := model.hidden(model.embed(text, codes[:, :-1]))),
            model.image_head(hidden),
        ],
        2,
    )
    of_text = torch.arange(joint.shape[1])[:, None] < LENGTH
    is_text = torch.arange(joint.shape[2]) < VOCABULARY + LENGTH
    probabilities = joint.masked_fill(of_text != is_text, -math.inf).softmax(2)
    for mine, theirs in zip(
        model(text, codes), (probabilities[:, :LENGTH, :16], probabilities[:, LENGTH:, 16:])
    ):
        torch.testing.assert_close(mine.softmax(2), theirs)


def test_padding_has_a_token_at_each_position() -> None:
    padded = dalle().pad_text(torch.tensor([[3, 0, 0, 0, 0], [1, 2, 3, 4, 5]]))
    assert padded.tolist() == [[3, *range(VOCABULARY + 1, VOCABULARY + LENGTH)], [1, 2, 3, 4, 5]]


def test_caption_dropout_leaves_the_batch_alone() -> None:
    """Whole captions are dropped at the given rate, by seed; the input tensor is unchanged."""
    model, tokens = dalle(caption_dropout=0.3), torch.randint(1, VOCABULARY, (2000, LENGTH))
    before = tokens.clone()
    dropped = model.drop_captions(tokens, 5)
    assert torch.equal(tokens, before)
    gone = (dropped == 0).all(1)
    assert torch.equal(dropped[~gone], before[~gone])
    assert gone.float().mean().item() == pytest.approx(0.3, abs=0.04)
    assert torch.equal(dropped, model.drop_captions(tokens, 5))
    assert not torch.equal(dropped, model.drop_captions(tokens, 6))


@pytest.mark.parametrize("attention", ["dense", "sparse"])
@pytest.mark.parametrize("guidance", [1.0, 3.0])
@torch.no_grad()
def test_cached_equals_uncached(attention: str, guidance: float) -> None:
    """Cached logits equal those of a full forward pass at every step, with and without guidance."""
    model = dalle(attention=attention)
    text = model.pad_text(captions(3))
    codes = torch.randint(7, (3, POSITIONS))
    none = model.pad_text(torch.zeros(3, LENGTH, dtype=torch.int64))
    expected = model(text, codes)[1]
    if guidance != 1:
        without = model(none, codes)[1]
        expected = without + guidance * (expected - without)  # Eq. 5
    guided = model.guided(guidance)
    for given in (0, 5):
        logits, state = guided.prefill(torch.cat([text, codes[:, :given]], 1))
        for m in range(given, POSITIONS):
            torch.testing.assert_close(logits, expected[:, m], atol=1e-4, rtol=1e-4)
            if m + 1 < POSITIONS:
                logits, state = guided.decode_step(codes[:, m], state)


@pytest.mark.parametrize("attention", ["dense", "sparse"])
@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_the_plain_loop_and_the_cache_give_the_same_tokens(attention: str, guidance: float) -> None:
    """`sample_tokens` without a cache and `generate_tokens` with a cache agree."""
    model, tokens, seeds = dalle(attention=attention), captions(3), [4, 5, 6]
    plain = model.sample_tokens(tokens, seeds, guidance, temperature=0.7)
    cached = model.generate_tokens(tokens, seeds, guidance, SamplingConfig(temperature=0.7))
    assert plain.shape == (3, 4, 4)
    assert len(plain.unique()) > 1
    assert torch.equal(plain, cached)


@pytest.mark.parametrize("updates", [0, 3])
def test_averaged_weights_are_the_only_ones(updates: int, tmp_path: Path) -> None:
    """The frozen discrete VAE holds the averaged weights, if there are any, and no second copy."""
    trained = DiscreteVAE(**DVAE)
    for update in range(updates):
        for parameter in trained.network.parameters():
            parameter.data.add_(1)
        trained.update_ema(update + 1)
    image = torch.rand(1, 3, 16, 16) * 2 - 1
    expected = trained.eval().encode_tokens(image)
    checkpoint = {
        "state_dict": trained.state_dict(),
        "hyper_parameters": dict(trained.hparams),
        "class_path": "lightning_modules.dvae.DiscreteVAE",
        "log_interval": {"names": [], "sums": torch.empty(0), "counts": torch.empty(0), "seen": 0},
        "pytorch-lightning_version": "2.0.0",
    }
    torch.save(checkpoint, tmp_path / "dvae.ckpt")
    frozen = load_discrete_vae(str(tmp_path / "dvae.ckpt"), [3, 16, 16])
    kept = trained.ema.networks["network"] if updates else trained.network
    assert frozen.state_dict().keys() == {f"network.{name}" for name in kept.state_dict()}
    for name, value in kept.state_dict().items():
        assert torch.equal(value, frozen.state_dict()[f"network.{name}"]), name
    assert torch.equal(frozen.encode_tokens(image), expected)


@torch.no_grad()
def test_drawing() -> None:
    """Rows depend on seed and caption alone; guidance 1 has no effect; given tokens are kept."""
    model = dalle()
    tokens = captions(3)
    together = model.generate_tokens(tokens, [4, 5, 6], 3.0, SamplingConfig())
    assert torch.equal(
        model.generate_tokens(tokens[1:2], [5], 3.0, SamplingConfig()), together[1:2]
    )
    plain = generate(
        model,
        model.pad_text(tokens),
        [4, 5, 6],
        max_new_tokens=POSITIONS,
        config=SamplingConfig(),
    )
    assert (
        model.generate_tokens(tokens, [4, 5, 6], 1.0, SamplingConfig()).flatten(1).tolist() == plain
    )
    assert not torch.equal(
        together, model.generate_tokens(tokens, [4, 5, 6], 1.0, SamplingConfig())
    )
    image = torch.rand(3, 16, 16) * 2 - 1
    primed = model.generate_tokens(
        tokens,
        [4, 5, 6],
        1.0,
        SamplingConfig(),
        model.dvae.encode_tokens(image[None]).flatten()[:8],
    )
    assert torch.equal(
        primed[:, :2], model.dvae.encode_tokens(image[None])[:, :2].expand(3, -1, -1)
    )


def test_losses_are_those_of_each_token() -> None:
    """Eq. 2 equals a sum over single log-probabilities."""
    model = dalle()
    tokens, codes = captions(2), torch.randint(7, (2, POSITIONS))
    text, image = model.token_nll(tokens, codes)
    of_text, of_codes = (part.log_softmax(2) for part in model(model.pad_text(tokens), codes))
    expected = (
        -sum(of_text[n, t, model.pad_text(tokens)[n, t]] for n in range(2) for t in range(LENGTH))
        / 10
    )
    torch.testing.assert_close(text.mean(), expected)
    expected = -sum(of_codes[n, m, codes[n, m]] for n in range(2) for m in range(POSITIONS)) / 32
    torch.testing.assert_close(image.mean(), expected)


def test_training_weighs_images_seven_times(monkeypatch: pytest.MonkeyPatch) -> None:
    """The training loss is Eq. 3; dropped captions count in the image loss, not the text loss."""
    model = dalle(caption_dropout=0.5)
    tokens, codes = captions(6), torch.randint(7, (6, POSITIONS))
    tokens[:, 0] = 1
    monkeypatch.setattr(model, "image_tokens", lambda batch, split: codes)
    loss = model.loss({"tokens": tokens, "seed": 3})["loss"]
    dropped = model.drop_captions(tokens, 3)
    given = dropped[:, 0] > 0
    assert 0 < given.sum() < 6
    text, image = model.token_nll(dropped, codes)
    torch.testing.assert_close(loss, text[given].mean() / 8 + 7 * image.mean() / 8)


def test_the_dvae_is_frozen() -> None:
    """The discrete VAE is saved with its hyper-parameters, frozen, and always in eval mode."""
    model = dalle().train()
    assert not model.dvae.training
    assert all(not parameter.requires_grad for parameter in model.dvae.parameters())
    assert any(name.startswith("dvae.") for name in model.state_dict())
    again = DALLE(**model.hparams)
    again.load_state_dict(model.state_dict())
    assert model.hparams.dvae["codebook_size"] == 7


# CLIP


def test_contrastive_loss() -> None:
    """Eq. 3 is log N for equal features, 0 for orthogonal ones; equal captions are no negatives."""
    tokens = torch.arange(4)[:, None]
    flat = F.normalize(torch.ones(4, 8), dim=1)
    assert contrastive_loss(flat, flat, torch.tensor(10.0), tokens).item() == pytest.approx(
        math.log(4), rel=1e-5
    )
    apart = torch.eye(4)
    assert contrastive_loss(apart, apart, torch.tensor(100.0), tokens).item() == pytest.approx(
        0, abs=1e-6
    )
    twice = apart[[0, 0, 1, 2]]
    even = contrastive_loss(
        twice, twice, torch.tensor(100.0), torch.tensor([[0], [0], [1], [2]])
    ).item()
    assert even == pytest.approx(math.log(2) / 2, rel=1e-4), (
        "half of the probability for each of the two"
    )


def test_ranking_accuracy() -> None:
    """Accuracy is 1 for features equal to the caption's, and 1/32 for shuffled features."""
    torch.manual_seed(0)
    features = F.normalize(torch.randn(3200, 64), dim=1)
    tokens, keys = torch.arange(3200)[:, None], torch.arange(3200)
    assert ranking_accuracy(features, features, tokens, keys) == 1
    assert ranking_accuracy(features, features.roll(1, 0), tokens, keys).item() == pytest.approx(
        1 / 32, abs=0.01
    )


def test_negatives_have_another_caption_and_another_image() -> None:
    """Equal captions are no negatives, nor are different captions of equal images."""
    features = torch.eye(2, 8).repeat(20, 1)
    captions, numbers = torch.arange(2)[:, None].repeat(20, 1), torch.arange(40)
    assert ranking_accuracy(features, features, captions, numbers) == 1, "40 images, two captions"
    assert ranking_accuracy(features, features, numbers[:, None], captions[:, 0]) == 1, (
        "two images, 40 captions"
    )
    assert ranking_accuracy(features, features, numbers[:, None], numbers) == 0, (
        "otherwise ties count as errors"
    )


def test_image_keys_tell_pixels_apart() -> None:
    """Keys are equal if and only if all pixels are, whatever the batch size."""
    images = (
        torch.randint(0, 256, (50, 3, 8, 8), generator=torch.Generator().manual_seed(0)).float()
        / 127.5
        - 1
    )
    images[7] = images[3]
    images[9] = images[3]
    images[9, 2, 5, 5] += -1 / 127.5 if images[9, 2, 5, 5] > 0 else 1 / 127.5
    keys = image_keys(images)
    assert keys[7] == keys[3]
    assert len(keys.unique()) == 49
    assert torch.equal(torch.cat([image_keys(images[:1]), image_keys(images[1:])]), keys)


def test_the_scale_of_clip_is_at_most_100_after_an_update(monkeypatch: pytest.MonkeyPatch) -> None:
    """Radford et al. 2021, section 2.5."""
    monkeypatch.setattr(CLIP, "total_updates", 10)
    model = CLIP([3, 16, 16], VOCABULARY, 8, 8, 1, 1, 2, 2, 16, 0.0, 8)
    (adam,), _ = model.configure_optimizers()
    model.log_scale.data.fill_(5.0)
    model.log_scale.grad = torch.zeros(())
    adam.step()
    assert model.log_scale.exp().item() == pytest.approx(100)


def test_images_of_one_split_that_are_equal_are_one() -> None:
    """Equal images of the evaluated data have equal keys, even if their names differ."""
    data = CaptionedEmoji(size=16, text_length=24)
    whole = data.split("train")
    numbers = [
        whole.captions.index(name)
        for name in ("firefighter", "man firefighter", "woman firefighter")
    ]  # type: ignore[attr-defined]
    one, duplicate, other = image_keys(data.batch("train", numbers)["image"]).tolist()
    assert one == duplicate != other


@torch.no_grad()
def test_text_features_ignore_padding() -> None:
    model = CLIP([3, 16, 16], VOCABULARY, 8, 8, 1, 1, 2, 2, 16, 0.0, 8).eval()
    tokens = captions(3)
    torch.testing.assert_close(
        model.text_features(F.pad(tokens, (0, 3))), model.text_features(tokens)
    )


def test_clip_previews_rank_images_and_captions() -> None:
    """Images of a row are in the order of their scores, and the caption's own image is marked."""
    data = CaptionedEmoji(size=16, text_length=24)
    batch = data.batch("val", list(range(0, 120, 10)))
    vocabulary = data.data_spec["vocab_size"]
    model = CLIP([3, 16, 16], vocabulary, 24, 8, 1, 1, 2, 2, 16, 0.0, 8)
    assert model.preview(batch) == {}, "no tokenizer"
    model.tokenizer = data.tokenizer
    shown: dict[str, Any] = model.preview(batch)
    assert shown["ranked_images"].shape == (8, 8, 3, 16, 16)
    assert len(shown["captions"]) == 12
    names, texts = shown["ranked_images/rows"], shown["ranked_images/captions"]
    scores = model.score(batch["image"], names)  # (12, 8)
    for row, name in enumerate(names):
        listed = texts[8 * row : 8 * row + 8]
        own = [number for number, text in enumerate(listed) if text.endswith(" (own)")]
        values = [float(text.removesuffix(" (own)")) for text in listed]
        assert values == sorted(values, reverse=True)
        assert values[0] == pytest.approx(scores[:, row].max().item(), abs=0.006)
        index = [model.tokenizer.decode(tokens) for tokens in batch["tokens"].tolist()].index(name)
        for number in own:
            assert torch.equal(shown["ranked_images"][row, number], batch["image"][index])
    assert any(text.endswith(" (own)") for text in texts)
