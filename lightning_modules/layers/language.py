"""What all language models share: the objective, its figures over a whole split, and continuing a prompt.

A text is discrete, ordered in time, and fragile: where one wrong pixel is noise, one wrong word is another sentence. So the model
is a product of next-token distributions, and its loss is what it is surprised by:

    -log p(x) = sum_t -log p(x_t | x_<t)          (1)
"""

import math
import sys
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from console import UserError
from datamodules.tokenizer import RECORD
from lightning_modules.base import GenerativeModule, sampling
from lightning_modules.layers.decoding import Choice, generate
from metrics.language import TokenNLL


def token_losses(logits: Tensor, batch: dict[str, Any]) -> Tensor:
    """-log p of every target that counts (M,), from logits (N, T, V)."""
    targets = batch["tokens"][:, 1:]
    losses = F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), reduction="none").view_as(targets)
    counts = torch.arange(targets.shape[1], device=targets.device) < batch["length"][:, None]
    return losses[counts]


class LanguageModel(GenerativeModule):
    """Base of systems that predict the next token; a subclass brings `forward`, `begin` and `advance` (`layers/decoding.py`)."""

    monitor: ClassVar[tuple[str, str] | None] = ("val/nll", "min")
    unit: ClassVar[str] = "tokens"
    context: int = sys.maxsize  # most tokens that are seen at once

    def __init__(self) -> None:
        super().__init__()
        self.nll = TokenNLL()

    def batch_units(self, batch: dict[str, Any]) -> int:
        return int(batch["tokens"].shape[0] * (batch["tokens"].shape[1] - 1))

    def setup(self, stage: str) -> None:
        super().setup(stage)
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        if data.context > self.context:
            raise UserError(f"data.context {data.context} is more than model.context {self.context}: make them equal")

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        loss = token_losses(self.read(batch), batch).mean()  # Eq. 1, per token
        self.log_train(loss=loss)
        return loss

    def read(self, batch: dict[str, Any]) -> Tensor:
        """Logits (N, T, V) of all targets of a batch."""
        logits: Tensor = self(batch["tokens"][:, :-1])
        return logits

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        self._measure(batch, "val")

    def test_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        self._measure(batch, "test")

    def _measure(self, batch: dict[str, Any], stage: str) -> None:
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        rows = f"|rows={data.eval_batch_size * self.trainer.world_size}" if data.batching == "streams" else ""  # each from no state
        read = f"ctx={data.context}|read={data.batching}{rows}|positions=all"
        self.nll.description = f"{read}|unit=nats/token|split={data.split_name(stage)}"
        self.nll.update(token_losses(self.read(batch), batch))
        self.log_metric(f"{stage}/nll", self.nll)

    def on_validation_epoch_end(self) -> None:
        super().on_validation_epoch_end()
        self._relate("val")

    def on_test_epoch_end(self) -> None:
        super().on_test_epoch_end()
        self._relate("test")

    def _relate(self, stage: str) -> None:
        """The same figure per token as a perplexity, and per character and byte, which compares across tokenizers."""
        nats = self.nll.compute()
        text = self.trainer.datamodule.tokens(stage)  # type: ignore[attr-defined]
        bits = nats / math.log(2) * text.targets
        figures = {"ppl": nats.exp()}
        if self.tokenizer is not None and self.tokenizer.lossless:
            figures |= {"bpc": bits / text.characters, "bpb": bits / text.bytes}
        for name, value in figures.items():
            self.log(f"{stage}/{name}", value)
            self.signatures[f"{stage}/{name}"] = self.nll.signature.replace("nll", name, 1)

    # Decoding

    def begin(self, prompts: list[list[int]]) -> tuple[Tensor, Any]:
        raise NotImplementedError

    def advance(self, tokens: list[int], state: Any) -> tuple[Tensor, Any]:
        raise NotImplementedError

    def prompt_ids(self, prompt: str) -> list[int]:
        """Ids of a prompt; of none, those of a record's beginning, or of an empty line, or the first id of all."""
        if self.tokenizer is None:
            raise UserError("this checkpoint has no tokenizer: it was not made by train.py")
        begin = [self.tokenizer.special(RECORD[1])] if self.tokenizer.specials else []
        ids = [*begin, *self.tokenizer.encode(prompt).tolist()]
        try:
            return ids or self.tokenizer.encode("\n").tolist() or [0]
        except UserError:
            return [0]

    @sampling
    def sample(
        self,
        seeds: list[int],
        *,
        prompt: str = "",
        max_new_tokens: int = 200,
        temperature: float = 1.0,
        top_k: int = 0,
        top_p: float = 1.0,
        min_p: float = 0.0,
        repetition_penalty: float = 1.0,
    ) -> list[str]:
        """Continue a prompt.

        Args:
            seeds: row i depends on `seeds[i]` alone.
            prompt: how the text begins (`sample.py` reads "-" from stdin); of one beyond the context the model sees the end.
            max_new_tokens: at most that many tokens; a record may end before.
            temperature: below 1 likelier and more alike, above 1 more daring; 0 always takes the likeliest token.
            top_k: choose among the k likeliest tokens; 0 among all.
            top_p: choose among the fewest tokens that have this probability together.
            min_p: choose among tokens at least this share as likely as the likeliest.
            repetition_penalty: above 1 avoids tokens that occurred.

        Returns:
            N texts, each with its prompt.

        Raises:
            UserError: if an option is out of its range or contradicts another, or the prompt has an unknown character.
        """
        return self.continue_text(seeds, prompt, max_new_tokens, Choice(temperature, top_k, top_p, min_p, repetition_penalty))

    def continue_text(
        self,
        seeds: list[int],
        prompt: str,
        max_new_tokens: int,
        choice: Choice,
        listen: Callable[[list[int], Tensor], None] | None = None,
    ) -> list[str]:
        """N texts; `listen` sees every step (`generate`)."""
        if max_new_tokens < 1:
            raise UserError(f"--max_new_tokens {max_new_tokens}: give at least 1")
        ids = self.prompt_ids(prompt)
        assert self.tokenizer is not None
        stop = self.tokenizer.special(RECORD[2]) if self.tokenizer.specials else None
        prompts = [ids] * len(seeds)
        made = generate(self, prompts, seeds, max_new_tokens=max_new_tokens, choice=choice, stop=stop, listen=listen)
        given = len(self.tokenizer.decode(ids))  # what stands between two tokens is known only to both together
        return [prompt + self.tokenizer.decode([*ids, *row])[given:] for row in made]

    @sampling
    def preview(self, batch: dict[str, Any]) -> dict[str, Tensor | list[str]]:
        """Four texts from nothing, always with the same seeds."""
        if self.tokenizer is None:  # before a run has begun there is only its shape to be shown
            self(batch["tokens"][:, :-1])
            return {}
        return {"samples": self.sample([0, 1, 2, 3])}
