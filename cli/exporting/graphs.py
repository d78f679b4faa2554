"""Export of networks as ONNX or as programs of `torch.export`, compared with PyTorch."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.export import Dim

from common.errors import UserError
from lightning_modules.core.module import GenerativeModule
from lightning_modules.core.networks import ExportedNetwork

TOLERANCE = 1e-4  # maximum difference between the outputs of the file and of PyTorch
# Sizes of dynamic dimensions in the comparison. Others are one larger than in the example.
SIZES = {"batch": 3, "height": 72, "width": 80}


def dynamic_of(network: ExportedNetwork) -> dict[str, Mapping[int, str]]:
    """Return the names of the dynamic dimensions of each input."""
    return dict(network.dynamic or {name: {0: "batch"} for name in network.inputs})


def other_inputs(network: ExportedNetwork) -> dict[str, Tensor]:
    """Return inputs of other sizes than the examples, with normally distributed numbers."""
    generator = torch.Generator().manual_seed(0)
    found = {}
    for name, value in network.inputs.items():
        for dim, size in dynamic_of(network).get(name, {}).items():
            wanted = SIZES.get(size, value.shape[dim] + 1)
            rows = torch.arange(wanted) % value.shape[dim]
            value = value.index_select(dim, rows)
        if value.is_floating_point():
            value = torch.randn(value.shape, generator=generator)
        found[name] = value
    return found


def as_tuple(outputs: Any) -> tuple[Tensor, ...]:
    """Return the outputs of a network as a tuple."""
    return (outputs,) if isinstance(outputs, Tensor) else tuple(outputs)


def difference(
    network: ExportedNetwork, outputs: tuple[Tensor, ...], inputs: dict[str, Tensor]
) -> float:
    """Return the largest difference between outputs and those of PyTorch for the same inputs."""
    expected = as_tuple(network.module(*inputs.values()))
    pairs = zip(outputs, expected, strict=True)
    return max((one.double() - other.double()).abs().max().item() for one, other in pairs)


def write_networks(model: GenerativeModule, folder: Path, kind: str) -> list[str]:
    """Write each network of a system to a file, and return a line about each.

    Args:
        model: System in eval mode, on the CPU.
        folder: Folder of the files.
        kind: Format and suffix, "onnx" or "pt2".

    Raises:
        UserError: If the system declares no networks.
        RuntimeError: If the outputs of a file differ from those of PyTorch by more than 1e-4.
    """
    networks = model.networks()
    if not networks:
        raise UserError(
            f"{type(model).__name__} has no network that can be exported to {kind} "
            "(docs/howto/export.md says why); leave out --format for safetensors"
        )
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for name, network in networks.items():
        network.module.eval()  # the exporter restores the mode of this module in all of its parts
        path = folder / f"{name}.{kind}"
        if network.packed and kind == "pt2":
            lines.append(f"{path}: not written, torch.export does not support packed sequences")
            continue
        inputs = other_inputs(network)
        with torch.no_grad():
            outputs = WRITERS[kind](network, path, inputs)
            worst = difference(network, outputs, inputs)
        if not worst <= TOLERANCE:
            path.unlink()
            raise RuntimeError(f"{path}: outputs differ from those of PyTorch by {worst:.2g}")
        arguments = f"({', '.join(network.inputs)}) -> ({', '.join(network.outputs)})"
        lines.append(f"{path}: {arguments}, differs from PyTorch by at most {worst:.2g}")
    return lines


def write_onnx(
    network: ExportedNetwork, path: Path, inputs: dict[str, Tensor]
) -> tuple[Tensor, ...]:
    """Write a network as ONNX, and return the outputs that ONNX Runtime computes."""
    import onnxruntime

    named = dynamic_of(network)
    options: dict[str, Any] = {"dynamo": True, "dynamic_shapes": shapes(network)}
    if network.packed:
        axes = {name: dict(dimensions) for name, dimensions in named.items()}
        options = {"dynamo": False, "dynamic_axes": axes}
    torch.onnx.export(
        network.module,
        tuple(network.inputs.values()),
        path,
        input_names=list(network.inputs),
        output_names=list(network.outputs),
        external_data=False,
        verbose=False,
        **options,
    )
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    arrays = {name: value.numpy() for name, value in inputs.items()}
    return tuple(torch.from_numpy(output) for output in session.run(None, arrays))


def write_program(
    network: ExportedNetwork, path: Path, inputs: dict[str, Tensor]
) -> tuple[Tensor, ...]:
    """Write a network as a program of `torch.export`, and return the outputs of the file."""
    program = torch.export.export(
        network.module, tuple(network.inputs.values()), dynamic_shapes=shapes(network)
    )
    torch.export.save(program, path)
    return as_tuple(torch.export.load(path).module()(*inputs.values()))


def shapes(network: ExportedNetwork) -> tuple[Any, ...]:
    """Return the dynamic dimensions as `torch.export` expects them for `Method.forward`."""
    named = dynamic_of(network)
    found = tuple(dict.fromkeys(named.get(name, {}), Dim.AUTO) for name in network.inputs)
    return (found,)


WRITERS = {"onnx": write_onnx, "pt2": write_program}
