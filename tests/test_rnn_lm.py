"""RNN language model: carried states across batches, checkpoints and ranks."""

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_padded_sequence

import train
from cli.data import data_module
from common.files import ROOT
from lightning_modules.decoding.filters import SamplingConfig
from lightning_modules.decoding.generation import generate
from lightning_modules.rnn_lm import RNNLM, ConstantThenExponential
from tests.runs import run_differences
from tests.test_parallel import fit


def rnn(**options: Any) -> RNNLM:
    torch.manual_seed(0)
    return RNNLM(
        **{
            "vocab_size": 11,
            "layers": 2,
            "width": 12,
            "embedding": 6,
            "initial_range": 0.5,
            **options,
        }
    ).eval()


def batch(tokens: torch.Tensor, first: bool) -> dict[str, Any]:
    return {
        "tokens": tokens,
        "length": torch.full((len(tokens),), tokens.shape[1] - 1),
        "first": first,
    }


@pytest.mark.parametrize("cell", ["rnn", "gru", "lstm"])
@pytest.mark.parametrize("embedding", [6, 0])
def test_steps_with_a_carried_state_are_one_long_read(cell: str, embedding: int) -> None:
    """The state is carried across batches (Eq. 2) and reset at the start of a text."""
    model, tokens = rnn(cell=cell, embedding=embedding), torch.randint(11, (3, 21))
    whole = -model(tokens[:, :-1]).log_softmax(-1).gather(2, tokens[:, 1:, None])[..., 0]
    parts = [
        model.token_nll(batch(tokens[:, start : start + 6], start == 0))
        for start in range(0, 20, 5)
    ]
    torch.testing.assert_close(torch.cat(parts, 1), whole, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(
        model.token_nll(batch(tokens[:, :6], True)), whole[:, :5], atol=1e-6, rtol=1e-5
    )


def test_gradients_stop_at_the_border() -> None:
    model, tokens = rnn().train(), torch.randint(11, (3, 11))
    model.token_nll(batch(tokens[:, :6], True))
    assert all(not part.requires_grad for part in model.states[True] or ())
    model.token_nll(batch(tokens[:, 5:], False)).sum().backward()
    assert all(p.grad is not None for p in model.parameters())


def test_evaluation_does_not_disturb_the_training_state() -> None:
    model, tokens = rnn().train(), torch.randint(11, (3, 6))
    model.token_nll(batch(tokens, True))
    before = [part.clone() for part in model.states[True] or ()]
    model.eval().token_nll(batch(tokens, True))
    assert all(torch.equal(*pair) for pair in zip(before, model.states[True] or ()))


@pytest.mark.parametrize("cell", ["rnn", "gru", "lstm"])
@torch.no_grad()
def test_decoding_equals_reading(cell: str) -> None:
    model, history = rnn(cell=cell), torch.tensor([[1, 2, 3, 4, 5], [6, 7, 8, 9, 1]])
    logits, state = model.prefill(history)
    for _ in range(10):
        torch.testing.assert_close(logits, model(history)[:, -1], atol=1e-5, rtol=1e-5)
        tokens = torch.randint(11, (2,))
        history = torch.cat([history, tokens[:, None]], 1)
        logits, state = model.decode_step(tokens, state)


@pytest.mark.parametrize("cell", ["rnn", "gru", "lstm"])
def test_the_plain_sampling_loop_gives_the_tokens_of_the_fast_one(cell: str) -> None:
    """Both loops sample the same tokens, and a row depends on its seed only."""
    model, prompt = rnn(cell=cell), torch.tensor([[7, 8]])
    fast = generate(
        model, prompt.repeat(3, 1), [2, 3, 4], max_new_tokens=30, config=SamplingConfig()
    )
    assert model.sample_plain([7, 8], [2, 3, 4], 30) == fast
    alone = generate(model, prompt, [4], max_new_tokens=30, config=SamplingConfig())
    assert alone == fast[2:]


def test_weights_begin_as_in_the_papers() -> None:
    model = rnn(initial_range=0.08, forget_bias=1.0)
    for name, p in model.named_parameters():
        if not name.startswith("recurrent.bias_ih"):
            assert p.abs().max() <= 0.08
    gates = model.recurrent.bias_ih_l0.chunk(4)  # type: ignore[union-attr, operator]
    assert gates[1].tolist() == [1.0] * 12
    assert all(gate.abs().max() <= 0.08 for gate in (gates[0], gates[2], gates[3]))


def test_dropout_never_goes_along_time() -> None:
    """Dropout of the output does not change the states of a single layer (Zaremba et al.)."""
    model = rnn(layers=1, dropout=0.5, embedding=0).train()  # one-hot inputs are not dropped
    tokens = torch.randint(11, (3, 20))
    (one, first), (other, second) = (model.step(tokens, None) for _ in range(2))
    assert not torch.equal(one, other)
    assert all(torch.equal(*pair) for pair in zip(first, second))


def test_lstm_computes_in_fp32_on_a_cpu_without_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False)
    cell, x = rnn().recurrent, torch.randn(3, 5, 6)
    state = (torch.randn(2, 3, 12), torch.randn(2, 3, 12))
    expected = cell(x, state)[0]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        hidden = cell(x.bfloat16(), state)[0]
        packed = cell(pack_padded_sequence(x, torch.tensor([5, 4, 3]), batch_first=True))[0].data
    assert hidden.dtype == packed.dtype == torch.float32
    torch.testing.assert_close(hidden, expected, atol=5e-3, rtol=0)


def test_schedule_of_zaremba() -> None:
    sgd = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule, rates = ConstantThenExponential(sgd, constant=4, factor=0.5), []
    for _ in range(7):
        rates.append(sgd.param_groups[0]["lr"])
        sgd.step()
        schedule.step()
    assert rates == [1.0, 1.0, 1.0, 1.0, 0.5, 0.25, 0.125], "small model: halved after four epochs"


@pytest.mark.parametrize(
    ("name", "scale"), [("tiny_shakespeare", 3.0), ("ptb_zaremba_medium", 0.1)]
)
def test_recipes_of_a_summed_loss_take_its_steps(name: str, scale: float) -> None:
    """Updates of our mean loss equal those of the released codes, which sum over time."""
    recipe = yaml.safe_load((ROOT / f"configs/rnn_lm/{name}.yaml").read_text(encoding="utf-8"))
    options, steps = recipe["model"]["init_args"], recipe["data"]["init_args"]["context"]
    ours, theirs = (
        rnn(embedding=0, initial_range=scale, forget_bias=options.get("forget_bias", 1.0))
        for _ in range(2)
    )
    optimizer = getattr(torch.optim, options["optimizer"]["class_path"].rpartition(".")[2])
    ours_update = optimizer(ours.parameters(), **options["optimizer"]["init_args"])
    squares, clipped = [torch.zeros_like(p) for p in theirs.parameters()], []
    for _ in range(5):
        tokens = torch.randint(11, (4, steps + 1))
        ours.zero_grad()
        ours.token_nll(batch(tokens, True)).mean().backward()
        if recipe["trainer"].get("gradient_clip_algorithm") == "value":
            nn.utils.clip_grad_value_(ours.parameters(), recipe["trainer"]["gradient_clip_val"])
        else:
            nn.utils.clip_grad_norm_(ours.parameters(), recipe["trainer"]["gradient_clip_val"])
        ours_update.step()
        theirs.zero_grad()
        theirs.token_nll(batch(tokens, True)).mean(0).sum().backward()
        gradients = [p.grad for p in theirs.parameters() if p.grad is not None]
        with torch.no_grad():
            if name == "tiny_shakespeare":  # char-rnn's train.lua: clamp at 5, then optim.rmsprop
                for p, square, gradient in zip(theirs.parameters(), squares, gradients):
                    clipped.append((gradient.abs() > 5).float().mean().item())
                    gradient.clamp_(-5, 5)
                    square.mul_(0.95).add_(0.05 * gradient**2)
                    p.sub_(2e-3 * gradient / (square.sqrt() + 1e-8))
            else:  # Zaremba's main.lua: norm at most 5, then a step of size 1
                norm = (
                    torch.stack([gradient.square().sum() for gradient in gradients])
                    .sum()
                    .sqrt()
                    .item()
                )
                clipped.append(float(norm > 5))
                for p, gradient in zip(theirs.parameters(), gradients):
                    p.sub_(gradient * min(1.0, 5 / norm))
    assert 0 < sum(clipped) < len(clipped), "some gradients are clipped, but not all"
    for one, other in zip(ours.parameters(), theirs.parameters()):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


def config(path: Path, **data: Any) -> Path:
    content = {
        "model": {
            "class_path": "lightning_modules.rnn_lm.RNNLM",
            "init_args": {"layers": 1, "width": 12, "embedding": 6},
        },
        "data": {
            "class_path": "datamodules.text.corpora.PythonDocs",
            "init_args": {
                "batching": "streams",
                "context": 8,
                "batch_size": 4,
                "eval_batch_size": 64,
                "max_samples": 45,
                **data,
            },
        },
        "trainer": {
            "log_every_n_steps": 2,
            "limit_val_batches": 2,
            "max_epochs": 2,
            "gradient_clip_val": 1.0,
            "accelerator": "cpu",
        },
    }
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return path


def test_a_resumed_run_goes_on_with_its_state_and_its_place(tmp_path: Path) -> None:
    """A run stopped twice in the middle of the text ends like an uninterrupted run."""
    argv = ["fit", "--config", str(config(tmp_path / "c.yaml"))]
    assert train.main([*argv, "--run_dir", str(tmp_path / "one")]) == 0
    for step in (3, 15):
        stop = [
            "--trainer.callbacks+=tests.runs.TerminateAt",
            "--trainer.callbacks.step",
            str(step),
        ]
        more = ["--ckpt_path", "last"] if step > 3 else []
        assert train.main([*argv, "--run_dir", str(tmp_path / "two"), *stop, *more]) == 143
    assert train.main([*argv, "--run_dir", str(tmp_path / "two"), "--ckpt_path", "last"]) == 0
    assert run_differences(tmp_path / "one", tmp_path / "two") == []


def test_a_run_goes_on_with_its_own_optimizer(tmp_path: Path, capsys: Any) -> None:
    """A new learning rate is refused: the restored state of the optimizer would override it."""
    argv = [
        "fit",
        "--config",
        str(config(tmp_path / "c.yaml")),
        "--run_dir",
        str(tmp_path / "run"),
        "--trainer.max_steps",
        "2",
    ]
    adam = ["--model.optimizer", "torch.optim.Adam", "--model.optimizer.lr"]
    assert train.main([*argv, *adam, "0.001"]) == 0
    assert train.main([*argv, *adam, "0.002", "--ckpt_path", "last"]) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert "--ckpt_path resumes a run with model.optimizer.lr 0.001, not 0.002" in said
    assert "--init_from" in said


def test_whole_validation_split_is_measured_with_its_state(tmp_path: Path) -> None:
    """With one row, `val/nll` equals that of one pass over the whole text."""
    from lightning_modules import load

    argv = [
        "fit",
        "--config",
        str(
            config(tmp_path / "c.yaml", eval_batch_size=1, context=500, max_samples=5, batch_size=1)
        ),
    ]
    limits = ["--trainer.limit_val_batches", "1.0", "--trainer.max_epochs", "1"]
    assert train.main([*argv, "--run_dir", str(tmp_path / "run"), *limits]) == 0
    model = load(tmp_path / "run/checkpoints/last.ckpt")
    ids = torch.from_numpy(data_module(tmp_path / "run/config.yaml").tokens("val").ids.astype(int))
    with torch.no_grad():
        expected = F.cross_entropy(model(ids[None, :-1])[0], ids[1:]).item()
    header, *rows = [
        line.split(",")
        for line in (tmp_path / "run/metrics.csv").read_text(encoding="utf-8").splitlines()
    ]
    assert float(rows[-1][header.index("val/nll")]) == pytest.approx(expected, rel=1e-5)


def test_two_processes_read_two_halves_of_every_batch(tmp_path: Path) -> None:
    """Two ranks train like one process with the joined batch, and each stores its own state."""
    content = yaml.safe_load(config(tmp_path / "c.yaml").read_text(encoding="utf-8"))
    content["model"]["init_args"]["optimizer"] = {
        "class_path": "torch.optim.SGD",
        "init_args": {"lr": 0.5},
    }
    content["data"]["init_args"].pop("batch_size")
    content["trainer"].pop("gradient_clip_val")
    one, other = fit(tmp_path / "two", content, "--trainer.devices", "2", "--data.batch_size", "2")
    (joined,) = fit(tmp_path / "one", content, "--trainer.devices", "1", "--data.batch_size", "4")
    for name, value in one["state"].items():
        assert torch.equal(value, other["state"][name]), name
        torch.testing.assert_close(value, joined["state"][name], atol=1e-6, rtol=0, msg=name)
    states = torch.load(tmp_path / "two/run/checkpoints/last.ckpt", weights_only=True)[
        "recurrent_states"
    ]
    assert len(states) == 2
    assert not torch.equal(states[0][0], states[1][0])
