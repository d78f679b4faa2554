"""Settings of the process that trains: which warnings are shown, how memory is returned, which
kernels compute.
"""

import ctypes
import logging
import os
import platform
import warnings

import torch

GLIBC_OPTIONS = {
    -4: 0,  # M_MMAP_MAX
    -1: 2**31 - 1,  # M_TRIM_THRESHOLD
    -2: 2**26,  # M_TOP_PAD
}


def silence_lightning() -> None:
    """Hide Lightning's own messages, so that stderr holds the lines of this template only."""
    for name in ("pytorch_lightning", "lightning_fabric", "lightning.pytorch"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings(
        "ignore", module="pytorch_lightning|lightning_fabric|torch.utils.data|jsonargparse"
    )
    warnings.filterwarnings(
        "ignore",
        message=".*(LeafSpec|LightningCLI's args|does not have many workers|lr_scheduler.step).*",
    )


def keep_freed_memory() -> None:
    """Make glibc keep freed memory; returning and remapping large tensors costs 5-10 % per step."""
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        for option, value in GLIBC_OPTIONS.items():
            libc.mallopt(option, value)


def skip_search_for_gpus() -> None:
    """Make PyTorch's question whether there is a GPU cheap on machines without one.

    Fused optimizers ask at every step, and Lightning has the answer looked up by NVML, which takes
    0.04 to 0.4 ms. With a GPU the answer is kept.
    """
    if not torch.cuda.is_available():
        os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "0"


def choose_deterministic_convolutions() -> None:
    """Make cuDNN use kernels that give the same bits in each run, so that a resumed run equals one
    that was not interrupted.

    On an H100 this costs nothing measurable and is enough for all systems but CycleGAN and the
    discrete VAE, which need `--trainer.deterministic true` too.
    """
    torch.backends.cudnn.deterministic = True
