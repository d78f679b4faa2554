"""Train, validate or test any system: `python train.py fit|validate|test --config
configs/<system>/<dataset>.yaml`.

Every argument of the model, the data and Lightning's trainer is an option: `--model.latent_dim 64`,
`--data.batch_size 32`, `--trainer.max_epochs 5`, `--trainer.devices 2`. Without arguments this
prints the recipes. The options of its own:

    --run_dir DIR          where the run's files go; runs/<system>/<dataset>/<time> unless given
    --ckpt_path last|FILE  continue that run exactly (fit), or the weights to judge (validate, test)
    --init_from FILE       begin a new run with the weights of another one
    --compile BACKEND      compile the networks, such as with inductor; checkpoints stay the same
    --wandb PROJECT        also log to Weights & Biases; offline without an API key
    --tensorboard          also log to TensorBoard
    --dry_run              print configuration, sizes, layers and steps, and stop
"""

import sys

from cli.classes import classes_in
from cli.recipes import read_config, recipe_list
from common.errors import UserError, run
from common.files import ROOT

HELP: tuple[list[str], ...] = ([], ["-h"], ["--help"])
if __name__ == "__main__" and sys.argv[1:] in HELP:  # before the imports below, which take seconds
    print(f"{__doc__}\nRecipes:\n\n{recipe_list()}\n")
    sys.exit()

import ctypes
import difflib
import inspect
import itertools
import logging
import os
import platform
import re
import time
import warnings
from argparse import ArgumentError
from netrc import NetrcParseError, netrc
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import torch
import yaml
from jsonargparse import Namespace
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI
from pytorch_lightning.loggers import Logger, TensorBoardLogger, WandbLogger
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from callbacks.attention_maps import AttentionMaps
from callbacks.checkpoint import AtomicCheckpointIO, RunCheckpoint
from callbacks.fid import FID
from callbacks.gan_health import GanHealth
from callbacks.latent_plots import LatentPlots
from callbacks.non_finite_guard import NonFiniteGuard
from callbacks.previews import Previews
from callbacks.run_files import CSVLog, RunFiles
from callbacks.run_summary import RunSummary, describe
from callbacks.throughput import Throughput
from datamodules.base import DataModule
from lightning_modules.core.checkpoints import read_checkpoint
from lightning_modules.core.module import GenerativeModule

# Values of a data module's `data_spec`, which are no options of a model.
DATA_SPEC = (
    *("image_shape", "num_classes", "vocab_size", "source_vocab_size"),
    *("pad_id", "special_ids", "text_length"),
)
# Options of one start of the program, which a saved configuration leaves out.
START_OPTIONS = (
    *("config", "run_dir", "init_from", "ckpt_path", "dry_run", "compile"),
    *("wandb", "tensorboard", "verbose", "weights_only"),
)


def quiet() -> None:
    """Silence what Lightning says about itself, so that stderr holds this template's lines."""
    for name in ("pytorch_lightning", "lightning_fabric", "lightning.pytorch"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings(
        "ignore", module="pytorch_lightning|lightning_fabric|torch.utils.data|jsonargparse"
    )
    warnings.filterwarnings(
        "ignore",
        message=".*(LeafSpec|LightningCLI's args|does not have many workers|lr_scheduler.step).*",
    )


def keep_memory() -> None:
    """Let glibc keep what is freed: it would give a step's large tensors back, and get every page
    anew in the next one (5-10 %).
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        for option, value in {
            "M_MMAP_MAX": (-4, 0),
            "M_TRIM_THRESHOLD": (-1, 2**31 - 1),
            "M_TOP_PAD": (-2, 2**26),
        }.values():
            libc.mallopt(option, value)


class TrainCLI(LightningCLI):
    """LightningCLI that knows run directories and data_spec, and builds systems and data from their
    class paths.
    """

    def __init__(self, argv: list[str]) -> None:
        self.argv = full_class_paths(argv)
        super().__init__(
            GenerativeModule,
            DataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            save_config_callback=None,
            auto_configure_optimizers=False,
            seed_everything_default=0,
            parser_kwargs={"allow_abbrev": False, "exit_on_error": False},
            trainer_defaults={
                "num_sanity_val_steps": 0,
                "enable_model_summary": False,
                "enable_progress_bar": False,
                "use_distributed_sampler": False,  # our batch sampler knows its rank
            },
            args=self.argv,
        )

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        skip = {"model", "dataloaders", "datamodule", "weights_only"}
        return {
            "fit": {"model", "train_dataloaders", "val_dataloaders", "datamodule", "weights_only"},
            "validate": skip,
            "test": skip,
        }

    def add_core_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Lightning's groups, except that data_spec are no options: the data knows them."""
        parser.add_lightning_class_args(self.trainer_class, "trainer")
        parser.set_defaults(
            {f"trainer.{name}": value for name, value in self.trainer_defaults.items()}
        )
        parser.add_subclass_arguments(
            GenerativeModule, "model", required=True, fail_untyped=False, skip=set(DATA_SPEC)
        )
        parser.add_subclass_arguments(DataModule, "data", required=True, fail_untyped=False)

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_class_arguments(RunCheckpoint, "checkpoint")
        parser.add_class_arguments(Previews, "previews")
        parser.add_class_arguments(FID, "fid")
        parser.add_argument("--run_dir", type=str | None, help="Where the run's files go.")
        parser.add_argument(
            "--init_from", type=str | None, help="Checkpoint whose weights a new run begins with."
        )
        parser.add_argument(
            "--compile",
            type=str | None,
            metavar="BACKEND",
            help="Compile the networks, such as with inductor.",
        )
        parser.add_argument(
            "--wandb", type=str | None, metavar="PROJECT", help="Also log to Weights & Biases."
        )
        parser.add_argument("--tensorboard", action="store_true", help="Also log to TensorBoard.")
        parser.add_argument(
            "--dry_run", action="store_true", help="Print what would be trained, and stop."
        )

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        for path in config_files(args):
            read_config(path)  # jsonargparse does not say in which file the mistake is
        try:
            super().parse_arguments(parser, args)
        except ArgumentError as error:
            raise UserError(
                explain(str(error), self._subcommand_parsers.get(args[0]), args)
            ) from error

    def _parse_ckpt_path(self) -> None:
        """Lightning would put a checkpoint's hyper-parameters over those of the command line.
        `_check_resume` compares them.
        """

    def _add_instantiators(self) -> None:
        """Lightning would store hyper-parameters as it parsed them, without data_spec;
        `save_hyperparameters` stores all.
        """

    def before_instantiate_classes(self) -> None:
        self.options = self.config[self.subcommand]
        if (
            self.options.trainer.log_every_n_steps is not None
            and self.options.trainer.log_every_n_steps < 1
        ):
            raise UserError(
                f"trainer.log_every_n_steps {self.options.trainer.log_every_n_steps}: give at least 1"
            )
        self._find_run()
        self.saved_config = yaml.safe_load(
            self._parser(self.subcommand).dump(self.options, skip_unset=True)
        )
        for name in START_OPTIONS:
            self.saved_config.pop(name, None)
        # The data first: the model gets just those of its data_spec that its __init__ names.
        data = self._parser(self.subcommand).instantiate(Namespace(data=self.options.data)).data
        module, _, name = self.options.model.class_path.rpartition(".")
        wanted = inspect.signature(getattr(sys.modules[module], name).__init__).parameters
        data_spec = {key: value for key, value in data.data_spec.items() if key in wanted}
        missing = [
            key
            for key in wanted
            if key in DATA_SPEC
            and key not in data_spec
            and wanted[key].default is inspect.Parameter.empty
        ]
        if missing:
            raise UserError(
                f"model {name} needs the fact {missing[0]}, which {type(data).__name__} does not have: choose other data"
            )
        self.options.model.dict_kwargs = data_spec

    def _find_run(self) -> None:
        """Settle run directory and checkpoint; all mistakes about them end here, before anything is
        built.
        """
        options, fit = self.options, self.subcommand == "fit"
        given = options.run_dir
        home = self._recipe_home()
        if options.ckpt_path == "last":
            runs = [Path(given)] if given else sorted(home.glob("*/"), reverse=True)
            found = [run for run in runs if (run / "checkpoints/last.ckpt").is_file()]
            if not found:
                raise UserError(
                    f"--ckpt_path last: there is no checkpoints/last.ckpt in {given or home}: "
                    "name its run with --run_dir, or leave --ckpt_path out to begin one"
                )
            given, options.ckpt_path = str(found[0]), str(found[0] / "checkpoints/last.ckpt")
        if options.init_from and options.ckpt_path:
            raise UserError(
                "--init_from begins a new run and --ckpt_path continues one: give one of them"
            )
        if not fit and not options.ckpt_path:
            raise UserError(f"{self.subcommand} judges a checkpoint: give --ckpt_path FILE")
        self.checkpoint = read_checkpoint(options.ckpt_path) if options.ckpt_path else None
        if self.checkpoint and not given:  # continue, or judge, in the run that it belongs to
            folder = Path(options.ckpt_path).resolve().parent
            if fit and folder.name != "checkpoints":
                raise UserError(
                    f"--ckpt_path {options.ckpt_path} is in no run's checkpoints/: say with --run_dir where to go on"
                )
            given = folder.parent
        if not given:
            given = str(home / time.strftime("%Y-%m-%d_%H-%M-%S"))
            if "LOCAL_RANK" in os.environ:  # a process that rank 0 has started
                given = os.environ.get("MAQUETTE_RUN_DIR", given)
            os.environ["MAQUETTE_RUN_DIR"] = given
        self.run_dir = Path(given)
        if fit and not options.dry_run:
            if not self.checkpoint and (self.run_dir / "checkpoints/last.ckpt").exists():
                raise UserError(
                    f"{self.run_dir} already holds a run: continue it with --ckpt_path last or choose another --run_dir"
                )
            try:
                if (
                    getattr(rank_zero_only, "rank", 0) == 0
                ):  # processes started by torchrun may have read other clocks
                    self.run_dir.mkdir(parents=True, exist_ok=True)
                    (self.run_dir / "config.yaml").touch()
            except OSError as error:
                raise UserError(
                    f"--run_dir {self.run_dir} cannot be written ({error.strerror}): choose another"
                ) from error

    def _recipe_home(self) -> Path:
        """runs/<system>/<dataset> by the first recipe's place, or by the class names where there is
        none.
        """
        for path in self.options.config or []:
            path = Path(str(path)).resolve()
            if path.parent.parent == ROOT / "configs" and not path.parent.name.startswith("_"):
                return Path("runs", path.parent.name, path.stem)
        model, data = (self.options[key].class_path.split(".")[-2] for key in ("model", "data"))
        return Path("runs", model, data)

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        config = self._get(self.config_init, "trainer")
        if config.default_root_dir is not None:
            raise UserError(
                "trainer.default_root_dir is decided here: leave it out, --run_dir says where the run's files go"
            )
        loggers = (
            []
            if config.logger is False or self.subcommand != "fit"
            else [*several(config.logger), *self._loggers()]
        )
        return super().instantiate_trainer(
            default_root_dir=str(self.run_dir),
            logger=loggers,
            callbacks=[
                *several(config.callbacks),
                *self._callbacks(bool(config.enable_checkpointing is not False)),
            ],
            plugins=[*several(config.plugins), AtomicCheckpointIO()],
            **kwargs,
        )

    def _callbacks(self, checkpoints: bool) -> list[Callback]:
        if self.subcommand != "fit":
            return []
        opening = RunSummary(
            yaml.safe_dump(
                {key: self.saved_config[key] for key in ("model", "data")}, sort_keys=False
            )
        )
        kept = [self._get(self.config_init, "checkpoint")] if checkpoints else []
        watching = [NonFiniteGuard(), Throughput(), self._get(self.config_init, "previews")]
        # Lightning calls every hook of every callback at every step, so that those without work
        # here stay out.
        optional = (
            LatentPlots(),
            AttentionMaps(),
            GanHealth(),
            self._get(self.config_init, "fid"),
        )
        watching += [callback for callback in optional if callback.watches(self.model)]
        return [RunFiles(self.saved_config), opening, *watching, *kept]

    def _loggers(self) -> list[Logger]:
        loggers: list[Logger] = [
            CSVLog(
                self.run_dir / "metrics.csv",
                self.checkpoint["global_step"] if self.checkpoint else 0,
            )
        ]
        if self.options.tensorboard:
            loggers.append(TensorBoardLogger(self.run_dir, name="", version="tensorboard"))
        if self.options.wandb:
            loggers.append(
                wandb_logger(
                    self.options.wandb, self.run_dir, (self.checkpoint or {}).get("wandb_id")
                )
            )
        return loggers

    def _run_subcommand(self, subcommand: str) -> None:
        options = self.options
        if self.checkpoint:
            self._check_system(self.checkpoint)
            if subcommand == "fit":
                self._check_resume(self.checkpoint)
        if options.init_from:
            self._check_tokenizer(options.init_from)
            print(take_weights(self.model, read_checkpoint(options.init_from)), file=sys.stderr)
        if subcommand == "test" and type(self.model).test_step is LightningModule.test_step:
            raise UserError(
                f"{type(self.model).__name__} has no figures of its own: score its pictures with evaluate.py"
            )
        if options.dry_run:
            self.datamodule.prepare_data()
            print(yaml.safe_dump(self.saved_config, sort_keys=False))
            print(describe(self.model, self.datamodule, self.trainer))
            return
        if options.compile:
            compile_networks(self.model, options.compile)
        try:
            if subcommand == "fit":
                self.trainer.fit(
                    self.model,
                    datamodule=self.datamodule,
                    ckpt_path=options.ckpt_path,
                    weights_only=True,
                )
            else:
                judge = getattr(self.trainer, subcommand)
                judge(
                    self.model,
                    datamodule=self.datamodule,
                    ckpt_path=options.ckpt_path,
                    weights_only=True,
                    verbose=False,
                )
        except RuntimeError as error:
            if "loading state_dict" in str(error):
                raise UserError(
                    f"{options.ckpt_path}: its weights do not fit this model: {str(error).split(':', 1)[1]}"
                ) from error
            raise
        except SystemExit as stop:
            if isinstance(
                stop.__context__, KeyboardInterrupt
            ):  # Lightning makes an exit with code 1 of it
                raise stop.__context__ from None
            raise
        finally:
            for logger in self.trainer.loggers:
                if isinstance(logger, WandbLogger):
                    logger.experiment.finish()  # the next run of this process is one of its own
        if self.trainer.is_global_zero:
            self._report()

    def _check_system(self, checkpoint: dict[str, Any]) -> None:
        """Refuse the checkpoint of another system."""
        here = f"{type(self.model).__module__}.{type(self.model).__qualname__}"
        if checkpoint["class_path"] != here:
            raise UserError(
                f"{self.options.ckpt_path} is a {checkpoint['class_path']}, this is a {here}: use the config of its run"
            )

    def _check_resume(self, checkpoint: dict[str, Any]) -> None:
        """Refuse to continue a run with other settings, which its optimizer's state would silently
        undo.
        """
        then = checkpoint["hyper_parameters"]
        for name, value in self.model.hparams.items():
            if name in then and then[name] != value:
                raise UserError(
                    f"--ckpt_path continues a run with model.{name} {then[name]}, not {value}: "
                    "leave it out, or begin a new run from these weights with --init_from"
                )

    def _check_tokenizer(self, path: str) -> None:
        """Refuse weights whose tokens mean something else."""
        theirs, ours = (
            read_checkpoint(path).get("tokenizer"),
            getattr(self.datamodule, "tokenizer", None),
        )
        if theirs is not None and (ours is None or ours.to_json() != theirs):
            mend = (
                f"give --data.tokenizer_file {path}"
                if hasattr(self.datamodule, "tokenizer_file")
                else "give its own data"
            )
            raise UserError(f"--init_from {path} counts in other tokens than this data: {mend}")

    def _report(self) -> None:
        values = {
            name: value.item()
            for name, value in self.trainer.callback_metrics.items()
            if name.startswith(("val/", "test/"))
        }
        for name, value in values.items():
            print(f"{name} {value:.6g}  {self.model.signatures.get(name, '')}".rstrip())
        if self.subcommand == "fit":
            print(f"run: {self.run_dir}\npictures: {self.run_dir / 'samples'}")


def several(given: Any) -> list[Any]:
    """None, one thing or a list of them as a list; Lightning's `true` asks for what there is
    anyway.
    """
    return (
        list(given)
        if isinstance(given, list | tuple)
        else []
        if given is None or isinstance(given, bool)
        else [given]
    )


def full_class_paths(argv: list[str]) -> list[str]:
    """`--model VAE` as `--model lightning_modules.vae.VAE`, so that only the named file is
    imported.

    Raises:
        UserError: if there is no such class, with those that there are.
    """
    argv = [
        part
        for word in argv
        for part in (word.split("=", 1) if re.match("--(config|model|data)=", word) else [word])
    ]
    for option, folder in (("--model", "lightning_modules"), ("--data", "datamodules")):
        for place in [i for i, word in enumerate(argv[:-1]) if word == option]:
            name = argv[place + 1]
            if "." not in name:
                known = classes_in(folder)
                if name not in known:
                    raise UserError(f"{option} {name}: {no_such_class(name, folder)}")
                argv[place + 1] = known[name]
    return argv


def no_such_class(name: str, folder: str) -> str:
    """What to say of a class name that is in no file of the folder."""
    known = {one.lower(): one for one in classes_in(folder)}
    near = difflib.get_close_matches(name.lower(), known, n=3, cutoff=0)
    return f"there is no such class in {folder}/; near: {', '.join(known[one] for one in near) or 'none'}"


def config_files(argv: list[str]) -> list[Path]:
    """The configuration files that a command line names."""
    return [
        Path(value) for option, value in itertools.pairwise(argv) if option in ("-c", "--config")
    ]


def explain(message: str, parser: LightningArgumentParser | None, argv: list[str]) -> str:
    """A parser's complaint with the mend: the nearest option or class there is, or the type that is
    wanted.
    """
    fact = re.search(rf"Option '({'|'.join(DATA_SPEC)})' is not accepted", message)
    if fact:
        return f"model.{fact[1]} is a fact of the data and cannot be given by hand: leave it out"
    unknown = re.search(
        r"[Uu]nrecognized arguments: (\S+)|Option '([^']+)' is not accepted|not accept option '([^']+)'|"
        r"No action for key \"([^\"]+)\"",
        message,
    )
    if unknown:
        word = next(group for group in unknown.groups() if group).lstrip("-").split("=")[0]
        known = {
            option
            for action in (parser._actions if parser else [])
            for option in action.option_strings
            if option[-1] != "+"
        }
        known |= {
            f"--{key}.{name}" for key in ("model", "data") for name in init_parameters(argv, key)
        }
        names = {option.lstrip("-"): option for option in known} | {
            option.rpartition(".")[2]: option for option in known
        }
        near = difflib.get_close_matches(word, names, n=2, cutoff=0.5)
        hint = (
            f"; did you mean {' or '.join(dict.fromkeys(names[name] for name in near))}?"
            if near
            else ""
        )
        return f"there is no option {word}{hint}"
    absent = re.search(
        r"class_path '((\w+)\S*\.(\w+))':\s+(?:module '\S+' has no attribute|No module named '\2)",
        message,
    )
    if absent:
        return f"{absent[1]}: {no_such_class(absent[3], absent[2])}"
    kinds = [
        re.sub(r"\. Got value: .*|<class '(.+?)'>|typing\.", r"\1", kind)
        for kind in re.findall("Expected an? (.+)", message)
    ]
    wanted = " or ".join(kind for kind in kinds if kind != "NoneType")
    given = re.search("(?:Got|Given) value: (.*)", message)
    if wanted and given:
        key = ".".join(re.findall('Parser key "([^"]+)"', message))
        return f"{key} cannot be {given[1]}: give {wanted}"
    if "arguments are required" in message:
        return f"{message}; a recipe has them: give --config FILE, `python train.py` lists what there is"
    return message


def init_parameters(argv: list[str], key: str) -> list[str]:
    """Parameters of every class of the kind that the command line or its config names."""
    text = " ".join([*argv, *(path.read_text() for path in config_files(argv))])
    folder = {"model": "lightning_modules", "data": "datamodules"}[key]
    found: list[str] = []
    for module, name in re.findall(rf"({folder}(?:\.\w+)+)\.(\w+)", text):
        kind = getattr(sys.modules.get(module), name, None)
        if inspect.isclass(kind):
            own = [vars(base)["__init__"] for base in kind.__mro__[:-1] if "__init__" in vars(base)]
            found += [
                parameter for method in own for parameter in inspect.signature(method).parameters
            ]
    return found


def compile_networks(model: GenerativeModule, backend: str) -> None:
    """Compile every network of a system in place, so that names in checkpoints stay.

    Raises:
        UserError: if PyTorch has no such backend.
    """
    known = torch.compiler.list_backends()
    if backend not in [*known, "eager"]:
        raise UserError(
            f"--compile {backend}: there is no such backend here; give one of {', '.join(known)}"
        )
    compile_called(model, backend)


def compile_called(whole: torch.nn.Module, backend: Any) -> None:
    """Compile the parts that are called: a list, a dictionary and what is used by other methods
    never are themselves.
    """
    for part in whole.children():
        if type(part).forward is torch.nn.Module.forward:
            compile_called(part, backend)
        elif any(parameter.requires_grad for parameter in part.parameters()):
            part.compile(backend=backend)


def wandb_logger(project: str, run_dir: Path, run_id: str | None) -> Logger:
    """W&B, offline by itself where there is no API key, since it would otherwise raise or wait."""
    host = urlparse(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    try:
        stored = netrc().authenticators(host) is not None
    except (OSError, NetrcParseError):  # there is no such file, or none that can be read
        stored = False
    offline = not stored and not {"WANDB_API_KEY", "WANDB_MODE"} & os.environ.keys()
    return WandbLogger(
        project=project, save_dir=run_dir, id=run_id, resume="allow", offline=offline
    )


def take_weights(model: torch.nn.Module, checkpoint: dict[str, Any]) -> str:
    """Copy all weights that fit by name and shape; the answer lists those that were loaded, missing
    and mismatched.
    """
    theirs, ours = checkpoint["state_dict"], model.state_dict()
    loaded = {
        name: value
        for name, value in theirs.items()
        if name in ours and ours[name].shape == value.shape
    }
    if not any(value.dim() > 1 for value in loaded.values()):  # a bias or a counter fits by chance
        raise UserError(
            "--init_from: not one of its weights fits this model by name and shape; is it of another system?"
        )
    model.load_state_dict(loaded, strict=False)
    lists = {
        "loaded": list(loaded),
        "missing": [name for name in ours if name not in theirs],
        "mismatched": [name for name in theirs if name in ours and name not in loaded],
        "unused": [name for name in theirs if name not in ours],
    }
    return "\n".join(f"{kind} {len(names)}: {', '.join(names)}" for kind, names in lists.items())


def main(argv: list[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    argv = sys.argv[1:] if argv is None else argv
    if argv in HELP:
        print(f"{__doc__}\nRecipes:\n\n{recipe_list()}\n")
        return 0
    quiet()
    keep_memory()
    return run(lambda: TrainCLI(argv), "interrupted; continue with --ckpt_path last")


if __name__ == "__main__":
    sys.exit(main())
