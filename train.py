"""Train, validate or test a system: `python train.py fit|validate|test --config
configs/<system>/<dataset>.yaml`.

`python train.py fit --run_dir DIR --ckpt_path last` resumes a run with its own configuration.
`python train.py preview --config FILE` shows the training data, and `python train.py runs` lists
all runs with their state, progress and best value.

Every argument of the model, the data module and Lightning's Trainer is an option, such as
`--model.latent_dim 64`, `--data.batch_size 32`, `--trainer.max_epochs 5` or `--trainer.devices 2`.
`python train.py fit --model.help GPT` and `python train.py fit --data.help OpenMoji` list the
options of one class, and `python train.py fit --help` those that people change. Other options:

    --run_dir DIR          Directory for the run's files (default: runs/<system>/<dataset>/<time>).
    --ckpt_path last|best|FILE
                           Checkpoint to resume exactly (fit) or to evaluate (validate, test);
                           last and best are checkpoints of --run_dir, or else of the recipe's
                           newest run. The run's own config.yaml is the basis of a resumed run;
                           options that differ from it are printed, or refused.
    --extend               Accept that another length of a resumed run changes the learning rate.
    --init_from FILE       Checkpoint that initialises the weights of a new run.
    --compile BACKEND      Compile the networks with a torch.compile backend, such as inductor.
    --wandb.project NAME   Also log to this Weights & Biases project; offline without an API key.
                           --wandb.group, tags, notes and name describe the run; --wandb.artifacts
                           true saves its checkpoints and samples.
    --tensorboard          Also log to TensorBoard.
    --gradient_histograms  Log histograms of the gradients, to either of the two.
    --dry_run              Print the configuration, layers, data sizes and steps, then exit.
"""

import sys

from cli.recipes import recipe_list
from cli.short_help import short_help
from common.errors import UserError, run


def train(argv: list[str]) -> None:
    """Run one subcommand; without arguments, print the help and the recipes."""
    if argv in ([], ["-h"], ["--help"]):
        print(f"{__doc__}\nRecipes:\n\n{recipe_list()}\n")
        return
    if text := short_help(argv):
        print(text)
        return
    if argv[0] == "runs":
        from cli.runs import run_list

        print(run_list(argv[1:]))
        return
    from pytorch_lightning.utilities.exceptions import MisconfigurationException  # slow import

    from cli.parser_messages import lightning_message, raised_by_lightning
    from cli.training import TrainCLI

    try:
        if argv[0] == "preview":
            from cli.preview import PreviewCLI

            PreviewCLI(argv[1:])
        else:
            TrainCLI(argv)
    except (MisconfigurationException, ValueError, RuntimeError) as error:
        if isinstance(error, MisconfigurationException) or raised_by_lightning(error):
            raise UserError(lightning_message(str(error))) from error
        raise
    except KeyError as error:
        if not str(error).startswith("'SLURM_"):
            raise
        raise UserError(
            f"SLURMEnvironment needs the variable {error}: start this command with srun in a job"
        ) from error


def main(argv: list[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    argv = sys.argv[1:] if argv is None else argv
    return run(lambda: train(argv))


if __name__ == "__main__":
    sys.exit(main())
