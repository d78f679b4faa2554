"""ELECTRA: masking, labels of replaced tokens, losses and gradients, and the probe."""

from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
import yaml
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import train
from common.errors import UserError
from common.files import ROOT
from datamodules.text.files import TextFiles
from datamodules.text.records import LengthBatchSampler
from datamodules.tokenizers.bpe import BPETokenizer
from datamodules.tokenizers.simple import CharTokenizer
from lightning_modules import load
from lightning_modules.electra import ELECTRA, MASK_SHARE
from metrics.probe import swap_two, swapped_words_probe

VOCABULARY = 12


SMALL = {"context": 20, "layers": 1, "heads": 4, "width": 16, "embedding": 8, "dropout": 0.0}


def electra(**options: Any) -> ELECTRA:
    torch.manual_seed(0)
    return ELECTRA(**{**SMALL, "vocab_size": VOCABULARY, "special_ids": [0, 1, 2], **options})


def texts(*lengths: int) -> tuple[Tensor, Tensor]:
    """Texts (N, T) between <bos> and <eos>, padded, and their lengths."""
    tokens = torch.zeros(len(lengths), max(lengths), dtype=torch.int64)
    for row, length in enumerate(lengths):
        tokens[row, :length] = torch.randint(3, VOCABULARY, (length,))
        tokens[row, 0], tokens[row, length - 1] = 1, 2
    return tokens, torch.tensor(lengths)


def test_fifteen_per_cent_are_masked_and_no_special_token() -> None:
    """15 % of the words, rounded up, are masked at new random positions each time (Eq. 1)."""
    model, (tokens, length) = electra(), texts(20, 9, 4)
    found = [model(tokens, length) for _ in range(30)]
    for outcome in found:
        assert outcome.chosen.sum(1).tolist() == [3, 2, 1], "of 18, 7 and 2 words"
        assert (tokens[outcome.chosen] >= 3).all()
        untouched = outcome.corrupt[~outcome.chosen]
        assert torch.equal(untouched, tokens[~outcome.chosen])
    assert len({tuple(outcome.chosen.flatten().tolist()) for outcome in found}) > 20


def test_special_tokens_may_have_any_ids(tmp_path: Path) -> None:
    """Only words are masked if special tokens have the last ids, also after loading."""
    trained = BPETokenizer.train(["the cat sat on a mat"] * 9, 280)
    words = trained.vocab_size
    trained.model.add_special_tokens(["<eos>", "<pad>", "<bos>"])
    (tmp_path / "tokenizer.json").write_text(trained.model.to_str(), encoding="utf-8")
    (tmp_path / "text.txt").write_text("the cat sat on a mat\na cat\n" * 30, encoding="utf-8")
    data = {
        "path": str(tmp_path / "text.txt"),
        "tokenizer_file": str(tmp_path / "tokenizer.json"),
        "root": str(tmp_path),
    }
    data |= {"batching": "records", "context": 20, "batch_size": 4}
    config = {
        "model": {"class_path": "lightning_modules.electra.ELECTRA", "init_args": SMALL},
        "data": {"class_path": "datamodules.text.files.TextFiles", "init_args": data},
        "trainer": {"max_steps": 1, "limit_val_batches": 0, "accelerator": "cpu"},
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    assert (
        train.main(
            ["fit", "--config", str(tmp_path / "config.yaml"), "--run_dir", str(tmp_path / "run")]
        )
        == 0
    )
    model = load(tmp_path / "run/checkpoints/last.ckpt")
    batch = TextFiles(**data).batch("train", [0, 1])  # type: ignore[arg-type]
    for _ in range(20):
        outcome = model(batch["tokens"], batch["length"] + 1)
        assert outcome.chosen.any(1).all()
        assert batch["tokens"][outcome.chosen].max() < words
        assert (outcome.corrupt[:, 0] == words + 2).all(), "each text starts with <bos>"


def test_a_guess_that_is_right_counts_as_original() -> None:
    """With a generator that always samples 7, masked 7s count as original (Eq. 4)."""
    model = electra()
    with torch.no_grad():
        model.bias[7] = 1e4
    tokens = torch.tensor([[1, 7, 5, 7, 7, 4, 7, 7, 7, 7, 7, 2]])
    labels, seen = torch.zeros(1, 12), set()
    for _ in range(40):
        outcome = model(tokens, torch.tensor([12]))
        labels = (outcome.chosen & (tokens != 7)).float()
        seen.add(tuple(labels[0].tolist()))
        assert torch.equal(outcome.corrupt != tokens, labels.bool())
        assert (outcome.corrupt[outcome.chosen] == 7).all()
        assert outcome.replaced_logits is not None
        torch.testing.assert_close(
            outcome.main_nll,
            F.binary_cross_entropy_with_logits(outcome.replaced_logits, labels, reduction="none"),
        )
    assert len(seen) > 1


def test_both_losses_reach_the_total_with_their_weights() -> None:
    """The total loss is Eq. 5 with lambda = 50."""
    model, (tokens, length) = electra(), texts(20, 20)
    outcome = model(tokens, length)
    assert outcome.generator_nll.sum() > 0
    assert (outcome.generator_nll[~outcome.chosen] == 0).all()
    expected = outcome.generator_nll.sum() / (MASK_SHARE * 40) + 50 * outcome.main_nll.sum() / 40
    torch.testing.assert_close(model.losses(outcome, 40)["loss"], expected)


@pytest.mark.parametrize("objective", ["electra", "all_tokens", "replace_mlm"])
def test_fewer_positions_give_the_same_losses(objective: Any) -> None:
    """Computing only the positions needed (`count`) gives the same losses."""
    torch.manual_seed(0)
    model = ELECTRA(20, context=29, objective=objective, layers=1, width=16, embedding=8).eval()
    tokens, length = torch.randint(20, (4, 30)), torch.tensor([30, 19, 3, 1])
    every, few = (
        model(tokens, length, count, torch.Generator().manual_seed(1))
        for count in (None, int(length.sum()))
    )
    assert every.chosen.sum() == 5 + 3 + 1 + 1
    for one, other in zip(every[:-1], few[:-1]):
        torch.testing.assert_close(one, other)


def test_the_discriminator_teaches_the_generator_nothing() -> None:
    """Sampled tokens have no gradient; the tied embeddings get gradients of both losses."""
    model, (tokens, length) = electra(), texts(20, 12)
    assert model.generator is not None
    model(tokens, length).main_nll.sum().backward()
    assert all(
        p.grad is None for p in [*model.generator.parameters(), *model.generator_head.parameters()]
    )
    from_discriminator = model.embedding.weight.grad.abs().sum()  # type: ignore[union-attr]
    assert from_discriminator > 0
    model.zero_grad()
    model(tokens, length).generator_nll.sum().backward()
    assert all(p.grad is not None for p in model.generator.parameters())
    assert all(p.grad is None for p in model.main.parameters())
    assert model.embedding.weight.grad.abs().sum() > 0  # type: ignore[union-attr]


def test_the_generator_has_a_quarter_of_the_width() -> None:
    model = electra(width=32)
    assert model.generator is not None
    assert model.generator.input.out_features * 4 == model.main.input.out_features
    assert len(model.generator.blocks) == len(model.main.blocks)


@pytest.mark.parametrize(
    ("objective", "everywhere", "masked"),
    [("electra", True, False), ("electra_15", False, False), ("all_tokens", True, False),
     ("replace_mlm", False, False), ("mlm", False, True)],
)  # fmt: skip
def test_objectives_of_table_5(objective: Any, everywhere: bool, masked: bool) -> None:
    """Each objective has its positions with a loss and its input of the large model."""
    model, (tokens, length) = electra(objective=objective), texts(20, 12)
    outcome = model(tokens, length)
    assert torch.equal(outcome.main_nll > 0, outcome.valid if everywhere else outcome.chosen)
    assert (outcome.corrupt == model.mask_id).any() == masked
    assert (model.generator is None) == masked
    model.losses(outcome, 32)["loss"].backward()
    assert model.main.input.weight.grad.abs().sum() > 0  # type: ignore[union-attr]


def test_words_of_all_tokens_have_probabilities() -> None:
    """Probabilities of gate and softmax sum to 1 over all words."""
    model = electra(objective="all_tokens").eval()
    tokens, length = texts(12)
    total = torch.zeros(12)
    hidden = model.represent(tokens, length)[0]
    for word in range(VOCABULARY):
        named = model.word_logits(model.word_head, hidden).softmax(-1)[:, word]  # type: ignore[arg-type]
        copied = model.discriminator_head(hidden)[:, 0].sigmoid()
        total += copied * (tokens[0] == word) + (1 - copied) * named
    torch.testing.assert_close(total, torch.ones(12))


def test_padding_never_shows() -> None:
    model, (tokens, length) = electra().eval(), texts(20, 9)
    alone = model.represent(tokens[1:, :9], length[1:])
    torch.testing.assert_close(model.represent(tokens, length)[1:, :9], alone, atol=1e-5, rtol=1e-5)


def test_a_preview_shows_replaced_tokens() -> None:
    """Replaced tokens are marked, and the global random state does not change."""

    class Letters:
        def token(self, number: int) -> str:
            return chr(97 + number) if number % 3 else " \n"

    model, (tokens, length) = electra().eval(), texts(20, 9)
    model.tokenizer = Letters()  # type: ignore[assignment]
    with torch.no_grad():
        model.discriminator_head[2].bias.fill_(9.0)  # type: ignore[operator, union-attr]
    before = torch.get_rng_state()
    lines = model.preview({"tokens": tokens, "length": length - 1, "num_targets": 27})["corrupted"]
    assert torch.equal(before, torch.get_rng_state())
    assert [line.count("[") for line in lines] == [20, 9], "all tokens are detected"
    text = "".join(lines)  # type: ignore[arg-type]
    assert 0 < text.count("(") <= 5
    assert r"[␣\n]" in text, "blanks are visible"


# The probe


def test_scores_of_a_text_are_probabilities_of_replacement() -> None:
    """They are the sigmoid of the logits in `forward` for a text without replaced tokens."""
    tokenizer = CharTokenizer("acehirst ", ["<pad>", "<bos>", "<eos>"])
    model = electra(vocab_size=tokenizer.vocab_size).eval()
    model.tokenizer = tokenizer
    scores = model.score_tokens(" the cat is here ")
    assert "".join(token for token, _ in scores) == "the cat is here"
    tokens = torch.tensor([[1, *tokenizer.encode("the cat is here").tolist(), 2]])
    length = torch.tensor([tokens.shape[1]])
    with mock.patch.object(model, "replace", lambda clean, *_: (clean, torch.zeros(()))):
        logits = model(tokens, length).replaced_logits
    expected = logits[0, 1:-1].sigmoid()
    assert torch.allclose(torch.tensor([score for _, score in scores]), expected, atol=1e-6)
    with pytest.raises(UserError, match="23 tokens, and the model reads at most 21"):
        model.score_tokens("the cat is here a cat")
    with pytest.raises(UserError, match="the text is empty"):
        model.score_tokens("  ")
    other = electra(objective="mlm")
    with pytest.raises(UserError, match="objective mlm does not detect replaced tokens"):
        other.score_tokens("the")


def test_two_neighbours_are_exchanged() -> None:
    tokens, length = texts(20, 9, 3)
    swapped = swap_two(tokens, length, torch.Generator().manual_seed(0))
    for row, size in enumerate(length.tolist()):
        (places,) = (swapped[row] != tokens[row]).nonzero(as_tuple=True)
        if size == 3:
            assert len(places) == 0, "too short to swap"
            continue
        first, second = places.tolist()
        assert second == first + 1
        assert first > 0
        assert second < size - 1
        assert swapped[row, places].tolist() == tokens[row, places].flip(0).tolist()


class Sorted:
    """Data of increasing numbers: a swap is the only decrease."""

    def split(self, name: str) -> range:
        return range(400)

    def split_name(self, name: str) -> str:
        return name

    def batch(self, name: str, index: list[int], seed: int) -> dict[str, Tensor]:
        tokens = torch.stack([torch.arange(10) + i % 50 for i in index])
        return {"tokens": tokens, "length": torch.full((len(index),), 9)}


def test_a_probe_finds_what_is_there_and_nothing_else() -> None:
    with torch.inference_mode():
        seen = swapped_words_probe(
            lambda x, _: (x.diff(dim=1, prepend=x[:, :1]) < 0)[..., None], Sorted(), "cpu", 200, 100
        )
        blind = swapped_words_probe(
            lambda x, _: torch.zeros(*x.shape, 2), Sorted(), "cpu", 200, 100
        )
    assert seen[0] == 1.0
    assert blind[0] == pytest.approx(0.5, abs=0.01)
    assert "n_train=400|n=200|split=test" in seen[1]


# Number of training captions of Multi30k with 0, 1, 2, … tokens, including <bos> and <eos>
# (byte-pair encoding of 4,000 ids).
CAPTIONS = [
    *(
        0,
        0,
        0,
        0,
        0,
        0,
        5,
        23,
        126,
        545,
        1221,
        1780,
        2335,
        2841,
        2852,
        2740,
        2608,
        2219,
        1864,
        1642,
        1260,
        1070,
        895,
        696,
        513,
    ),
    *(
        440,
        296,
        240,
        210,
        137,
        93,
        90,
        53,
        41,
        28,
        30,
        23,
        14,
        8,
        9,
        16,
        8,
        7,
        7,
        3,
        2,
        3,
        1,
        2,
        3,
        0,
        0,
        0,
        0,
        0,
        1,
    ),
]


def test_the_comparison_is_at_equal_compute() -> None:
    """Training FLOPs of the variants, estimated on every 8th row, differ by less than 1 %."""
    entry = yaml.safe_load(
        (ROOT / "configs/_reproduce/electra-probe.yaml").read_text(encoding="utf-8")
    )
    recipe = yaml.safe_load((ROOT / entry["config"]).read_text(encoding="utf-8"))
    lengths = np.repeat(np.arange(len(CAPTIONS)), CAPTIONS)
    sampler = LengthBatchSampler(
        lengths, recipe["data"]["init_args"]["batch_size"], seed=0, name="train"
    )
    batches = sorted(
        (torch.from_numpy(lengths[request.index]) for request in sampler),
        key=lambda length: int(length.max()),
    )
    spent = {}
    for name, overrides in entry["variants"].items():
        torch.manual_seed(0)
        model = ELECTRA(
            4000,
            special_ids=[0, 1, 2],
            **{**recipe["model"]["init_args"], "objective": overrides["model.objective"]},
        )
        with (
            FlopCounterMode(display=False) as counter,
            sdpa_kernel(SDPBackend.MATH),
        ):  # the fused kernel is not counted
            for length in batches[56::113]:
                part = length[::8]
                output = model(torch.randint(3, 4000, (len(part), int(length.max()))), part)
                model.losses(output, int(part.sum()))["loss"].backward()
        spent[name] = counter.get_total_flops() * overrides["trainer.max_steps"]
    assert len(spent) == 3
    assert max(spent.values()) / min(spent.values()) < 1.01, spent
