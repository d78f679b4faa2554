"""The help of `train.py fit`, `validate`, `test` and `preview`: the options that people change.

`--help_all` prints all options instead.
"""

FIT = """usage: python train.py fit --config FILE [options]

Train a system. `python train.py` lists the recipes: configs/<system>/<dataset>.yaml.

  --config FILE               Recipe, or config.yaml of a run. Options override its values.
  --model NAME --data NAME    Classes of system and data, if no recipe names them.
  --model.OPTION VALUE        Option of the system, such as --model.latent_dim 64.
  --data.OPTION VALUE         Option of the data, such as --data.batch_size 32 or --data.folder DIR.
  --run_dir DIR               Directory of the run (default: runs/<system>/<dataset>/<time>).
  --ckpt_path last|FILE       Resume the run in --run_dir, or the recipe's newest run.
  --init_from FILE            Start a new run with the weights of a checkpoint.
  --dry_run                   Print configuration, layers, data sizes and steps, then exit.
  --seed_everything N         Random seed (default: 0).
  --trainer.max_epochs N      Length of the run; or --trainer.max_steps N, in updates.
  --trainer.devices N         Number of GPUs, or of processes with --trainer.accelerator cpu.
  --trainer.precision P       32-true, or bf16-mixed, which is faster on recent GPUs.
  --trainer.log_every_n_steps N, --trainer.check_val_every_n_epoch N, --previews.count N
  --previews.every_n_train_steps N  Preview interval (default: a tenth of the run, 20 to 1,000).
  --fid.count N               Number of samples for FID at each validation (default: 0, no FID).
  --tensorboard               Also log to TensorBoard.
  --wandb.project NAME        Also log to Weights & Biases, offline without an API key; --help_all
                              lists --wandb.group, tags, notes, name and artifacts.

Options of the system GPT, or of the data OpenMoji: `python train.py fit --model.help GPT`,
`python train.py fit --data.help OpenMoji`. All other options: `python train.py fit --help_all`."""

EVALUATE = """usage: python train.py {name} --ckpt_path last|best|FILE [options]

Evaluate a checkpoint on the {split} split, with the configuration of its run.

  --ckpt_path last|best|FILE  Checkpoint; last and best are those of --run_dir.
  --run_dir DIR               Directory of the run.
  --config FILE               Instead of --run_dir: recipe whose newest run is meant.
  --data.OPTION VALUE         Option of the data, such as --data.batch_size 32.
  --trainer.limit_{name}_batches N
                              Number of batches, to try it out.
  --trainer.devices N         Number of GPUs, or of processes with --trainer.accelerator cpu.

Options of the data OpenMoji: `python train.py fit --data.help OpenMoji`. All other options:
`python train.py {name} --help_all`."""

PREVIEW = """usage: python train.py preview --config FILE [options]

Show the data as the network will see them, without a model: sizes of the splits, names, shapes and
ranges of the first training batch, and an image or texts.

  --config FILE               Recipe, or config.yaml of a run.
  --data NAME                 Class of the data, if no recipe names it.
  --data.OPTION VALUE         Option of the data, such as --data.batch_size 32 or --data.folder DIR.
  --run_dir DIR               Directory of the image (default: runs/preview/<system>/<dataset>).

Options of the data OpenMoji: `python train.py fit --data.help OpenMoji`."""

TEXTS = {
    "fit": FIT,
    "validate": EVALUATE.format(name="validate", split="validation").replace(
        "limit_validate", "limit_val"
    ),
    "test": EVALUATE.format(name="test", split="test"),
    "preview": PREVIEW,
}


def short_help(words: list[str]) -> str | None:
    """Return the short help of a subcommand if a command line asks for it; otherwise None.

    Args:
        words: Words of the command line, the subcommand first.
    """
    return TEXTS.get(words[0]) if {"-h", "--help"} & set(words[1:]) else None


def with_full_help(words: list[str]) -> list[str]:
    """Replace `--help_all` by the option that makes the parser print all options."""
    return ["--help" if word == "--help_all" else word for word in words]
