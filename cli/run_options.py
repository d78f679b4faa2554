"""Options of `train.py` besides those of the trainer, the model and the data."""

from jsonargparse.typing import PositiveInt
from pytorch_lightning.cli import LightningArgumentParser

from callbacks.checkpoint import RunCheckpoint
from callbacks.fid import FID
from callbacks.previews import Previews
from cli.loggers import WandbOptions

# Options that concern one start of the program only, so config.yaml does not contain them.
START_OPTIONS = (
    *("config", "run_dir", "init_from", "ckpt_path", "dry_run", "extend"),
    *("verbose", "weights_only"),
)


def add_run_options(parser: LightningArgumentParser) -> None:
    """Add the options of the run directory, the loggers and the configurable callbacks."""
    parser.add_class_arguments(RunCheckpoint, "checkpoint")
    parser.add_class_arguments(Previews, "previews")
    parser.add_class_arguments(FID, "fid")
    parser.add_argument(
        "--run_dir",
        type=str | None,
        metavar="DIR",
        help="Directory for the run's files; runs/<system>/<dataset>/<time> if not given.",
    )
    parser.add_argument(
        "--init_from",
        type=str | None,
        metavar="FILE",
        help="Checkpoint to initialise a new run: weights of equal name and shape are copied.",
    )
    parser.add_argument(
        "--compile",
        type=str | None,
        metavar="BACKEND",
        help="Compile the networks with this torch.compile backend, such as inductor.",
    )
    parser.add_argument(
        "--updates_per_step",
        type=PositiveInt | None,
        metavar="N",
        help="Number of updates per step of the trainer, without influence on the results; "
        "chosen from the speed if not given.",
    )
    parser.add_class_arguments(WandbOptions, "wandb")
    parser.add_argument("--tensorboard", action="store_true", help="Also log to TensorBoard.")
    parser.add_argument(
        "--gradient_histograms",
        action="store_true",
        help="Log a histogram of each parameter's gradient per logging interval.",
    )
    parser.add_argument(
        "--dry_run",
        action="store_true",
        help="Print the configuration, layers, data sizes and steps, then exit.",
    )
    parser.add_argument(
        "--extend",
        action="store_true",
        help="Accept that another length of a resumed run changes the learning rate.",
    )
