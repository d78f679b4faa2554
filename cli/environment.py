"""Settings of the process that trains: which warnings are shown, how memory is returned."""

import ctypes
import logging
import platform
import warnings

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
