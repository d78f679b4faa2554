"""The command line of `train.py`: build data, model and trainer from options, then run them."""

import contextlib
import os
import sys
import tempfile
from argparse import ArgumentError
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import Namespace
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from callbacks.attention_maps import AttentionMaps
from callbacks.checkpoint import AtomicCheckpointIO
from callbacks.curves import Curves
from callbacks.gan_health import GanHealth
from callbacks.latent_plots import LatentPlots
from callbacks.non_finite_guard import NonFiniteGuard
from callbacks.progress import Progress
from callbacks.resume import Resume
from callbacks.run_files import RunFiles
from callbacks.run_summary import RunSummary, describe
from cli import trainer_options
from cli.class_help import requested_help
from cli.classes import full_class_paths, init_parameters
from cli.command_line import CommandLine
from cli.compilation import compile_networks
from cli.environment import (
    choose_deterministic_convolutions,
    keep_freed_memory,
    silence_lightning,
    skip_search_for_gpus,
)
from cli.evaluation.record import Evaluation
from cli.init_weights import init_from
from cli.loggers import close_wandb, run_loggers, tracking
from cli.parser_messages import parser_message
from cli.resume import (
    Changes,
    changes_of_run,
    finished_message,
    print_resume,
    replace_callbacks,
    sources,
    with_saved_config,
)
from cli.run_directory import check_system, resumed_run, start_run
from cli.run_end import end_lines, figure_lines, last_figures
from cli.run_options import add_run_options, check_used, saved_options
from cli.short_help import with_full_help
from common.errors import UserError
from common.run import Run, as_list
from datamodules.base import DataModule
from datamodules.usage_report import each_line_once, note
from lightning_modules.core.checkpoints import read_checkpoint
from lightning_modules.core.graphs import UpdateGraphs
from lightning_modules.core.module import GenerativeModule


class TrainCLI(LightningCLI):
    """LightningCLI that creates run directories and passes the data spec to the model.

    The data spec contains the values that the data module provides, such as the image shape.

    Args:
        argv: Subcommand and options, as typed.
    """

    model: GenerativeModule
    datamodule: DataModule
    required: tuple[str, ...] = ("model", "data")

    def __init__(self, argv: list[str]) -> None:
        silence_lightning()
        keep_freed_memory()
        choose_deterministic_convolutions()
        skip_search_for_gpus()
        self.exits = contextlib.ExitStack()  # such as the release of the run directory
        words = full_class_paths(argv)
        self.sources = sources(words)
        self.resumed = resumed_run(words)
        if self.resumed:
            argv = with_saved_config(words, self.resumed[1])
        self.command_line = CommandLine(argv, self.required)
        if text := requested_help(self.command_line.words):
            print(text)
            raise SystemExit(0)
        self.command_line.words = with_full_help(self.command_line.words)
        self.exits.enter_context(each_line_once())  # the data are built twice, for `_data_spec`
        try:
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
                    "use_distributed_sampler": False,  # our own sampler divides data between ranks
                },
                args=self.command_line.words,
            )
        finally:
            self.exits.close()

    # Options

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        skip = {"model", "dataloaders", "datamodule", "weights_only", "verbose"}
        return {
            "fit": {"model", "train_dataloaders", "val_dataloaders", "datamodule", "weights_only"},
            "validate": skip,
            "test": skip,
        }

    def add_core_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the options of trainer, model and data, except values that the data provides."""
        parser.add_lightning_class_args(self.trainer_class, "trainer")
        parser.set_defaults(
            {f"trainer.{name}": value for name, value in self.trainer_defaults.items()}
        )
        parser.add_subclass_arguments(
            GenerativeModule,
            "model",
            required="model" in self.required,
            fail_untyped=False,
            skip=set(self.command_line.provided),
        )
        parser.add_subclass_arguments(DataModule, "data", required=True, fail_untyped=False)

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        add_run_options(parser)

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        line = self.command_line
        subparser = self._subcommand_parsers.get(line.words[0])
        actions = subparser._actions if subparser else []
        options = {option for action in actions for option in action.option_strings}
        if subparser:
            line.check(options)
        try:
            super().parse_arguments(parser, args)
        except ArgumentError as error:
            message = parser_message(str(error), line.known(options), line.typed)
            raise UserError(message) from error

    def _parse_ckpt_path(self) -> None:
        """Do nothing: Lightning would replace options by the checkpoint's hyper-parameters.

        The configuration of the resumed run is used instead (`cli.resume`).
        """

    def _add_instantiators(self) -> None:
        """Do nothing: Lightning would store the hyper-parameters without the values of the data.

        The system's call of `save_hyperparameters` stores all hyper-parameters.
        """

    # Building

    def before_instantiate_classes(self) -> None:
        self.options = options = self.config[self.subcommand]
        trainer_options.check_trainer_options(options.trainer, self.command_line.classes["model"])
        if self.resumed:
            replace_callbacks(options.trainer, self.resumed[1])
        self.saved_config = saved_options(self._parser(self.subcommand), options)
        self._find_run()
        options.model.dict_kwargs = self._data_spec()

    def _find_run(self) -> None:
        """Find the run directory and the checkpoint; claim the directory of a new run."""
        options = self.options
        if options.init_from and options.ckpt_path:
            raise UserError(
                "--init_from starts a new run and --ckpt_path resumes one; give one of them"
            )
        if self.subcommand != "fit" and not self.resumed:
            raise UserError(f"{self.subcommand} evaluates a checkpoint; give --ckpt_path FILE")
        check_used(self.subcommand, self.command_line.words)
        self.checkpoint: dict[str, Any] = {}
        self.changes: Changes = {}
        if self.resumed:
            self.run, path = self.resumed
            options.ckpt_path = str(path)
            self.checkpoint = read_checkpoint(path, weights=False)
        if options.dry_run or options.trainer.fast_dev_run:  # leaves no files
            self.run = Run(self.exits.enter_context(tempfile.TemporaryDirectory()))
        elif not self.resumed:
            self.run = start_run(self.command_line.words)
            self._claim()

    def _claim(self) -> None:
        """Lock the run directory until the end of this object's `__init__`."""
        if getattr(rank_zero_only, "rank", 0) == 0:
            self.run.claim()
            self.exits.callback(self.run.release)

    def _check_resumed_run(self, data: DataModule) -> None:
        """Check the changed options, and end the program if the run has reached its end."""
        self.changes = changes_of_run(
            Path(self.options.ckpt_path), self.saved_config, data.changeable
        )
        if self.options.trainer.fast_dev_run or self.options.dry_run:
            return
        message = finished_message(self.run, self.checkpoint, self.saved_config["trainer"])
        self._claim()
        if message:
            self.run.record(state="finished")
            print(message, file=sys.stderr)
            raise SystemExit(0)

    def _data_spec(self) -> dict[str, Any]:
        """Return the values provided by the data that are parameters of the model's `__init__`."""
        options = Namespace(data=self.options.data)
        data: DataModule = self._parser(self.subcommand).instantiate(options).data
        if self.subcommand == "fit" and self.checkpoint:
            self._check_resumed_run(data)
        model = self.command_line.classes["model"]
        wanted = init_parameters(model)
        missing = wanted.keys() & set(type(data).provides) - data.data_spec.keys()
        for name in missing:
            if wanted[name].default is wanted[name].empty:
                raise UserError(
                    f"model {model.__name__} needs {name}, which this {type(data).__name__} "
                    "does not provide; choose other data"
                )
        return {name: value for name, value in data.data_spec.items() if name in wanted}

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        config = self._get(self.config_init, "trainer")
        loggers = []
        if self.subcommand == "fit" and config.logger is not False:
            own = run_loggers(self.run, self.checkpoint, self.options)
            loggers = as_list(config.logger) + own
        trainer: Trainer = super().instantiate_trainer(
            default_root_dir=str(self.run.path),
            logger=loggers,
            callbacks=[*as_list(config.callbacks), *self._callbacks()],
            plugins=[*as_list(config.plugins), AtomicCheckpointIO()],
            accelerator=trainer_options.supported_accelerator(config.accelerator),
            **kwargs,
        )
        trainer_options.remove_rank_zero_callbacks(trainer)
        started = int(os.environ.get("WORLD_SIZE", trainer.world_size))
        if started != trainer.world_size:
            raise UserError(
                f"the launcher has started {started} processes, but the trainer uses "
                f"{trainer.world_size}; set --trainer.devices and --trainer.num_nodes"
            )
        return trainer

    def _callbacks(self) -> list[Callback]:
        if self.subcommand != "fit":
            return [Progress()]
        shown = {key: self.saved_config[key] for key in ("model", "data")}
        callbacks: list[Callback] = [
            Resume(self.options.extend),
            RunSummary(yaml.safe_dump(shown, sort_keys=False)),
            NonFiniteGuard(),
            *tracking(self.options, self.saved_config),
            Progress(),
            self._get(self.config_init, "previews"),
        ]
        fid = self._get(self.config_init, "fid")
        fid.check(self.model, self.datamodule)
        # Unused callbacks would cost time, because Lightning calls their hooks at every step.
        optional = (LatentPlots(), AttentionMaps(), GanHealth(), fid)
        callbacks += [callback for callback in optional if callback.watches(self.model)]
        callbacks.append(Curves())
        if not self.options.trainer.fast_dev_run:
            callbacks.insert(1, RunFiles(self.saved_config, self.sources, self.changes))
            if self.options.trainer.enable_checkpointing is not False:
                callbacks.append(self._get(self.config_init, "checkpoint"))
        return callbacks

    # Running

    def _run_subcommand(self, subcommand: str) -> None:
        options = self.options
        trainer_options.check_optimizers(self.model)
        if self.resumed:
            check_system(options.ckpt_path, self.checkpoint, self.model)
            if subcommand == "fit" and self.trainer.is_global_zero:
                print_resume(self.resumed[0], self.checkpoint, self.changes)
        if options.init_from:
            note(init_from(options.init_from, self.model, self.datamodule))
        if subcommand == "test" and type(self.model).test_step is LightningModule.test_step:
            raise UserError(
                f"{type(self.model).__name__} logs no test metrics; "
                "evaluate its images with evaluate.py"
            )
        if options.dry_run:
            self.datamodule.prepare_data()
            self.datamodule.divide_global_batch(self.trainer, self.model)
            print(yaml.safe_dump(self.saved_config, sort_keys=False))
            print(describe(self.model, self.datamodule, self.trainer))
            return
        self.model.updates_per_step = options.updates_per_step
        self.model.graphs = UpdateGraphs() if options.graph_updates else None
        if options.compile:
            compile_networks(self.model, options.compile)
        records = subcommand == "fit" and self.trainer.is_global_zero
        with self.run.training() if records else contextlib.nullcontext():
            try:
                self._run_trainer(subcommand)
            finally:
                close_wandb(self.trainer.loggers)
        if self.trainer.is_global_zero:
            figures = last_figures(self.trainer)
            if subcommand == "test" and not options.trainer.fast_dev_run:
                evaluation = Evaluation(Path(options.ckpt_path))
                for name, value in figures.items():
                    evaluation.add(name, value, self.model.signatures.get(name, ""))
                evaluation.log()
            lines = figure_lines(figures, self.model.signatures)
            if subcommand == "fit" and not options.trainer.fast_dev_run:
                lines += end_lines(self.run, self.trainer, self.model, self.datamodule)
            for line in lines:
                print(line)

    def _run_trainer(self, subcommand: str) -> None:
        """Call `trainer.fit`, `trainer.validate` or `trainer.test`."""
        method = getattr(self.trainer, subcommand)
        arguments = {"ckpt_path": self.options.ckpt_path, "weights_only": True}
        if subcommand != "fit":
            arguments["verbose"] = False
        try:
            method(self.model, datamodule=self.datamodule, **arguments)
        except RuntimeError as error:
            if "loading state_dict" in str(error):
                raise UserError(
                    f"--ckpt_path {self.options.ckpt_path} does not match this model; "
                    f"use the config.yaml of its run: {str(error).split(':', 1)[1]}"
                ) from error
            raise
        except SystemExit as stop:
            # Lightning turns Ctrl-C into an exit with code 1.
            if isinstance(stop.__context__, KeyboardInterrupt):
                raise stop.__context__ from None
            raise
