"""Settings of the training process: hidden warnings, memory of glibc, cuDNN, search for GPUs."""

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
    """Hide messages and warnings of Lightning, so that stderr shows only the project's own."""
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
    """Make glibc keep freed memory instead of returning it to the operating system.

    Returning and remapping the memory of large tensors takes 5-10 % of the time of a step.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        for option, value in GLIBC_OPTIONS.items():
            libc.mallopt(option, value)


def skip_search_for_gpus() -> None:
    """Make `torch.cuda.is_available()` fast on machines without a GPU.

    Fused optimizers call this function at every step. Lightning makes the function query NVML,
    which takes 0.04 to 0.4 ms per call. On machines with a GPU, PyTorch caches the result.
    """
    if not torch.cuda.is_available():
        os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "0"


def choose_deterministic_convolutions() -> None:
    """Make cuDNN use deterministic kernels, so that a resumed run is bitwise identical.

    On an H100 the cost is not measurable. CycleGAN and the discrete VAE also need
    `--trainer.deterministic true`; for all other systems this setting is enough.
    """
    torch.backends.cudnn.deterministic = True
