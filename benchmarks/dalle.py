"""DALL-E compared with plain PyTorch: training, and sampling with and without cache.

Run by `make bench-details`.

Training compares two contenders with the same sizes, attention patterns, batches and threads:

- ours: `train.py fit` with the emoji recipe, default callbacks and CSV logger;
- plain: a hand-written loop with PyTorch's Transformer blocks and one head over all tokens, which
  masks the tokens of the other modality. The frozen dVAE encodes the images in every step, AdamW
  updates one tensor at a time, and the loss is read at every step.

Each contender runs several times in its own process, in turns; ratios are ratios of medians.
Neither validates.

Sampling generates 16 images of 64 tokens with guidance, at the size of DALLE-pytorch's measurement:
width 256, 4 layers, 64 text and 64 image tokens, 2.3 s with its cache. Without the cache,
`DALLE.sample_tokens` recomputes both sequences for each token.
"""

import statistics
import sys
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor, nn
from torch.nn import functional as F

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.in_turns import Contenders, compare, print_table, throughput
from lightning_modules.dalle import (
    DALLE,
    image_mask,
    layer_pattern,
    sequence_mask,
)
from lightning_modules.decoding.filters import SamplingConfig
from lightning_modules.decoding.generation import DecodableModel, generate
from lightning_modules.dvae import DiscreteVAE

WARMUP, LOG_EVERY, IMAGES, EDGE_STEPS = 5, 5, 16, 6


def recipe() -> dict[str, Any]:
    """Configuration of the emoji recipe, with an untrained dVAE."""
    config: dict[str, Any] = yaml.safe_load(
        (ROOT / "configs/dalle/openmoji.yaml").read_text(encoding="utf-8")
    )
    dvae = yaml.safe_load((ROOT / "configs/dvae/openmoji.yaml").read_text(encoding="utf-8"))[
        "model"
    ]["init_args"]
    adamw = {"optimizer": "adamw", "learning_rate": 1e-3}  # as in `plain`
    config["model"]["init_args"].update(
        dvae={**dvae, "image_shape": [3, 32, 32]}, prompts=[], **adamw
    )
    return config


def ours(steps: int) -> dict[str, float]:
    """Updates per second of `train.py fit`, started as by a user."""
    rows = throughput(recipe(), WARMUP, steps, ["--trainer.log_every_n_steps", str(LOG_EVERY)])
    return {"steps": LOG_EVERY * len(rows) / sum(row["seconds"] for row in rows)}


class PlainDALLE(nn.Module):
    """DALL-E of PyTorch's blocks, with one vocabulary of text, padding and image tokens.

    Args:
        text: Number of text and padding tokens and the start token.
        length: Length T of the text.
        codebook_size: Number of different image tokens, K.
        h: Hyper-parameters of the recipe's model.
    """

    def __init__(self, text: int, length: int, codebook_size: int, h: dict[str, Any]) -> None:
        super().__init__()
        self.text, self.length, width = text, length, h["width"]
        self.embedding, self.positions = (
            nn.Embedding(text + codebook_size, width),
            nn.Embedding(length + 64, width),
        )
        sizes = {
            "dropout": h["dropout"],
            "activation": "gelu",
            "batch_first": True,
            "norm_first": True,
        }
        self.blocks = nn.ModuleList(
            [
                nn.TransformerEncoderLayer(width, h["heads"], 4 * width, **sizes)
                for _ in range(h["layers"])
            ]
        )
        patterns = [
            image_mask(layer_pattern(layer, h["layers"]), 8, 8, h["kernel"])
            for layer in range(1, h["layers"] + 1)
        ]
        self.masks = [~sequence_mask(pattern, length) for pattern in patterns]
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, text + codebook_size)
        is_text = torch.arange(text + codebook_size) < text
        self.register_buffer("other", (torch.arange(length + 64)[:, None] < length) != is_text)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return logits (N, T + M, V) of the token after each of the tokens (N, T + M)."""
        x = self.embedding(tokens) + self.positions.weight
        for block, mask in zip(self.blocks, self.masks):
            x = block(x, src_mask=mask)
        return self.head(self.norm(x)).masked_fill(self.other, -1e9)


def plain(steps: int) -> dict[str, float]:
    """Updates per second of a hand-written loop."""
    from datamodules.captions.openmoji import CaptionedEmoji

    config = recipe()
    data = CaptionedEmoji(**config["data"]["init_args"])
    data.prepare_data()
    torch.manual_seed(0)
    h = config["model"]["init_args"]
    dvae = DiscreteVAE(**h["dvae"]).eval()
    vocabulary, length = data.data_spec["vocab_size"], data.data_spec["text_length"]
    text = vocabulary + length + 1
    model = PlainDALLE(text, length, dvae.hparams.codebook_size, h).train()
    adam = torch.optim.AdamW(model.parameters(), h["learning_rate"], (0.9, 0.96), foreach=False)
    begin = 0.0
    for step in range(steps + WARMUP):
        if step == WARMUP:
            begin = time.perf_counter()
        batch = data.batch(
            "train", torch.randint(len(data.split("train")), (data.batch_size,)).tolist(), seed=step
        )
        with torch.no_grad():
            image_tokens = dvae.encode_tokens(batch["image"]).flatten(1) + text
        tokens = torch.where(
            batch["tokens"] > 0, batch["tokens"], vocabulary + torch.arange(length)
        )
        tokens = torch.cat([torch.full_like(tokens[:, :1], text - 1), tokens, image_tokens], 1)
        losses = F.cross_entropy(
            model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten(), reduction="none"
        ).view(len(tokens), -1)
        loss = (losses[:, :length].mean() + 7 * losses[:, length:].mean()) / 8
        adam.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 4.0)
        adam.step()
        print(f"{step}: {loss.item():.3f}", file=sys.stderr)
    return {"steps": steps / (time.perf_counter() - begin)}


class Clock:
    """Records the time at which each decoding step starts.

    Args:
        model: Model that is timed.
    """

    def __init__(self, model: DecodableModel) -> None:
        self.model, self.moments = model, list[float]()

    def prefill(self, prompts: Tensor) -> tuple[Tensor, Any]:
        return self.model.prefill(prompts)

    def decode_step(self, tokens: Tensor, state: Any) -> tuple[Tensor, Any]:
        self.moments.append(time.perf_counter())
        return self.model.decode_step(tokens, state)


@torch.no_grad()
def drawing(repeats: int) -> dict[str, float]:
    """Seconds for all images with and without the cache, and for an early and a late token."""
    torch.manual_seed(0)
    dvae = {
        "image_shape": [3, 32, 32],
        "codebook_size": 256,
        "token_width": 64,
        "width": 32,
        "downsamplings": 2,
    }
    model = DALLE(
        dvae, [3, 32, 32], vocab_size=1000, text_length=64, layers=4, heads=8, width=256
    ).eval()
    assert isinstance(model.dvae, DiscreteVAE)
    tokens, seeds = torch.randint(1, 1000, (IMAGES, 64)), list(range(IMAGES))
    prompts = model.pad_text(tokens)
    times: dict[str, list[float]] = {}

    def draw(decodable: DecodableModel) -> float:
        begin = time.perf_counter()
        made = generate(decodable, prompts, seeds, max_new_tokens=64, config=SamplingConfig())
        model.dvae.decode_tokens(torch.tensor(made).view(-1, 8, 8))
        return time.perf_counter() - begin

    draw(model.guided(3.0))
    for _ in range(repeats):
        times.setdefault("cached", []).append(draw(model.guided(3.0)))
        clock = Clock(model.guided(3.0))
        draw(clock)
        steps = [b - a for a, b in pairwise(clock.moments)]
        times.setdefault("first", []).append(statistics.median(steps[:EDGE_STEPS]))
        times.setdefault("last", []).append(statistics.median(steps[-EDGE_STEPS:]))
        begin = time.perf_counter()
        image_tokens = model.sample_tokens(tokens, seeds, guidance=3.0, temperature=1.0)
        model.dvae.decode_tokens(image_tokens)
        times.setdefault("uncached", []).append(time.perf_counter() - begin)
    return {name: statistics.median(values) for name, values in times.items()}


CONTENDERS: Contenders = {"ours": ours, "plain": plain, "drawing": drawing}


def main() -> None:
    """Run everything in turns and print a table."""
    speed, s = compare(__file__, __doc__, CONTENDERS, "steps", steps=30, rounds=3)
    table = [
        ("updates per second: ours, plain", speed["ours"], speed["plain"], ">= 1.3"),
        (
            "seconds for 16 images: without, with cache",
            s["uncached"],
            s["cached"],
            ">= 10, and < 2.3 s",
        ),
        (
            "ms per token of 16 images: last, first tokens",
            1000 * s["last"],
            1000 * s["first"],
            "< 1.5",
        ),
    ]
    print_table(table)


if __name__ == "__main__":
    main()
