"""Transformer compared with plain PyTorch: training, and beam search with and without cache.

Run by `make bench-details`. Training compares two contenders at JoeyNMT's size, with the same
tokens, objective and threads:

- ours: `train.py fit` with default callbacks and CSV logger;
- plain: a hand-written loop with `nn.Transformer` and batches of random sentences. Adam updates
  one tensor at a time, and the loss is read at every tenth step.

Each contender runs several times in its own process, in turns; ratios are ratios of medians.
Neither validates. Throughput counts target tokens without padding.

Beam search uses the same network with untrained weights, which end no sentence before its maximum
length. Without the cache, each step recomputes all previous tokens; the search is the same.

The data is Multi30k if it is in DATA_ROOT, otherwise names of emoji, with smaller batches. Nothing
is downloaded.
"""

import math
import statistics
import sys
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.in_turns import Contenders, compare, data_of, print_table, throughput
from datamodules.base import corpus_root
from lightning_modules.core.translator import BOS, EOS, PAD
from lightning_modules.decoding.beam_search import BeamSearchConfig, BeamSearchModel, beam_search
from lightning_modules.transformer import Transformer, sinusoids

WARMUP, LOG_EVERY, BATCH_TOKENS, SENTENCES, SHORTEST, LONGEST = 10, 10, 2048, 64, 25, 40
SIZES = {"layers": 3, "heads": 4, "width": 256, "hidden": 1024}
EARLY, LATE = 10, 200  # generated tokens at which a step is timed
WINDOW = 5  # steps before and after, over which the median is taken


def recipe() -> dict[str, Any]:
    """Configuration of the Multi30k recipe at JoeyNMT's size, on the available corpus."""
    config: dict[str, Any] = yaml.safe_load(
        (ROOT / "configs/transformer/multi30k.yaml").read_text(encoding="utf-8")
    )
    config["model"]["init_args"].update(SIZES)
    config["data"]["init_args"]["batch_tokens"] = BATCH_TOKENS
    if not (corpus_root(None) / "multi30k/train.de").is_file():
        config["data"]["class_path"] = "datamodules.parallel.openmoji.EmojiTranslation"
    return config


def corpus() -> Any:
    """Data module of the configuration."""
    return data_of(recipe())


def ours(steps: int) -> dict[str, float]:
    """Target tokens per second of `train.py fit`, started as by a user."""
    rows = throughput(recipe(), WARMUP, steps, ["--trainer.log_every_n_steps", str(LOG_EVERY)])
    tokens = sum(row["tokens_per_second"] * row["seconds"] for row in rows)
    return {"tokens": tokens / sum(row["seconds"] for row in rows)}


class PlainTransformer(nn.Module):
    """`nn.Transformer` with one matrix for both embeddings and the output layer."""

    def __init__(
        self, vocab_size: int, layers: int, heads: int, width: int, hidden: int, dropout: float
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, width)
        self.register_buffer("places", sinusoids(torch.arange(1000), width))
        self.dropout = nn.Dropout(dropout)
        self.transformer = nn.Transformer(
            width, heads, layers, layers, hidden, dropout, batch_first=True
        )
        nn.init.normal_(self.embedding.weight, 0.0, width**-0.5)

    def embed(self, tokens: Tensor) -> Tensor:
        width = self.embedding.embedding_dim
        return self.dropout(
            self.embedding(tokens) * math.sqrt(width) + self.places[: tokens.shape[1]]
        )

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        hidden = self.transformer(
            self.embed(source),
            self.embed(target),
            tgt_mask=nn.Transformer.generate_square_subsequent_mask(
                target.shape[1], dtype=torch.bool
            ),
            src_key_padding_mask=source == PAD,
            tgt_key_padding_mask=target == PAD,
            memory_key_padding_mask=source == PAD,
            tgt_is_causal=True,
        )
        return F.linear(hidden, self.embedding.weight)


def random_batches(pairs: list[tuple[Tensor, Tensor]]) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield batches of random sentences without end: padded sources (N, S), targets (N, T + 1).

    A batch has at most `BATCH_TOKENS` padded target tokens.
    """
    while True:
        batch: list[tuple[Tensor, Tensor]] = []
        longest = 0
        for number in torch.randperm(len(pairs)).tolist():
            longest = max(longest, len(pairs[number][1]) - 1)
            if batch and (len(batch) + 1) * longest > BATCH_TOKENS:
                source, target = (
                    pad_sequence(list(side), batch_first=True, padding_value=PAD)
                    for side in zip(*batch)
                )
                yield source, target
                batch, longest = [], len(pairs[number][1]) - 1
            batch.append(pairs[number])


def plain(steps: int) -> dict[str, float]:
    """Target tokens per second of a hand-written loop."""
    config, data = recipe(), corpus()
    h, rows = config["model"]["init_args"], data.split("train")
    sides = [
        [
            torch.from_numpy(side.ids[first:last].astype("int64"))
            for first, last in pairwise(side.starts.tolist())
        ]
        for side in (rows.source, rows.target)
    ]
    batches = random_batches(list(zip(*sides)))
    torch.manual_seed(0)
    model = PlainTransformer(data.data_spec["vocab_size"], **SIZES, dropout=h["dropout"])
    adam = torch.optim.Adam(
        model.parameters(), h["scale"] * h["width"] ** -0.5, (0.9, 0.98), eps=1e-9
    )
    warm = h["warmup_steps"]
    schedule = torch.optim.lr_scheduler.LambdaLR(
        adam, lambda step: min((step + 1) ** -0.5, (step + 1) * warm**-1.5)
    )
    begin, tokens = 0.0, 0
    for step in range(steps + WARMUP):
        if step == WARMUP:
            begin, tokens = time.perf_counter(), 0
        source, target = next(batches)
        logits = model(source, target[:, :-1])
        loss = F.cross_entropy(
            logits.flatten(0, 1), target[:, 1:].flatten(), ignore_index=PAD, label_smoothing=0.1
        )
        adam.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), config["trainer"]["gradient_clip_val"])
        adam.step()
        schedule.step()
        tokens += int((target[:, 1:] != PAD).sum())
        if step % LOG_EVERY == 0:
            print(f"{step}: {loss.item():.3f}", file=sys.stderr)
    return {"tokens": tokens / (time.perf_counter() - begin)}


class Uncached:
    """Transformer without a cache: every step recomputes all previous target tokens.

    Args:
        model: Model that computes the logits.
    """

    def __init__(self, model: Transformer) -> None:
        self.model = model

    def decode_step(self, tokens: Tensor, state: Any) -> tuple[Tensor, Any]:
        memory, targets = state
        targets = torch.cat([targets, tokens[:, None]], 1)
        return self.model.decode(memory, targets)[:, -1], (memory, targets)

    def reorder_cache(self, state: Any, sentences: Tensor, rows: Tensor) -> Any:
        (sources, mask), targets = state
        return (
            [(keys[sentences], values[sentences]) for keys, values in sources],
            mask[sentences],
        ), targets[rows]


class Clock:
    """Records the time at which each decoding step starts.

    Args:
        model: Model that is timed.
    """

    def __init__(self, model: BeamSearchModel) -> None:
        self.model, self.moments = model, list[float]()

    def decode_step(self, tokens: Tensor, state: Any) -> tuple[Tensor, Any]:
        self.moments.append(time.perf_counter())
        return self.model.decode_step(tokens, state)

    def reorder_cache(self, state: Any, sentences: Tensor, rows: Tensor) -> Any:
        return self.model.reorder_cache(state, sentences, rows)

    def around(self, token: int) -> float:
        """Median seconds per step of the search around a number of generated tokens."""
        return statistics.median(
            b - a for a, b in pairwise(self.moments[token - WINDOW : token + WINDOW + 1])
        )


def writing(repeats: int) -> dict[str, float]:
    """Sentences per second with and without the cache, and seconds per early and late token."""
    torch.manual_seed(0)
    data = corpus()
    sizes = recipe()["model"]["init_args"]
    model = Transformer(
        **sizes, **{name: data.data_spec[name] for name in ("source_vocab_size", "vocab_size")}
    ).eval()
    batch = data.batch("test", list(range(SENTENCES)))

    @torch.no_grad()
    def write(
        contender: BeamSearchModel, count: int, max_lengths: list[int], cached: bool
    ) -> float:
        """Translate the first `count` sentences and return the seconds."""
        begin = time.perf_counter()
        length = batch["source_length"][:count]
        memory = model.encode(batch["source"][:count, : int(length.max())], length)
        state = (
            model.init_state(memory, max(max_lengths))
            if cached
            else (memory, torch.empty(count, 0, dtype=torch.int64))
        )
        search = BeamSearchConfig(beam=5, min_length=min(max_lengths))
        beam_search(
            contender,
            state,
            max_lengths,
            search,
            bos=BOS,
            eos=EOS,
            device=torch.device("cpu"),
        )
        return time.perf_counter() - begin

    max_lengths = [SHORTEST + number % (LONGEST + 1 - SHORTEST) for number in range(SENTENCES)]
    found: dict[str, list[float]] = {}
    write(model, 8, max_lengths[:8], cached=True)
    for _ in range(repeats):
        for name, contender in (("cached", model), ("uncached", Uncached(model))):
            found.setdefault(name, []).append(
                SENTENCES / write(contender, SENTENCES, max_lengths, cached=name == "cached")
            )
        clock = Clock(model)
        write(clock, 8, [LATE + 2 * WINDOW] * 8, cached=True)
        for token in (EARLY, LATE):
            found.setdefault(f"token {token}", []).append(clock.around(token))
    return {name: statistics.median(values) for name, values in found.items()}


CONTENDERS: Contenders = {"ours": ours, "plain": plain, "writing": writing}


def main() -> None:
    """Run everything in turns and print a table."""
    speed, s = compare(__file__, __doc__, CONTENDERS, "tokens", steps=60, rounds=3)
    table = [
        (
            "target tokens per second of training: ours, plain",
            speed["ours"],
            speed["plain"],
            ">= 2.7",
        ),
        ("sentences per second, beam 5: with, without cache", s["cached"], s["uncached"], ">= 8"),
        (
            f"ms per token of 8 x 5: {LATE}th, {EARLY}th token",
            1000 * s[f"token {LATE}"],
            1000 * s[f"token {EARLY}"],
            "< 1.5",
        ),
    ]
    print_table(table)


if __name__ == "__main__":
    main()
