"""Updates replayed as graphs, with a tape that takes the place of a CUDA graph on the CPU.

Like a CUDA graph, the tape repeats the operations of a recorded update on the same memory, and none
of its Python code.
"""

import weakref
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
from lightning_modules.core.python_state import HostTensors
from lightning_modules.vae import VAE
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


def record(update: Callable[[], None], pool: Any) -> Callable[[], None]:
    """Record an update as `graphs.record` does."""
    state = torch.get_rng_state()
    tape = Tape()
    try:
        with tape:
            update()
    finally:
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
        ("gpt", ["--model.optimizer=muon"], "Muon has no option `capturable` or is not fused"),
        ("gan", ["--model.accumulate=2"], "an update uses the gradients of several batches"),
        (
            "gan",
            ["--model.generator_optimizer=SGD", "--model.generator_optimizer.lr=0.1"],
            "SGD has no option `capturable` or is not fused",
        ),
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
    note = f"note: --graph_updates: no update is replayed, because {reason}\n"
    assert note in capsys.readouterr().err


def test_graphs_need_a_gpu(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = vae()
    model.graphs = UpdateGraphs()
    step_ends(model, tmp_path)
    note = "note: --graph_updates: no update is replayed, because the device is cpu, not cuda\n"
    assert capsys.readouterr().err == note


def test_the_number_of_graphs_is_limited(
    replays: list[UpdateGraph],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Batches of a Transformer have many shapes; the run equals one without graphs."""
    monkeypatch.setattr(graphs, "MAX_GRAPHS", 2)
    config = tiny_config(tmp_path / "config.yaml", "transformer")
    for name, options in (("eager", []), ("graphs", ["--graph_updates"])):
        fit(config, tmp_path / name, 32, [*INTERVALS, "--trainer.max_steps=60", *options])
    assert capsys.readouterr().err.count("batches have more than 2 shapes; updates with") == 1
    assert 1 <= len(set(replays)) <= 2
    assert run_differences(tmp_path / "eager", tmp_path / "graphs") == []


class Cyclic(VAE):
    """VAE whose schedule also changes the momentum of Adam."""

    def configure_optimizers(self) -> Any:
        adam = torch.optim.Adam(self.parameters(), 1e-3, fused=True)
        cycle = torch.optim.lr_scheduler.OneCycleLR(adam, 1e-3, 100)
        return [adam], [{"scheduler": cycle, "interval": "step"}]


class Unrecordable(VAE):
    """VAE whose loss waits for the device, which a graph cannot contain."""

    def loss(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        losses = super().loss(batch)
        return losses | {"half": losses["loss"].new_tensor(losses["loss"].item() / 2)}


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        (Cyclic, "the optimizer's betas changes"),
        (Unrecordable, "recording failed: RuntimeError: a graph cannot contain .item()"),
    ],
)
def test_what_cannot_be_replayed_runs_without_graphs(
    kind: type[VAE],
    reason: str,
    replays: list[UpdateGraph],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The weights are those of a run without graphs."""
    weights = []
    for enabled in (False, True):
        torch.manual_seed(0)
        model = vae(kind)
        model.graphs = UpdateGraphs() if enabled else None
        step_ends(model, tmp_path)
        weights.append(torch.cat([one.flatten() for one in model.parameters()]))
    assert torch.equal(*weights)
    assert f"because {reason}\n" in capsys.readouterr().err
    assert not replays or kind is Cyclic


def test_the_first_loss_is_released_before_recording(
    replays: list[UpdateGraph], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise its autograd graph, of another stream, would be used in the recorded update."""
    losses: list[weakref.ref[Tensor]] = []
    loss = VAE.loss

    def remembered(self: VAE, batch: dict[str, Any]) -> dict[str, Tensor]:
        found = loss(self, batch)
        losses.append(weakref.ref(found["loss"]))
        return found

    def checked(update: Callable[[], None], pool: Any) -> Callable[[], None]:
        assert len(losses) >= 2
        assert all(one() is None for one in losses), "an earlier loss still exists"
        return record(update, pool)

    monkeypatch.setattr(VAE, "loss", remembered)
    monkeypatch.setattr(graphs, "record", checked)
    model = vae()
    model.graphs = UpdateGraphs()
    step_ends(model, tmp_path)
    assert replays


def test_tensors_on_the_host_are_noticed() -> None:
    with HostTensors() as host:
        torch.zeros(2, device="meta") + 1
    assert not host.used
    with HostTensors() as host:
        torch.zeros(2) + 1
    assert host.used
