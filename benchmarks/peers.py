"""Training speed compared with other libraries and with common loops; run by `make bench`.

Each row trains a network of the same size on the same data with `train.py fit`, with the default
callbacks and the CSV logger, and with the other contender, in turns in one process:

- VAE 784-512-16 at batch 128, and the trainer of pythae;
- GPT in nanoGPT's configuration for a CPU, and three loops: one as in nanoGPT, with windows that
  are cut out one by one and AdamW that updates one tensor at a time; GPT-2 of transformers and the
  decoder of x-transformers, both with windows gathered at once and fused AdamW;
- Transformer of JoeyNMT's size, in target tokens per second, and two loops: `nn.Transformer` with
  batches of random sentences, and the Marian model of transformers with the batches of ours.

The results are added to docs/speed.md and docs/speed.json. The exit code is 1 if a ratio is below
its target.
"""

import argparse
import json
import logging
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks import language, seq2seq, vae
from benchmarks.in_turns import alternate
from benchmarks.systems import write_results
from lightning_modules.core.translator import BOS, EOS, PAD

VAE_UPDATES, GPT_UPDATES, TRANSFORMER_UPDATES = 400, 300, 10


def pythae() -> float:
    """Updates per second of the trainer of pythae."""
    from pythae.data.datasets import BaseDataset
    from pythae.models import VAE, VAEConfig
    from pythae.trainers import BaseTrainer, BaseTrainerConfig

    logging.disable(logging.CRITICAL)
    with tempfile.TemporaryDirectory() as folder:
        images = vae.training_images()[: VAE_UPDATES * vae.BATCH].float() / 255
        config = VAEConfig(
            input_dim=tuple(images.shape[1:]), latent_dim=vae.LATENT, reconstruction_loss="bce"
        )
        training = BaseTrainerConfig(
            output_dir=folder,
            num_epochs=1,
            per_device_train_batch_size=vae.BATCH,
            learning_rate=1e-3,
            no_cuda=True,
        )
        data = BaseDataset(images, torch.zeros(len(images)))
        trainer = BaseTrainer(VAE(config), data, training_config=training)
        begin = time.perf_counter()
        trainer.train()
    return len(images) / vae.BATCH / (time.perf_counter() - begin)


def loop_speed(
    model: nn.Module,
    batches: Iterator[tuple[Any, int]],
    loss: Callable[[Any], Tensor],
    warm_up: int,
    updates: int,
) -> float:
    """Train with fused AdamW and return the amount of data per second after a warm-up.

    Args:
        model: Network.
        batches: Batches and the amount of data in each.
        loss: Function of a batch.
        warm_up: Number of updates before the measurement.
        updates: Number of updates in the measurement.
    """
    model.train()
    adam = torch.optim.AdamW(model.parameters(), 1e-3, (0.9, 0.99), fused=True)
    begin, amount = 0.0, 0
    for update in range(warm_up + updates):
        if update == warm_up:
            begin, amount = time.perf_counter(), 0
        batch, size = next(batches)
        adam.zero_grad()
        loss(batch).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        adam.step()
        amount += size
    return amount / (time.perf_counter() - begin)


def windows() -> tuple[dict[str, Any], int, Iterator[tuple[Tensor, int]]]:
    """Return the arguments of nanoGPT's network, the vocabulary size, and batches of windows."""
    config, data = language.recipe(), language.corpus()
    h, batch_size = config["model"]["init_args"], config["data"]["init_args"]["batch_size"]
    ids = torch.from_numpy(data.tokens("train").ids.astype(np.int64)).unfold(0, h["context"] + 1, 1)

    def batches() -> Iterator[tuple[Tensor, int]]:
        while True:
            yield ids[torch.randint(len(ids), (batch_size,))], 1

    return h, data.data_spec["vocab_size"], batches()


def gpt2() -> float:
    """Updates per second of GPT-2 of transformers, in a loop."""
    from transformers import GPT2Config, GPT2LMHeadModel

    h, vocab_size, batches = windows()
    model = GPT2LMHeadModel(
        GPT2Config(
            vocab_size=vocab_size,
            n_positions=h["context"],
            n_embd=h["width"],
            n_layer=h["layers"],
            n_head=h["heads"],
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
            use_cache=False,
        )
    )

    def loss(batch: Tensor) -> Tensor:
        return F.cross_entropy(model(batch[:, :-1]).logits.flatten(0, 1), batch[:, 1:].flatten())

    return loop_speed(model, batches, loss, language.WARMUP, GPT_UPDATES)


def x_transformers() -> float:
    """Updates per second of the decoder of x-transformers, in a loop."""
    from x_transformers import Decoder, TransformerWrapper

    h, vocab_size, batches = windows()
    model = TransformerWrapper(
        num_tokens=vocab_size,
        max_seq_len=h["context"],
        tie_embedding=True,
        attn_layers=Decoder(
            dim=h["width"],
            depth=h["layers"],
            heads=h["heads"],
            attn_dim_head=h["width"] // h["heads"],
            attn_flash=True,
        ),
    )

    def loss(batch: Tensor) -> Tensor:
        return F.cross_entropy(model(batch[:, :-1]).flatten(0, 1), batch[:, 1:].flatten())

    return loop_speed(model, batches, loss, language.WARMUP, GPT_UPDATES)


def marian() -> float:
    """Target tokens per second of the Marian model of transformers, in a loop."""
    from transformers import MarianConfig, MarianMTModel

    data, h = seq2seq.corpus(), seq2seq.SIZES
    vocab_size = data.data_spec["vocab_size"]
    model = MarianMTModel(
        MarianConfig(
            vocab_size=vocab_size,
            d_model=h["width"],
            encoder_layers=h["layers"],
            decoder_layers=h["layers"],
            encoder_attention_heads=h["heads"],
            decoder_attention_heads=h["heads"],
            encoder_ffn_dim=h["hidden"],
            decoder_ffn_dim=h["hidden"],
            pad_token_id=PAD,
            eos_token_id=EOS,
            decoder_start_token_id=BOS,
            use_cache=False,
        )
    )

    def batches() -> Iterator[tuple[dict[str, Any], int]]:
        while True:
            for batch in data.loader("train", shuffle=True):
                yield batch, batch["num_targets"]

    def loss(batch: dict[str, Any]) -> Tensor:
        target = batch["target"]
        logits = model(
            input_ids=batch["source"],
            attention_mask=(batch["source"] != PAD).long(),
            decoder_input_ids=target[:, :-1],
        ).logits
        return F.cross_entropy(
            logits.flatten(0, 1), target[:, 1:].flatten(), ignore_index=PAD, label_smoothing=0.1
        )

    return loop_speed(model, batches(), loss, seq2seq.WARMUP, TRANSFORMER_UPDATES)


def our_vae() -> float:
    """Updates per second of the VAE of `benchmarks/vae.py`."""
    return vae.ours(VAE_UPDATES)["steps_per_second"]


def our_gpt() -> float:
    """Updates per second of nanoGPT's configuration for a CPU."""
    return 1 / language.ours(GPT_UPDATES)["step"]


def our_transformer() -> float:
    """Target tokens per second of the Transformer of `benchmarks/seq2seq.py`."""
    return seq2seq.ours(TRANSFORMER_UPDATES)["tokens"]


# Title, contenders, and the smallest ratio that is not a regression.
ROWS: list[tuple[str, Callable[[], float], Callable[[], float], float]] = [
    ("VAE: pythae", our_vae, pythae, 1.3),
    (
        "GPT: loop of nanoGPT",
        our_gpt,
        lambda: 1 / language.plain(GPT_UPDATES)["step"],
        1.1,
    ),
    ("GPT: GPT-2 of transformers", our_gpt, gpt2, 1.0),
    ("GPT: x-transformers", our_gpt, x_transformers, 1.0),
    (
        "Transformer: random batches",
        our_transformer,
        lambda: seq2seq.plain(TRANSFORMER_UPDATES)["tokens"],
        2.6,
    ),
    ("Transformer: Marian of transformers", our_transformer, marian, 1.0),
]


def main() -> None:
    """Compare with all peers and add the results to those of `systems.py`."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pairs", type=int, default=5, help="pairs of measurements per row")
    parser.add_argument(
        "--rows", nargs="+", default=[""], help="measure only rows whose title begins so"
    )
    parser.add_argument("--out", type=Path, default=ROOT / "docs", help="folder of the results")
    options = parser.parse_args()
    path = options.out / "speed.json"
    results = json.loads(path.read_text(encoding="utf-8"))
    measured = {one["title"]: one for one in results.get("peers", [])}
    slow = []
    for title, ours, other, target in ROWS:
        if not title.startswith(tuple(options.rows)):
            continue
        one = alternate(ours, other, options.pairs)
        measured[title] = {"title": title, "target": target, **one}
        print(
            f"{title:40} ours {one['ours']:8.1f}/s  other {one['other']:8.1f}/s  "
            f"ratio {one['ratio']:.2f} ({one['low']:.2f} to {one['high']:.2f})",
            flush=True,
        )
        slow += [title] if one["ratio"] < target else []
    results["peers"] = [measured[title] for title, *_ in ROWS if title in measured]
    write_results(results, options.out)
    if slow:
        sys.exit(f"below the target: {', '.join(slow)}")


if __name__ == "__main__":
    main()
