"""GPT and decoding: cached decoding, independent rows, filters, and the published architecture."""

import ast
import io
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch import Tensor, nn
from torch.nn import functional as F

import sample
import train
from cli.data import data_module
from cli.sampling.text import print_surprisals
from cli.training import TrainCLI
from common.errors import UserError
from common.files import ROOT
from datamodules.tokenizers.base import RECORD
from datamodules.tokenizers.bpe import BPETokenizer
from datamodules.tokenizers.simple import CharTokenizer
from lightning_modules import load
from lightning_modules.core.language_model import context_start
from lightning_modules.decoding.filters import (
    SamplingConfig,
    min_p_filter,
    repetition_penalty,
    top_k_filter,
    top_p_filter,
)
from lightning_modules.decoding.generation import draw, generate
from lightning_modules.gpt import GPT
from lightning_modules.nn.attention import recording_attention
from lightning_modules.nn.transformer import rotate
from lightning_modules.optim.muon import Muon, orthogonalise
from tests.test_parallel import fit

MODERN: dict[str, Any] = {
    "norm": "rms",
    "positions": "rotary",
    "feed_forward": "swiglu",
    "qk_norm": True,
}
OPTIONS = {"gpt-2": {}, "modern": MODERN, "odd": {"context": 7}, "pairs": {"bigram_rows": 50}}


def gpt(**options: Any) -> GPT:
    torch.manual_seed(0)
    model = GPT(
        **{"vocab_size": 11, "context": 12, "layers": 2, "heads": 2, "width": 16, **options}
    ).eval()
    for p in model.parameters():
        if p.dim() >= 2:
            p.data.mul_(8)  # so that logits differ
    return model


# The network


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_no_token_sees_what_comes_after_it(options: dict[str, Any]) -> None:
    model, tokens = gpt(**options), torch.randint(11, (2, 7))
    changed = tokens.clone()
    changed[:, 4:] = (changed[:, 4:] + 1) % 11
    one, other = model(tokens), model(changed)
    torch.testing.assert_close(one[:, :4], other[:, :4], atol=1e-5, rtol=0)
    assert not torch.allclose(one[:, 4:], other[:, 4:])


def test_each_pair_of_adjacent_tokens_has_an_embedding() -> None:
    """With V (V + 1) rows, the pairs and the V single first tokens use different rows."""
    model, used = gpt(vocab_size=5, bigram_rows=30), []
    assert model.bigrams is not None
    model.bigrams.register_forward_pre_hook(lambda _, inputs: used.extend(inputs[0].flatten()))
    model(torch.cartesian_prod(torch.arange(5), torch.arange(5)))
    assert len({int(row) for row in used}) == 30
    plain = gpt(vocab_size=5)
    assert plain.bigrams is None
    with torch.no_grad():
        model.bigrams.weight.zero_()
    plain.load_state_dict(
        {name: value for name, value in model.state_dict().items() if "bigrams" not in name}
    )
    tokens = torch.randint(5, (2, 12))
    assert torch.equal(model(tokens), plain(tokens))


@torch.no_grad()
def test_an_exported_step_with_pairs_of_tokens_is_the_network() -> None:
    """The step receives the previous token, -1 at the start."""
    model, tokens = gpt(bigram_rows=132), torch.randint(11, (2, 9))
    step = model.networks()["step"]
    assert list(step.inputs) == ["token", "cache", "previous"]
    cache, before = step.inputs["cache"][..., :0, :], torch.full((2, 1), -1)
    for position, token in enumerate(tokens.split(1, 1)):
        logits, cache = step.module(token, cache, before)
        torch.testing.assert_close(logits, model(tokens)[:, position], atol=1e-5, rtol=1e-5)
        before = token


@pytest.mark.parametrize("options", [{}, MODERN], ids=["gpt-2", "modern"])
def test_attention_that_is_watched_is_the_same(options: dict[str, Any]) -> None:
    """Recording keeps the logits; attention rows sum to 1 and are causal."""
    model, tokens = gpt(**options), torch.randint(11, (2, 12))
    expected = model(tokens)
    with recording_attention(model) as weights:
        torch.testing.assert_close(model(tokens), expected, atol=1e-5, rtol=1e-5)
    assert [one.shape for one in weights] == [(2, 2, 12, 12)] * 2
    for one in weights:
        torch.testing.assert_close(one.sum(-1), torch.ones(2, 2, 12))
        assert one.triu(1).abs().max() == 0


def test_blocks_are_those_of_pytorch() -> None:
    """A pre-norm `nn.TransformerEncoderLayer` with the same weights gives the same outputs."""
    model = gpt()
    reference = nn.TransformerEncoderLayer(
        16, 2, 64, 0.0, F.gelu, batch_first=True, norm_first=True
    ).eval()
    x = torch.randn(3, 12, 16)
    for block in model.blocks:
        mine = dict(block.named_parameters())
        names = {
            **{
                "self_attn.in_proj_weight": "attention.qkv.weight",
                "self_attn.in_proj_bias": "attention.qkv.bias",
            },
            **{
                "self_attn.out_proj.weight": "attention.output.weight",
                "self_attn.out_proj.bias": "attention.output.bias",
            },
            **{
                "linear1.weight": "feed_forward.input.weight",
                "linear1.bias": "feed_forward.input.bias",
            },
            **{
                "linear2.weight": "feed_forward.output.weight",
                "linear2.bias": "feed_forward.output.bias",
            },
            **{
                f"norm{i + 1}.{kind}": f"norms.{i}.{kind}"
                for i in (0, 1)
                for kind in ("weight", "bias")
            },
        }
        reference.load_state_dict({theirs: mine[ours] for theirs, ours in names.items()})
        mask = nn.Transformer.generate_square_subsequent_mask(12)
        torch.testing.assert_close(block(x), reference(x, mask), atol=1e-4, rtol=1e-4)


def test_logits_are_pinned() -> None:
    """Fixed weights give fixed logits, which detects changes of the arithmetic."""
    model = GPT(vocab_size=5, context=4, layers=1, heads=1, width=4)
    with torch.no_grad():
        for number, p in enumerate(model.parameters()):
            p.copy_(torch.sin(torch.arange(p.numel(), dtype=torch.float32) + number).view_as(p))
    logits = model(torch.tensor([[0, 3, 1]]))
    expected = torch.tensor(PINNED)
    torch.testing.assert_close(logits[0], expected, atol=1e-5, rtol=0)


PINNED = [
    [-1.6500391, -0.4892483, 2.2896276, -2.5039523, 0.9837574],
    [-2.2835689, -0.1100166, 2.4273920, -3.0632820, 1.5771976],
    [-1.9605755, -0.5920610, 2.7345693, -2.9828067, 1.1648157],
]


def test_gpt_2_has_its_124_million_parameters() -> None:
    with torch.device("meta"):
        model = GPT(vocab_size=50257, context=1024, layers=12, heads=12, width=768)
    assert sum(p.numel() for p in model.parameters()) == 124_439_808


@pytest.mark.parametrize(
    ("name", "vocab_size", "printed"),
    [
        ("tiny_shakespeare_cpu", 65, "0.80M"),
        ("tiny_shakespeare", 65, "10.65M"),
        ("openwebtext_124m", 50304, "123.59M"),
    ],
)
def test_configurations_of_nanogpt_have_its_parameters(
    name: str, vocab_size: int, printed: str
) -> None:
    """Models have no biases and nanoGPT's printed parameter count, which omits the positions."""
    options = yaml.safe_load((ROOT / f"configs/gpt/{name}.yaml").read_text(encoding="utf-8"))[
        "model"
    ]["init_args"]
    with torch.device("meta"):
        model = GPT(vocab_size=vocab_size, **options)
    context, layers, width = (options[key] for key in ("context", "layers", "width"))
    matrices = vocab_size * width + layers * (3 + 1 + 4 + 4) * width**2
    gains = (2 * layers + 1) * width
    assert sum(p.numel() for p in model.parameters()) == matrices + gains + context * width
    assert f"{(matrices + gains) / 1e6:.2f}M" == printed
    assert not [name for name, _ in model.named_parameters() if "bias" in name]


def test_a_gpt_without_biases_is_one_whose_biases_are_zero() -> None:
    """The option removes only the biases, with and without the cache."""
    plain, biased = gpt(bias=False), gpt(bias=True)
    with torch.no_grad():
        biased.load_state_dict(
            {name: torch.zeros_like(p) for name, p in biased.state_dict().items()}
            | plain.state_dict()
        )
        torch.testing.assert_close(
            plain(torch.tensor([[1, 2, 3]])),
            biased(torch.tensor([[1, 2, 3]])),
            atol=1e-6,
            rtol=1e-6,
        )
        prompt = torch.tensor([[1, 2, 3]])
        (one, state), (other, _) = plain.prefill(prompt), biased.prefill(prompt)
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-6)
        torch.testing.assert_close(
            plain.decode_step(torch.tensor([4]), state)[0][0],
            plain(torch.tensor([[1, 2, 3, 4]]))[0, -1],
            atol=1e-5,
            rtol=1e-5,
        )


def test_weights_begin_as_in_gpt_2() -> None:
    torch.manual_seed(0)
    model = GPT(vocab_size=100, context=64, layers=8, heads=4, width=128)
    assert model.blocks[0].attention.qkv.weight.std().item() == pytest.approx(0.02, rel=0.03)
    for branch in (model.blocks[3].attention, model.blocks[3].feed_forward):
        assert branch.output.weight.std().item() == pytest.approx(0.02 / 4, rel=0.03)
    loss = F.cross_entropy(
        model(torch.randint(100, (4, 64))).flatten(0, 1), torch.randint(100, (256,))
    )
    assert loss.item() == pytest.approx(math.log(100), abs=0.1), (
        "the initial distribution is nearly uniform"
    )


def test_rotary_positions_are_relative() -> None:
    """Dot products of rotated queries and keys depend on the distance only; norms are kept."""
    q, k = torch.randn(2, 1, 1, 1, 8)
    meets = [
        (rotate(q, torch.tensor([m])) * rotate(k, torch.tensor([n]))).sum().item()
        for m, n in ((3, 1), (7, 5), (12, 10))
    ]
    assert meets == pytest.approx([meets[0]] * 3, abs=1e-5)
    torch.testing.assert_close(rotate(q, torch.tensor([9])).norm(), q.norm())


@pytest.mark.parametrize("wrong", [{"width": 15}, {"width": 6, "heads": 2, "positions": "rotary"}])
def test_width_and_heads_have_to_fit(wrong: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"model.width must be a multiple of .*model.heads"):
        gpt(**wrong)


# The cache


def uncached(model: GPT, history: Tensor) -> Tensor:
    """Next-token logits (N, V) after tokens (N, T), without a cache."""
    return model(history[:, context_start(history.shape[1], model.context) :])[:, -1]


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("length", [1, 5, 12, 30])
@torch.no_grad()
def test_cached_logits_are_the_uncached_ones(options: dict[str, Any], length: int) -> None:
    """Cached and uncached logits agree, also after the context is full."""
    model = gpt(**options)
    history = torch.randint(11, (3, length))
    logits, state = model.prefill(history)
    for step in range(30):
        torch.testing.assert_close(
            logits, uncached(model, history), atol=1e-5, rtol=1e-5, msg=f"step {step}"
        )
        tokens = torch.randint(11, (3,))
        history = torch.cat([history, tokens[:, None]], 1)
        logits, state = model.decode_step(tokens, state)


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("prompt", [[3], list(range(11)) * 3])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_the_plain_sampling_loop_gives_the_tokens_of_the_fast_one(
    options: dict[str, Any], prompt: list[int], temperature: float
) -> None:
    model, seeds = gpt(**options), [5, 6, 7]
    fast = generate(
        model,
        torch.tensor([prompt] * 3),
        seeds,
        max_new_tokens=40,
        config=SamplingConfig(temperature),
    )
    assert model.sample_plain(prompt, seeds, 40, temperature) == fast
    assert len({tuple(row) for row in fast}) == 3


def test_the_cache_follows_the_precision_of_what_it_is_given() -> None:
    model = gpt()
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        logits, state = model.prefill(torch.tensor([[1, 2, 3], [4, 4, 4]]))
        for _ in range(14):
            logits, state = model.decode_step(torch.tensor([5, 6]), state)
    assert logits.isfinite().all()
    assert state.cache.values is not None
    assert state.cache.values.dtype == torch.bfloat16


def test_what_is_seen_never_exceeds_the_context() -> None:
    for context in (1, 2, 7, 12):
        before = 0
        for length in range(1, 60):
            start = context_start(length, context)
            assert 1 <= length - start <= context
            assert start >= before, "the context window never moves back"
            before = start


def test_greedy_decoding_takes_the_likeliest_token_each_time() -> None:
    model, history = gpt(), torch.tensor([[3, 1, 4]])
    (outputs,) = generate(
        model, history, [0], max_new_tokens=25, config=SamplingConfig(temperature=0)
    )
    for token in outputs:
        top = uncached(model, history)[0].topk(2)
        if top.values[0] - top.values[1] > 1e-4:
            assert token == top.indices[0]
        history = torch.cat([history, torch.tensor([[token]])], 1)


def test_rows_are_drawn_alone() -> None:
    model, prompts = gpt(), torch.tensor([[1, 1], [2, 3], [5, 6]])
    together = generate(
        model, prompts, [7, 8, 9], max_new_tokens=20, config=SamplingConfig(top_p=0.9)
    )
    for prompt, seed, row in zip(prompts, (7, 8, 9), together):
        assert generate(
            model, prompt[None], [seed], max_new_tokens=20, config=SamplingConfig(top_p=0.9)
        ) == [row]
    one, other = (
        generate(model, prompts[:1], [seed], max_new_tokens=20, config=SamplingConfig())
        for seed in (7, 8)
    )
    assert one != other


def test_a_stop_token_ends_its_row_and_no_other() -> None:
    model, prompts = gpt(), torch.tensor([[1], [2], [3]])
    rows = generate(model, prompts, [0, 1, 2], max_new_tokens=40, config=SamplingConfig(), eos=5)
    free = generate(model, prompts, [0, 1, 2], max_new_tokens=40, config=SamplingConfig())
    for stopped, row in zip(rows, free):
        assert stopped == (row[: row.index(5)] if 5 in row else row)


# Filters

LOGITS = torch.log(torch.tensor([[0.5, 0.25, 0.15, 0.07, 0.03]]))
NOTHING = torch.empty(1, 0, dtype=torch.int64)


@pytest.mark.parametrize(
    ("filtered", "kept"),
    [
        (top_k_filter(LOGITS, 2), 2),
        (top_k_filter(LOGITS, 99), 5),
        (top_p_filter(LOGITS, 0.5), 1),
        (top_p_filter(LOGITS, 0.51), 2),
        (top_p_filter(LOGITS, 0.9), 3),
        (top_p_filter(LOGITS, 0.001), 1),
        (min_p_filter(LOGITS, 0.3), 3),
        (min_p_filter(LOGITS, 0.31), 2),
    ],
)
def test_filters_keep_the_likeliest(filtered: Tensor, kept: int) -> None:
    assert torch.isfinite(filtered[0]).tolist() == [True] * kept + [False] * (5 - kept)
    assert torch.equal(filtered[0, :kept], LOGITS[0, :kept])


def test_filters_do_not_mind_the_order() -> None:
    shuffled = torch.randperm(5)
    assert torch.equal(
        top_p_filter(LOGITS[:, shuffled], 0.9), top_p_filter(LOGITS, 0.9)[:, shuffled]
    )


def test_repetition_is_penalised_on_both_sides_of_zero() -> None:
    logits = repetition_penalty(torch.tensor([[2.0, -2.0, 1.0]]), torch.tensor([[0, 1, 1]]), 2.0)
    assert logits.tolist() == [[1.0, -4.0, 1.0]]


def test_draws_follow_the_probabilities() -> None:
    generators = [torch.Generator().manual_seed(seed) for seed in range(4000)]
    shares = draw(LOGITS.exp().expand(4000, -1), generators).bincount(minlength=5) / 4000
    torch.testing.assert_close(shares, LOGITS.exp()[0], atol=0.03, rtol=0)
    nothing = torch.tensor([[0.0, 0.0, 1.0, 0.0]])
    assert {draw(nothing, [torch.Generator().manual_seed(seed)]).item() for seed in range(50)} == {
        2
    }


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": -1.0},
        {"top_k": -1},
        {"top_p": 0.0},
        {"min_p": 1.5},
        {"repetition_penalty": 0.0},
    ],
)
def test_options_of_sampling_have_ranges_in_python_too(options: dict[str, Any]) -> None:
    (name,) = options
    with pytest.raises(UserError, match=f"--{name} must be"):
        SamplingConfig(**options)


def test_temperature() -> None:
    cold, hot = (SamplingConfig(temperature=t).probabilities(LOGITS, NOTHING) for t in (0.5, 2.0))
    assert cold[0, 0] > 0.5 > hot[0, 0]
    assert SamplingConfig(temperature=0).probabilities(LOGITS, NOTHING).tolist() == [
        [1.0, 0.0, 0.0, 0.0, 0.0]
    ]


@pytest.mark.parametrize(
    "wrong", [{"temperature": 0, "top_k": 5}, {"temperature": 0, "top_p": 0.9}], ids=str
)
def test_contradictory_options_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="--"):
        SamplingConfig(**wrong)


# The objective


def test_only_what_counts_is_counted() -> None:
    model, tokens = gpt(), torch.randint(11, (2, 5))
    batch = {"tokens": tokens, "length": torch.tensor([4, 2]), "num_targets": 6}
    expected = -model(tokens[:, :-1]).log_softmax(-1).gather(2, tokens[:, 1:, None])[..., 0]
    expected[1, 2:] = 0
    torch.testing.assert_close(model.token_nll(batch), expected)
    torch.testing.assert_close(model.loss(batch)["loss"], expected.sum() / 6)


def test_matrices_decay_and_gains_do_not() -> None:
    model = gpt()
    model._trainer = type("Stub", (), {"estimated_stepping_batches": 1000})()
    (adam,), (entry,) = model.configure_optimizers()
    schedule = entry["scheduler"]
    inner, outer, free = adam.param_groups
    assert [group["weight_decay"] for group in (inner, outer, free)] == [0.1, 0.1, 0.0]
    assert all(p.dim() >= 2 for p in [*inner["params"], *outer["params"]])
    assert all(p.dim() < 2 for p in free["params"])
    assert sum(len(group["params"]) for group in adam.param_groups) == len(list(model.parameters()))
    rates = []
    for _ in range(1001):
        rates.append(adam.param_groups[0]["lr"])
        adam.step()
        schedule.step()
    assert rates[0] == pytest.approx(1e-5)
    assert rates[99] == pytest.approx(1e-3)
    assert max(rates) == pytest.approx(1e-3)
    assert rates[-1] == pytest.approx(1e-4)
    assert rates[550] == pytest.approx(0.55e-3, rel=0.01)


@pytest.mark.parametrize("shape", [(24, 24), (16, 48), (48, 16)])
def test_muon_moves_alike_in_all_directions(shape: tuple[int, int]) -> None:
    """Newton-Schulz approximates U V' of the SVD, with singular values near 1."""
    matrix = torch.randn(shape)
    u, _, vh = torch.linalg.svd(matrix, full_matrices=False)
    made = orthogonalise(matrix)
    values = torch.linalg.svdvals(made)
    assert values.min() > 0.3
    assert values.max() < 1.3
    assert F.cosine_similarity(made.flatten(), (u @ vh).flatten(), dim=0) > 0.97


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_muon_splits_parameters_by_their_dimensions(precision: torch.dtype) -> None:
    """A kernel moves alike in all directions, as one matrix; a bias moves as with AdamW."""
    kernels, bias, other = (nn.Parameter(torch.randn(*s)) for s in [(8, 4, 3, 3), (5,), (5,)])
    other.data.copy_(bias.data)
    muon = Muon([kernels, bias], lr=0.01, vector_lr=0.003, momentum=0.0, weight_decay=0.1)
    adam = torch.optim.AdamW([other], 0.003, (0.9, 0.99), weight_decay=0)
    before = kernels.detach().clone()
    kernels.grad, bias.grad = torch.randn_like(kernels), torch.randn_like(bias)
    other.grad = bias.grad.clone()
    with torch.autocast("cpu", precision, enabled=precision == torch.bfloat16):
        muon.step()
        adam.step()
    torch.testing.assert_close(bias, other)
    moved = (before * (1 - 0.01 * 0.1) - kernels).flatten(1) / (0.01 * 0.2 * 36**0.5)
    torch.testing.assert_close(moved, orthogonalise(kernels.grad.flatten(1)))


def test_the_rest_of_muon_is_adamw() -> None:
    ours, theirs = nn.Parameter(torch.ones(5)), nn.Parameter(torch.ones(5))
    muon = Muon([{"params": [ours], "weight_decay": 0.1}], lr=0.01, betas=(0.9, 0.99))
    adam = torch.optim.AdamW([theirs], 0.01, (0.9, 0.99), weight_decay=0.1)
    for step in range(20):
        gradient = torch.randn(5, generator=torch.Generator().manual_seed(step))
        ours.grad, theirs.grad = gradient.clone(), gradient.clone()
        muon.step()
        adam.step()
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-5)


# A run


def test_whole_validation_split_is_measured(tmp_path: Path) -> None:
    """`val/nll` equals a plain loop over the text; `val/bpc` converts it to bits."""
    argv = [
        "fit",
        "--config",
        "configs/gpt/python_docs.yaml",
        "--run_dir",
        str(tmp_path / "run"),
        "--model.width",
        "16",
    ]
    small = [
        "--model.context",
        "32",
        "--data.context",
        "32",
        "--data.max_samples",
        "90",
        "--data.batch_size",
        "4",
    ]
    assert (
        train.main(
            [*argv, *small, "--trainer.max_steps", "22", "--trainer.check_val_every_n_epoch", "1"]
        )
        == 0
    )
    run = tmp_path / "run"
    model = load(run / "checkpoints/last.ckpt")
    data = data_module(run / "config.yaml")
    ids = torch.from_numpy(data.tokens("val").ids.astype(int))
    total = 0.0
    with torch.no_grad():
        for start in range(0, len(ids) - 1, 32):
            window = ids[start : start + 33]
            total += F.cross_entropy(
                model(window[None, :-1])[0], window[1:], reduction="sum"
            ).item()
    header, *rows = [
        line.split(",") for line in (run / "metrics.csv").read_text(encoding="utf-8").splitlines()
    ]
    last = {name: float(value) for name, value in zip(header, rows[-1]) if value}
    assert last["val/nll"] == pytest.approx(total / (len(ids) - 1), rel=1e-5)
    assert last["val/ppl"] == pytest.approx(math.exp(last["val/nll"]), rel=1e-5)
    assert last["val/bpc"] == pytest.approx(total / math.log(2) / (len(ids) - 1), rel=1e-5)


@pytest.mark.parametrize(("stride", "length"), [(1, 40), (5, 40), (6, 41), (12, 40), (6, 9)])
@torch.no_grad()
def test_overlapping_windows_score_each_token_once(stride: int, length: int) -> None:
    """The NLL equals that of a loop over tokens; stride = context gives disjoint windows."""
    model, ids = gpt(), np.random.default_rng(0).integers(0, 11, length)
    total = 0.0
    for token in range(1, length):
        start = max(0, math.ceil((token - 12) / stride)) * stride
        assert token - start >= min(token, 12 - stride + 1)
        total -= (
            model(torch.from_numpy(ids[None, start:token]))[0, -1].log_softmax(0)[ids[token]].item()
        )
    model.measure_stride(ids, 12, stride, 2)
    assert model.nll_stride.count == length - 1
    assert model.nll_stride.compute().item() == pytest.approx(total / (length - 1), rel=1e-5)
    if stride == 12:
        disjoint = [
            F.cross_entropy(model(x[None, :-1])[0], x[1:], reduction="sum")
            for x in windows(torch.from_numpy(ids), 12)
        ]
        assert sum(disjoint).item() == pytest.approx(total, rel=1e-5)  # type: ignore[union-attr]
    both = gpt()
    for rank in range(2):
        both.measure_stride(ids, 12, stride, 2, rank, 2)
    assert both.nll_stride.count == length - 1
    torch.testing.assert_close(both.nll_stride.total, model.nll_stride.total)


def windows(ids: Tensor, context: int) -> list[Tensor]:
    """Split tokens into disjoint windows of `context` inputs and one more target."""
    return [ids[start : start + context + 1] for start in range(0, len(ids) - 1, context)]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Checkpoint of a GPT after two updates."""
    run = tmp_path_factory.mktemp("gpt") / "run"
    argv = [
        "fit",
        "--config",
        "configs/gpt/python_docs.yaml",
        "--run_dir",
        str(run),
        "--trainer.max_steps",
        "2",
    ]
    small = [
        "--model.width",
        "16",
        "--model.context",
        "32",
        "--data.context",
        "32",
        "--data.max_samples",
        "90",
    ]
    assert train.main([*argv, *small, "--trainer.limit_val_batches", "0"]) == 0
    return str(run / "checkpoints/last.ckpt")


def test_attention_weights_are_plotted_at_the_end(checkpoint: str) -> None:
    samples = Path(checkpoint).parents[1] / "samples"
    layers = len(load(checkpoint).blocks)
    assert len(list(samples.glob("attention-layer*.png"))) == layers


def test_a_test_has_the_nll_of_overlapping_windows_as_well(checkpoint: str) -> None:
    config = [
        "--config",
        str(Path(checkpoint).parents[1] / "config.yaml"),
        "--ckpt_path",
        checkpoint,
    ]
    tested = TrainCLI(["test", *config, "--data.eval_batch_size", "256"])
    figures, signatures = tested.trainer.callback_metrics, tested.model.signatures
    model, data = load(checkpoint), tested.datamodule
    model.measure_stride(data.tokens("test").ids, 32, 16, 256)
    assert figures["test/nll_stride"].item() == pytest.approx(
        model.nll_stride.compute().item(), rel=1e-5
    )
    assert (
        signatures["test/nll_stride"]
        == "nll[ctx=32|stride=16|read=windows|positions=all|unit=nats/token|split=val]"
    )
    assert (
        signatures["test/nll"] == "nll[ctx=32|read=windows|positions=all|unit=nats/token|split=val]"
    )


def test_a_checkpoint_continues_a_prompt(
    checkpoint: str, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sampling uses the checkpoint's tokenizer, opens no data and prints only text to stdout."""
    assert isinstance(load(checkpoint).tokenizer, CharTokenizer)
    monkeypatch.setattr(
        "datamodules.text.corpora.PythonDocs.__init__", lambda *_: pytest.fail("no data is needed")
    )
    argv = [
        checkpoint,
        "--prompt",
        "The ",
        "--max_new_tokens",
        "20",
        "--num",
        "2",
        "--temperature",
        "0.8",
        "--top_p",
        "0.9",
    ]
    assert sample.main(argv) == 0
    both = capsys.readouterr().out
    assert sample.main([*argv[:5], "--seeds", "1", *argv[7:]]) == 0
    one = capsys.readouterr().out
    assert both.endswith(one)
    assert one.startswith("The ")
    monkeypatch.setattr("sys.stdin", io.StringIO("The \n"))
    assert sample.main([*argv[:1], "--prompt", "-", *argv[3:5], "--seeds", "1", *argv[7:]]) == 0
    assert capsys.readouterr().out.startswith("The ")
    assert len(one) == len("The ") + 20 + 1


def test_a_terminal_sees_the_text_grow(
    checkpoint: str, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a terminal, text is printed token by token and is the same in total."""
    argv = [checkpoint, "--prompt", "The ", "--max_new_tokens", "20", "--num", "2"]
    assert sample.main(argv) == 0
    at_once = capsys.readouterr().out
    pieces: list[str] = []
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setattr(
        "builtins.print", lambda *texts, end="\n", **_: pieces.append(" ".join(texts) + end)
    )
    assert sample.main(argv) == 0
    assert "".join(pieces) == at_once
    assert len(pieces) > 40


def test_candidates_of_each_step_are_shown(checkpoint: str, capsys: Any) -> None:
    """`--show_probs` prints candidates to stderr and does not change the text."""
    argv = [checkpoint, "--prompt", "The ", "--max_new_tokens", "6", "--num", "1"]
    assert sample.main(argv) == 0
    text = capsys.readouterr().out
    assert sample.main([*argv, "--show_probs", "3"]) == 0
    shown = capsys.readouterr()
    assert shown.out == text
    lines = shown.err.splitlines()
    assert [line.count("%") for line in lines] == [3] * 6
    assert (
        "".join(ast.literal_eval(line[: line.index("  ")].strip()) for line in lines) == text[4:-1]
    )


def test_surprisals_are_those_of_writing(checkpoint: str, tmp_path: Path, capsys: Any) -> None:
    """Surprisals equal -log p in cached decoding, also after the context of 32 is full."""
    model, text = (
        load(checkpoint),
        "The assert statement is a convenient way to insert debugging assertions into a program."
        * 2,
    )
    ids = model.prompt_ids(text)
    found, _ = model.surprisals(text)
    assert "".join(token for token, _ in found) == text[1:]
    assert model.score_tokens(text) == found
    with torch.no_grad():
        logits, state = model.prefill(torch.tensor([ids[:1]]))
        for token, (_, nats) in zip(ids[1:], found):
            assert nats == pytest.approx(-logits[0].log_softmax(0)[token].item(), abs=1e-4)
            logits, state = model.decode_step(torch.tensor([token]), state)
    (tmp_path / "x.txt").write_text(text, encoding="utf-8")
    assert sample.main([checkpoint, "--score", str(tmp_path / "x.txt")]) == 0
    shown = capsys.readouterr()
    assert len(shown.out.splitlines()) == len(text) - 1
    assert sum(float(line.split("\t")[0]) for line in shown.out.splitlines()) == pytest.approx(
        sum(nats for _, nats in found) / math.log(2), abs=0.1
    )


@pytest.mark.parametrize("specials", [(), RECORD], ids=["stream", "records"])
def test_bits_per_character_are_of_what_is_scored(
    specials: tuple[str, ...], tmp_path: Path, capsys: Any
) -> None:
    """Streams score all but the first token; records score all characters and line ends."""
    text = "the cat sat on the mat\nthe mat sat\n"
    tokenizer = BPETokenizer.train([text * 9], 280, specials)
    model = gpt(vocab_size=tokenizer.vocab_size, context=64)
    model.tokenizer = tokenizer
    rows = (
        [tokenizer.encode(text).tolist()]
        if not specials
        else [[1, *tokenizer.encode(x).tolist(), 2] for x in text.splitlines()]
    )
    with torch.no_grad():
        nats = [
            F.cross_entropy(
                model(torch.tensor([row]))[0, :-1], torch.tensor(row[1:]), reduction="sum"
            ).item()
            for row in rows
        ]
    characters = len(text) if specials else len(text) - len(tokenizer.decode(rows[0][:1]))
    assert specials or len(tokenizer.decode(rows[0][:1])) > 1
    (tmp_path / "x.txt").write_text(text, encoding="utf-8")
    print_surprisals(model, tmp_path / "x.txt", "refuse")
    bits = sum(nats) / math.log(2)
    tokens = sum(len(row) - 1 for row in rows)
    assert capsys.readouterr().err == (
        f"{bits:.1f} bits, {bits / tokens:.3f} per token, {bits / characters:.3f} per character\n"
    )


def test_weights_and_tokens_belong_together(checkpoint: str, tmp_path: Path, capsys: Any) -> None:
    """`--init_from` refuses another tokenizer; new data can use the checkpoint's tokenizer."""
    (tmp_path / "x.txt").write_text("The assert statement\n" * 300, encoding="utf-8")
    own = [
        "--data",
        "TextFiles",
        "--data.path",
        str(tmp_path / "x.txt"),
        "--data.context",
        "32",
        "--data.root",
        str(tmp_path),
    ]
    model = ["--model", "GPT", "--model.width", "16", "--model.context", "32"]
    argv = ["fit", *model, *own, "--init_from", checkpoint, "--dry_run"]
    assert train.main(argv) == 2
    assert (
        "has another tokenizer than this data; give --data.tokenizer_file"
        in capsys.readouterr().err
    )
    assert train.main([*argv, "--data.tokenizer_file", checkpoint]) == 0
    assert "mismatched 0" in capsys.readouterr().err
    assert train.main([*argv, "--data.tokenizer_file", str(tmp_path / "x.txt")]) == 2
    assert (
        train.main([*argv, "--data.tokenizer_file", str(Path(checkpoint).with_name("none.ckpt"))])
        == 2
    )


@pytest.mark.parametrize(
    ("options", "fragment"),
    [
        ("--score nowhere.txt", "--score nowhere.txt: there is no such file"),
        ("--show_probs -1", "--show_probs must be >=0 (got -1)"),
        ("--prompt ☃", "--prompt has 1 character that is not in the vocabulary: '☃' (1)"),
        ("--temperature 0 --top_k 3", "leave out --top_k, --top_p and --min_p"),
        ("--top_p 2", "--top_p"),
        ("--top_p 0", "--top_p"),
        ("--top_p 1.1", "--top_p"),
        ("--temperature -1", "--temperature"),
        ("--top_k -1", "--top_k"),
        ("--min_p 1", "--min_p"),
        ("--repetition_penalty 0", "--repetition_penalty"),
        ("--max_new_tokens 0", "--max_new_tokens"),
    ],
)
def test_sampling_mistakes(options: str, fragment: str, checkpoint: str, capsys: Any) -> None:
    assert sample.main([checkpoint, *options.split()]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert fragment in line


def test_mistakes_about_the_data(checkpoint: str, tmp_path: Path, capsys: Any) -> None:
    """A context beyond the model's and a checkpoint with another vocabulary are refused."""
    config = str(Path(checkpoint).parents[1] / "config.yaml")
    argv = ["fit", "--config", config, "--run_dir", str(tmp_path / "run")]
    assert train.main([*argv, "--data.context", "64"]) == 2
    assert (
        "data.context 64 is more than model.context 32" in capsys.readouterr().err.splitlines()[-1]
    )
    assert (
        train.main(
            [
                *argv,
                "--ckpt_path",
                checkpoint,
                "--data.tokenizer",
                "byte",
                "--trainer.max_steps",
                "3",
            ]
        )
        == 2
    )
    assert (
        "--ckpt_path resumes a run with data.tokenizer" in capsys.readouterr().err.splitlines()[-1]
    )


def test_a_long_prompt_is_seen_at_its_end(checkpoint: str, capsys: Any) -> None:
    model = load(checkpoint)
    long = "The assert statement " * 10
    ids = model.prompt_ids(long)
    with torch.no_grad():
        logits, _ = model.prefill(torch.tensor([ids]))
        expected = uncached(model, torch.tensor([ids]))
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-5)
    assert model.sample([0], prompt=long, max_new_tokens=5)[0].startswith(long)
    assert (
        "the prompt has 210 tokens: only its end is used (context window: 32 tokens)"
        in capsys.readouterr().err
    )


def test_ranks_and_accumulation_equal_the_joined_batch(tmp_path: Path) -> None:
    """Loss and gradient are means over all targets of an update, whatever the lengths."""
    sgd = {"norm": "rms", "layers": 1, "heads": 2, "width": 8, "context": 64}
    config = {
        "model": {"class_path": "tests.parallel.PlainGPT", "init_args": sgd},
        "data": {
            "class_path": "datamodules.text.corpora.EmojiNames",
            "init_args": {"batching": "records", "max_samples": 64},
        },
        "trainer": {
            "max_epochs": 2,
            "accelerator": "cpu",
            "log_every_n_steps": 1,
            "limit_val_batches": 0,
        },
    }
    (joined,) = fit(tmp_path / "one", config, "--trainer.devices", "1", "--data.batch_size", "64")
    parts = ["--trainer.accumulate_grad_batches", "2", "--data.batch_size", "16"]
    one, other = fit(tmp_path / "two", config, "--trainer.devices", "2", *parts)
    for name, value in one["state"].items():
        assert torch.equal(value, other["state"][name]), name
        torch.testing.assert_close(value, joined["state"][name], atol=1e-6, rtol=0, msg=name)
