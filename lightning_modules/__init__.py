"""Generative systems, one per file.

`load` restores the system of a checkpoint: `load("runs/.../best.ckpt").sample([0, 1])`.
"""

from lightning_modules.core.checkpoints import load

__all__ = ["load"]
