"""Updates replayed as graphs, with a tape that takes the place of a CUDA graph on the CPU.

Like a CUDA graph, the tape repeats the operations of a recorded update on the same memory, and none
of its Python code.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lightning_modules.core import graphs
from lightning_modules.core.graphs import UpdateGraph, UpdateGraphs
from tests.runs import run_differences, tiny_config
from tests.test_updates import INTERVALS, fit, step_ends, vae


def tensors(value: Any) -> list[Tensor]:
    """Return all tensors in nested containers."""
    return [leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor)]


class Tape(TorchDispatchMode):
    """Records the operations of a block, and undoes what they changed."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Callable[..., Any], Any, Any, Any]] = []
        self.before: dict[int, tuple[Tensor, Tensor]] = {}  # tensors from outside, and copies
        self.made: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default:
            raise RuntimeError("a graph cannot contain .item()")
        for value in tensors((args, kwargs)):
            if id(value) not in self.made and id(value) not in self.before:
                self.before[id(value)] = value, value.clone()
        result = func(*args, **(kwargs or {}))
        self.calls.append((func, args, kwargs or {}, result))
        self.made |= {id(value) for value in tensors(result)} - set(self.before)
        return result

    def replay(self) -> None:
        """Repeat the operations, with their results in the same memory."""
        with torch.no_grad():
            for func, args, kwargs, result in self.calls:
                for old, new in zip(tensors(result), tensors(func(*args, **kwargs))):
                    if old.untyped_storage().data_ptr() != new.untyped_storage().data_ptr():
                        old.copy_(new)


def record(update: Callable[[], None]) -> Callable[[], None]:
    """Record an update as `graphs.record` does."""
    state = torch.get_rng_state()
    with Tape() as tape:
        update()
    with torch.no_grad():
        for value, copy in tape.before.values():
            value.copy_(copy)
    torch.set_rng_state(state)
    return tape.replay


@pytest.fixture
def replays(monkeypatch: pytest.MonkeyPatch) -> list[UpdateGraph]:
    """Record graphs on the CPU, and return a list with the graph of each replayed update."""
    made: list[UpdateGraph] = []
    run = UpdateGraph.run

    def counted(graph: UpdateGraph, *arguments: Any) -> None:
        made.append(graph)
        run(graph, *arguments)

    monkeypatch.setattr(graphs, "DEVICE", "cpu")
    monkeypatch.setattr(graphs, "RATE_TYPE", torch.float64)  # float32 would round learning rates
    monkeypatch.setattr(graphs, "record", record)
    monkeypatch.setattr(UpdateGraph, "run", counted)
    return made


@pytest.mark.parametrize(
    ("system", "options"),
    [
        ("vae", ["--trainer.gradient_clip_val=100", "--trainer.precision=bf16-mixed"]),
        ("gan", ["--model.generator_clip=1"]),  # trains G in every second update, with schedules
        ("gpt", ["--model.warmup_steps=5"]),
    ],
)
def test_replayed_updates_give_the_same_bits(
    system: str, options: list[str], replays: list[UpdateGraph], tmp_path: Path
) -> None:
    """A run with graphs, stopped and resumed, equals one without: weights, optimizers and rows."""
    config = tiny_config(tmp_path / "config.yaml", system, batch_size=8)
    options = [*INTERVALS, *options]
    fit(config, tmp_path / "eager", 7, options)
    assert not replays
    run = tmp_path / "graphs"
    stop = ["--trainer.callbacks+=tests.runs.TerminateAt", "--trainer.callbacks.step=25"]
    with pytest.raises(SystemExit):
        fit(config, run, 7, [*options, *stop, "--graph_updates"])
    fit(config, run, 7, ["--ckpt_path=last"])
    assert len(replays) >= 16
    assert len(set(replays)) == (4 if system == "gan" else 2)  # one or two kinds in each part
    assert run_differences(tmp_path / "eager", run) == []


@pytest.mark.parametrize(
    ("system", "options", "reason"),
    [
        ("vae", ["--model.beta_warmup_steps=5"], "the loss reads trainer.global_step"),
        ("dalle", [], "the loss reads the seed of the batch"),
        ("cyclegan", [], "the loss changes the attribute pools"),
        ("rnn_lm", [], "the loss changes the attribute states"),
        ("seq2seq", [], "the loss uses random numbers of the CPU"),
        ("transformer", [], "batches have more than 8 shapes"),
        ("clip", [], "CLIP overrides optimizer_step"),
        ("gpt", ["--model.optimizer=muon"], "the optimizer Muon has no argument `capturable`"),
        ("gan", ["--model.accumulate=2"], "an update uses the gradients of several batches"),
    ],
)
def test_updates_that_a_graph_cannot_repeat_run_eagerly(
    system: str,
    options: list[str],
    reason: str,
    replays: list[UpdateGraph],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    text = system in ("seq2seq", "transformer")
    config = tiny_config(tmp_path / "config.yaml", system, **({} if text else {"batch_size": 8}))
    short = ["--trainer.max_steps=24", "--trainer.log_every_n_steps=24"]
    options = [*short, "--trainer.limit_val_batches=0", "--previews.count=1", *options]
    fit(config, tmp_path / "run", 32, [*options, "--graph_updates"])
    assert not replays
    assert f"note: --graph_updates has no effect, because {reason}\n" in capsys.readouterr().err


def test_graphs_need_a_gpu(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = vae()
    model.graphs = UpdateGraphs()
    step_ends(model, tmp_path)
    note = "note: --graph_updates has no effect, because the device is cpu, not cuda\n"
    assert capsys.readouterr().err == note
