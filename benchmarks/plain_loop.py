"""Hand-written training loop of a recipe, with which `systems.py` compares `train.py`."""

import json
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import yaml
from torch.utils.flop_counter import FlopCounterMode

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.device_checks import Settings, class_of, small_options
from cli.classes import init_parameters
from cli.data import data_module
from cli.environment import skip_search_for_gpus
from lightning_modules.core.adversarial import AdversarialModule
from lightning_modules.core.modes import frozen


class PlainLoop:
    """Hand-written training loop of one recipe.

    Args:
        recipe: Path of the recipe.
    """

    def __init__(self, recipe: str) -> None:
        config = yaml.safe_load((ROOT / recipe).read_text(encoding="utf-8"))
        self.options = small_options(recipe, Settings(tiny=False))
        nested = dict(zip(self.options[::2], map(json.loads, self.options[1::2])))
        self.data = data_module(ROOT / recipe)
        kind = class_of(config["model"]["class_path"])
        arguments = dict(config["model"].get("init_args", {}))
        arguments |= {name.removeprefix("--model."): value for name, value in nested.items()}
        wanted = init_parameters(kind)
        spec = {name: value for name, value in self.data.data_spec.items() if name in wanted}
        self.clip = config.get("trainer", {}).get("gradient_clip_val")
        self.make = lambda: kind(**self._built(arguments), **spec)
        self.steps = config.get("trainer", {}).get("max_steps") or 10_000
        self.state = SimpleNamespace()

    @staticmethod
    def _built(arguments: dict[str, Any]) -> dict[str, Any]:
        """Return the arguments; optimizers and schedules become functions that build them."""
        return {
            name: partial(class_of(value["class_path"]), **value.get("init_args", {}))
            if name.endswith(("_optimizer", "_schedule"))
            else value
            for name, value in arguments.items()
        }

    def start(self) -> None:
        """Create an untrained network, its optimizers and an iterator of batches."""
        torch.manual_seed(0)
        self.model = self.make()
        self.model.trainer = self.trainer = SimpleNamespace(  # what systems read in training
            global_step=0,
            estimated_stepping_batches=self.steps,
            world_size=1,
            global_rank=0,
            is_global_zero=True,
            accumulate_grad_batches=1,
            datamodule=self.data,
            strategy=SimpleNamespace(
                all_gather=lambda tensor, **options: tensor,
                reduce=lambda tensor, **options: tensor,
            ),
            training=True,
        )
        self.model.log_train = lambda **values: None
        self.model.train()
        found = self.model.configure_optimizers()
        optimizers, schedules = found if isinstance(found, tuple) else (found, [])
        self.optimizers = optimizers if isinstance(optimizers, list) else [optimizers]
        self.schedules = [one["scheduler"] if isinstance(one, dict) else one for one in schedules]
        self.batches = self._batches()

    def _batches(self) -> Iterator[dict[str, Any]]:
        loader = self.data.loader("train", shuffle=True)
        while True:
            for batch in loader:
                yield self.data.transform(batch, training=True)

    def update(self) -> None:
        """Make one update."""
        batch, model = next(self.batches), self.model
        if isinstance(model, AdversarialModule):
            self._adversarial(batch)
        else:
            loss = model.loss(batch)["loss"]
            self.optimizers[0].zero_grad()
            loss.backward()
            if self.clip:
                torch.nn.utils.clip_grad_norm_(model.parameters(), self.clip)
            self.optimizers[0].step()
            model.update_ema(self.trainer.global_step + 1)
        for schedule in self.schedules:
            schedule.step()
        self.trainer.global_step += 1

    def _adversarial(self, batch: dict[str, Any]) -> None:
        model, (generator, discriminator) = self.model, self.optimizers
        generated = model.generate(batch)
        detached = torch.utils._pytree.tree_map(lambda value: value.detach(), generated)
        discriminator.zero_grad()
        model.discriminator_loss(batch, detached)["loss"].backward()
        discriminator.step()
        if (self.trainer.global_step + 1) % model.n_critic == 0:
            generator.zero_grad()
            with frozen(model.discriminator):
                model.generator_loss(batch, generated)["loss"].backward()
            generator.step()
            model.update_ema(self.trainer.global_step + 1)

    def seconds(self, updates: int) -> float:
        """Make updates and return the time that they took."""
        begin = time.perf_counter()
        for _ in range(updates):
            self.update()
        return time.perf_counter() - begin

    def operations(self) -> float:
        """Return the floating-point operations of one update, in units of 1e9."""
        with FlopCounterMode(display=False) as counter:
            self.update()
        return counter.get_total_flops() / 1e9


def main() -> None:
    """Make as many updates as each line of stdin says, and print the seconds that they took."""
    skip_search_for_gpus()
    plain = PlainLoop(sys.argv[1])
    plain.start()
    for line in sys.stdin:
        print(plain.seconds(int(line)), flush=True)


if __name__ == "__main__":
    main()
