"""GPT compared with plain PyTorch: training, and generation with and without cache.

Run by `make bench-details`.

Training uses nanoGPT's configuration for a CPU. It compares two contenders with the same network,
seed and threads:

- ours: `train.py fit` with default callbacks and CSV logger;
- plain: a hand-written loop that slices and stacks the windows one by one. AdamW updates one
  tensor at a time, and the loss is read at every tenth step.

Each contender runs several times in its own process, in turns; ratios are ratios of medians.
Neither validates.

Generation uses the same network with a context of 1024 and untrained weights, because the speed
does not depend on the weights. Without the cache, every token recomputes the whole text.

The data is Tiny Shakespeare if it is in DATA_ROOT, otherwise Python's help texts. Nothing is
downloaded.
"""

import math
import statistics
import sys
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from torch import Tensor, nn
from torch.nn import functional as F

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.in_turns import Contenders, compare, data_of, print_table, throughput
from datamodules.base import corpus_root
from lightning_modules.decoding.filters import SamplingConfig
from lightning_modules.decoding.generation import DecodableModel, generate
from lightning_modules.gpt import GPT

WARMUP, LOG_EVERY, CONTEXT, NEW = 50, 10, 1024, 256


def recipe() -> dict[str, Any]:
    """Configuration of nanoGPT for a CPU, on the available text."""
    config: dict[str, Any] = yaml.safe_load(
        (ROOT / "configs/gpt/tiny_shakespeare_cpu.yaml").read_text(encoding="utf-8")
    )
    if not (corpus_root(None) / "tiny_shakespeare/input.txt").is_file():
        config["data"]["class_path"] = "datamodules.text.corpora.PythonDocs"
    return config


def corpus() -> Any:
    """Data module of the configuration."""
    return data_of(recipe())


def ours(steps: int, options: Sequence[str] = ()) -> dict[str, float]:
    """Seconds per step of `train.py fit`, started as by a user, with additional options."""
    log = ["--trainer.log_every_n_steps", str(LOG_EVERY), *options]
    rows = throughput(recipe(), WARMUP, steps, log)
    return {"step": sum(row["seconds"] for row in rows) / steps}


class PlainBlock(nn.Module):
    """A hand-written Transformer block without biases, as in the configuration."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width, bias=False), nn.LayerNorm(width, bias=False)
        self.qkv, self.proj = (
            nn.Linear(width, 3 * width, bias=False),
            nn.Linear(width, width, bias=False),
        )
        self.up, self.down = (
            nn.Linear(width, 4 * width, bias=False),
            nn.Linear(4 * width, width, bias=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        n, t, width = x.shape
        q, k, v = (
            part.view(n, t, self.heads, -1).transpose(1, 2)
            for part in self.qkv(self.norm1(x)).split(width, 2)
        )
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.proj(attended.transpose(1, 2).reshape(n, t, width))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class PlainGPT(nn.Module):
    """A GPT of `PlainBlock`s; the output layer shares the matrix of the token embedding."""

    def __init__(self, vocab_size: int, context: int, layers: int, heads: int, width: int) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(vocab_size, width), nn.Embedding(context, width)
        self.blocks = nn.Sequential(*(PlainBlock(width, heads) for _ in range(layers)))
        self.norm = nn.LayerNorm(width, bias=False)
        for name, weight in self.named_parameters():
            if weight.dim() == 2:
                ends_a_branch = name.endswith(("proj.weight", "down.weight"))
                nn.init.normal_(
                    weight, 0.0, 0.02 / math.sqrt(2 * layers) if ends_a_branch else 0.02
                )

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.tokens(tokens) + self.places(torch.arange(tokens.shape[1], device=tokens.device))
        return F.linear(self.norm(self.blocks(x)), self.tokens.weight)


def plain(steps: int, device: str = "cpu") -> dict[str, float]:
    """Seconds per step of a hand-written loop."""
    config, data = recipe(), corpus()
    ids, vocab_size = data.tokens("train").ids, data.data_spec["vocab_size"]
    h, batch_size, total, warm = (
        config["model"]["init_args"],
        config["data"]["init_args"]["batch_size"],
        steps + WARMUP,
        100,
    )
    torch.manual_seed(0)
    model = PlainGPT(vocab_size, h["context"], h["layers"], h["heads"], h["width"]).to(device)
    matrices, others = (
        [p for p in model.parameters() if (p.dim() > 1) == many] for many in (True, False)
    )
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    adam = torch.optim.AdamW(groups, h["learning_rate"], tuple(h["betas"]), foreach=False)
    begin = 0.0
    for step in range(total):
        if step == WARMUP:
            begin = time.perf_counter()
        progress = max(0.0, (step - warm) / max(1, total - warm))
        for group in adam.param_groups:
            group["lr"] = h["learning_rate"] * min(
                (step + 1) / warm, 0.55 + 0.45 * math.cos(math.pi * progress)
            )
        starts = torch.randint(len(ids) - h["context"], (batch_size,)).tolist()
        x = torch.stack(
            [torch.from_numpy(ids[i : i + h["context"]].astype(np.int64)) for i in starts]
        )
        y = torch.stack(
            [torch.from_numpy(ids[i + 1 : i + 1 + h["context"]].astype(np.int64)) for i in starts]
        )
        x, y = x.to(device), y.to(device)
        loss = F.cross_entropy(model(x).flatten(0, 1), y.flatten())
        adam.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), config["trainer"]["gradient_clip_val"])
        adam.step()
        if step % LOG_EVERY == 0:
            print(f"{step}: {loss.item():.3f}", file=sys.stderr)
    return {"step": (time.perf_counter() - begin) / steps}


class Uncached:
    """GPT without a cache: every token recomputes the whole text.

    Args:
        model: Model that computes the logits.
    """

    def __init__(self, model: GPT) -> None:
        self.model = model

    def prefill(self, prompts: Tensor) -> tuple[Tensor, Tensor]:
        return self.model(prompts)[:, -1], prompts

    def decode_step(self, tokens: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        return self.prefill(torch.cat([state, tokens[:, None]], 1))


def write(model: DecodableModel, rows: int, prompt: int, new: int) -> tuple[float, float]:
    """Generate `new` tokens after `prompt` tokens.

    Returns:
        Seconds in total, and the median seconds between two tokens.
    """
    moments: list[float] = []
    begin = time.perf_counter()
    generate(
        model,
        torch.zeros(rows, prompt, dtype=torch.int64),
        list(range(rows)),
        max_new_tokens=new,
        config=SamplingConfig(),
        listener=lambda *_: moments.append(time.perf_counter()),
    )
    seconds = time.perf_counter() - begin
    return seconds, statistics.median(after - before for before, after in pairwise(moments))


def writing(repeats: int) -> dict[str, float]:
    """Seconds of generation with and without the cache, for several texts and positions."""
    torch.manual_seed(0)
    model = GPT(**(recipe()["model"]["init_args"] | {"vocab_size": 65, "context": CONTEXT})).eval()
    found: dict[str, list[float]] = {}
    write(model, 16, 1, 32)
    for _ in range(repeats):
        for name, contender in (("cached", model), ("uncached", Uncached(model))):
            for prompt in (1, CONTEXT - NEW):
                found.setdefault(f"{name} {prompt}", []).append(write(contender, 1, prompt, NEW)[0])
        for rows in (1, 16):
            found.setdefault(f"{rows} rows", []).append(write(model, rows, 1, NEW)[0])
            for reached in (64, CONTEXT):  # 33 tokens are 32 steps; the last fills the context
                found.setdefault(f"{rows} rows at {reached}", []).append(
                    write(model, rows, reached - 32, 33)[1]
                )
    return {name: statistics.median(seconds) for name, seconds in found.items()}


CONTENDERS: Contenders = {"ours": ours, "plain": plain, "writing": writing}


def main() -> None:
    """Run everything in turns and print a table."""
    step, s = compare(__file__, __doc__, CONTENDERS, "step", steps=300, rounds=5)
    late, ms = CONTEXT - NEW, 1000
    table = [
        ("ms per training step: plain, ours", ms * step["plain"], ms * step["ours"], ">= 1.25"),
        (
            f"s for {NEW} tokens that fill the context: without, with cache",
            s[f"uncached {late}"],
            s[f"cached {late}"],
            ">= 10",
        ),
        (f"s for {NEW} tokens after 1: without, with cache", s["uncached 1"], s["cached 1"], ""),
        (
            f"ms per token: after {CONTEXT} tokens, after 64",
            ms * s[f"1 rows at {CONTEXT}"],
            ms * s["1 rows at 64"],
            "< 1.5",
        ),
        (f"s for {NEW} tokens after 1: 16 texts, 1 text", s["16 rows"], s["1 rows"], "< 4"),
        (
            "ms per token after 64: 16 texts, 1 text",
            ms * s["16 rows at 64"],
            ms * s["1 rows at 64"],
            "",
        ),
        (
            f"ms per token after {CONTEXT}: 16 texts, 1 text",
            ms * s[f"16 rows at {CONTEXT}"],
            ms * s[f"1 rows at {CONTEXT}"],
            "",
        ),
    ]
    print_table(table)


if __name__ == "__main__":
    main()
