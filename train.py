"""Train, validate or test any system: `python train.py fit|validate|test --config
configs/<system>/<dataset>.yaml`.

Every argument of the model, the data and Lightning's trainer is an option: `--model.latent_dim 64`,
`--data.batch_size 32`, `--trainer.max_epochs 5`, `--trainer.devices 2`. `fit --model.help GPT` and
`fit --data.help OpenMoji` list those of one class. Without arguments this prints the recipes. The
options of its own:

    --run_dir DIR          where the run's files go; runs/<system>/<dataset>/<time> unless given
    --ckpt_path last|FILE  continue that run exactly (fit), or the weights to judge (validate, test)
    --init_from FILE       begin a new run with the weights of another one
    --compile BACKEND      compile the networks, such as with inductor; checkpoints stay the same
    --wandb PROJECT        also log to Weights & Biases; offline without an API key
    --tensorboard          also log to TensorBoard
    --dry_run              print configuration, sizes, layers and steps, and stop
"""

import sys

from cli.recipes import recipe_list
from common.errors import UserError, run


def train(argv: list[str]) -> None:
    """Run one subcommand of the command line."""
    from pytorch_lightning.utilities.exceptions import MisconfigurationException  # takes seconds

    from cli.training import TrainCLI

    try:
        TrainCLI(argv)
    except MisconfigurationException as error:
        raise UserError(str(error)) from error


def main(argv: list[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    argv = sys.argv[1:] if argv is None else argv
    if argv in ([], ["-h"], ["--help"]):
        print(f"{__doc__}\nRecipes:\n\n{recipe_list()}\n")
        return 0
    return run(lambda: train(argv), "interrupted; continue with --ckpt_path last")


if __name__ == "__main__":
    sys.exit(main())
