"""Translators must learn to copy, reverse and sort digits within a minute."""

import itertools
import random
from pathlib import Path
from typing import Any

import pytest
import yaml

from lightning_modules import load
from lightning_modules.decoding.beam_search import BeamSearchConfig
from tests.trials.test_exact_resume import start

TASKS = {
    "copy": lambda text: text,
    "reverse": lambda text: text[::-1],
    "sort": lambda text: "".join(sorted(text)),
}
SIZES = {"train": 8000, "val": 200, "test": 500}
EPOCHS = 15
TRANSFORMER = {
    "layers": 2,
    "heads": 4,
    "width": 64,
    "hidden": 256,
    "scale": 0.4,
    "dropout": 0.0,
    "warmup_steps": 200,
    "average_every": 20,
}
SEQ2SEQ = {
    "attention": "additive",
    "width": 96,
    "embedding": 32,
    "dropout": 0.1,
    "learning_rate": 4e-3,
    "warmup_steps": 100,
}


def write_corpus(folder: Path, task: str) -> list[tuple[str, str]]:
    """Write a corpus of distinct strings of 3 to 12 digits; return the test pairs."""
    folder.mkdir()
    chance = random.Random(0)
    texts: dict[str, None] = {}
    while len(texts) < sum(SIZES.values()):
        texts["".join(chance.choices("0123456789", k=chance.randint(3, 12)))] = None
    rest = iter(texts)
    for split, size in SIZES.items():
        pairs = [(text, TASKS[task](text)) for text in itertools.islice(rest, size)]
        for side, ending in enumerate(("in", "out")):
            (folder / f"{split}.{ending}").write_text(
                "".join(f"{pair[side]}\n" for pair in pairs), encoding="utf-8"
            )
    return pairs


@pytest.mark.parametrize(
    ("task", "system", "options"),
    [
        ("copy", "transformer.Transformer", TRANSFORMER),
        ("reverse", "transformer.Transformer", TRANSFORMER),
        ("sort", "transformer.Transformer", TRANSFORMER),
        ("reverse", "seq2seq.Seq2Seq", SEQ2SEQ),
    ],
    ids=["copy", "reverse", "sort", "reverse-seq2seq"],
)
def test_digits(task: str, system: str, options: dict[str, Any], tmp_path: Path) -> None:
    """At least 99 % of unseen strings are transformed correctly."""
    pairs = write_corpus(tmp_path / "corpus", task)
    data = {
        "folder": str(tmp_path / "corpus"),
        "source": "in",
        "target": "out",
        "tokenizer": "char",
        "root": str(tmp_path),
    }
    config = {
        "model": {"class_path": f"lightning_modules.{system}", "init_args": options},
        "data": {
            "class_path": "datamodules.parallel.files.ParallelFiles",
            "init_args": {**data, "batch_tokens": 512},
        },
        "trainer": {
            "max_epochs": EPOCHS,
            "gradient_clip_val": 1.0,
            "check_val_every_n_epoch": EPOCHS,
        },
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    process = start(
        ["fit", "--config", str(tmp_path / "config.yaml"), "--run_dir", str(tmp_path / "run")]
    )
    _, errors = process.communicate()
    assert process.returncode == 0, errors
    made = load(tmp_path / "run/checkpoints/last.ckpt").translate(
        [text for text, _ in pairs], BeamSearchConfig()
    )
    assert sum(text == answer for text, (_, answer) in zip(made, pairs)) >= 0.99 * len(pairs)
