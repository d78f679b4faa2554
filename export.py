"""Export a trained system: `python export.py CKPT [--format safetensors|onnx|pt2] [--out DIR]
[--push_to_hub USER/NAME]`.

safetensors (the default): writes a folder with the weights, the configuration (JSON) and a model
card. It contains no pickle, and has the same bits as the checkpoint. `sample.py`, `evaluate.py`,
`train.py fit --init_from` and `lightning_modules.load` accept the folder as they accept a
checkpoint, and `hf://USER/NAME` for a repository of the Hugging Face Hub.

onnx and pt2: write each network of the system as one file, for ONNX Runtime or for
`torch.export.load`. Each file is run and compared with PyTorch.
"""

import sys

from common.errors import run


def export(argv: list[str]) -> None:
    """Export a checkpoint; without arguments, print the help."""
    if not argv:
        print(__doc__)
        return
    from cli.exporting import program  # imports torch, which takes seconds

    print("\n".join(program.export(program.parse(argv, __doc__))))


def main(argv: list[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    argv = sys.argv[1:] if argv is None else argv
    return run(lambda: export(argv))


if __name__ == "__main__":
    sys.exit(main())
