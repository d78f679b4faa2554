"""Settings of the training process: hidden warnings, memory of glibc, cuDNN, search for GPUs."""

import ctypes
import logging
import os
import platform
import re
import warnings

import torch

GLIBC_OPTIONS = {
    -4: 0,  # M_MMAP_MAX
    -1: 2**31 - 1,  # M_TRIM_THRESHOLD
    -2: 2**26,  # M_TOP_PAD
}


# Messages of Lightning that are hidden: tips, hardware, restored files.
TIPS = re.compile(
    r"Seed set to|[GTHI]PU available|LOCAL_RANK|.{0,3}Tip:|`Trainer\((limit|overfit|val_check)|"
    r"Loading `train_dataloader`|Restor(ed all|ing) states|Loaded model weights|`weights_only` was|"
    r"`Trainer\.\w+` stopped|Initializing distributed|-{20}|All distributed processes|"
    r"Using (bf|16)|You are using a CUDA device|Running in `fast_dev_run`|\s*$|"
    r"`Trainer already configured"
)

# The same for warnings. Others are shown, such as another precision than the chosen one.
WARNINGS = (
    r".*(LeafSpec|LightningCLI's args|does not have many workers|lr_scheduler\.step|not resumable|"
    r"GPU available but not used|smaller than the logging interval|No device id|sync_dist=True|"
    r"Checkpoint directory|has no attribute|in eval mode|find_unused_parameters|weights_only|"
    r"already exists and is not empty|the batch_size|pin_memory|`training_step` returned `None`|"
    r"isn't set up for manual|callbacks used to create)"
)


class NoTips(logging.Filter):
    """Removes the messages of Lightning that `TIPS` matches."""

    def filter(self, record: logging.LogRecord) -> bool:
        return not TIPS.match(record.getMessage())


def silence_lightning() -> None:
    """Hide tips and hardware messages of Lightning; results, reasons and fallbacks are shown."""
    for name in ("pytorch_lightning", "lightning_fabric", "lightning.pytorch"):
        for handler in logging.getLogger(name).handlers:
            if not any(isinstance(one, NoTips) for one in handler.filters):
                handler.addFilter(NoTips())
    warnings.filterwarnings("ignore", module="torch.utils.data|jsonargparse")
    warnings.filterwarnings("ignore", message=WARNINGS)
    warnings.formatwarning = lambda message, *_, **__: f"warning: {message}\n"


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
