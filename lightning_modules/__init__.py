"""Generative systems, one file each. `load` brings any checkpoint back:
`load("runs/.../best.ckpt").sample([0, 1])`.
"""

from lightning_modules.core.checkpoints import load

__all__ = ["load"]
