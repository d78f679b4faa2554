"""What all language models share: the objective, its figures over a whole split, and continuing a
prompt.

A text is discrete, ordered in time, and fragile: where one wrong pixel is noise, one wrong word is
another sentence. So the model is a product of next-token distributions, and its loss is what it is
surprised by:

    -log p(x) = sum_t -log p(x_t | x_<t)          (1)
"""

import math
import sys
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from common.errors import UserError
from datamodules.text.storage import gather
from datamodules.tokenizers.base import RECORD
from lightning_modules.core.modes import sampling
from lightning_modules.core.tokens import TokenModule, token_losses
from lightning_modules.decoding.filters import SamplingConfig
from lightning_modules.decoding.generation import Listener, generate
from metrics.language import TokenNLL


def context_start(length: int, context: int) -> int:
    """First token that is still seen when `length` were written: all fit, or the younger half was
    kept each time it got full.
    """
    kept = max(1, context // 2)
    step = context + 1 - kept
    return step * math.ceil(max(0, length - context) / step)


class LanguageModel(TokenModule):
    """Base of systems that predict the next token; a subclass brings `forward`, `begin` and
    `advance` (`decoding/generation.py`).

    Attributes:
        listener: sees every step of `sample`.
    """

    monitor: ClassVar[tuple[str, str] | None] = ("val/nll", "min")
    listener: Listener | None = None

    def __init__(self) -> None:
        super().__init__()
        self.nll, self.nll_stride = TokenNLL(), TokenNLL()

    def loss(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        return {"loss": self.losses(batch).sum() / batch["targets"]}

    def losses(self, batch: dict[str, Any]) -> Tensor:
        """(N, T) terms of Eq. 1, 0 where none counts."""
        return token_losses(self.read(batch), batch["tokens"][:, 1:], batch["length"])

    def read(self, batch: dict[str, Any]) -> Tensor:
        """Logits (N, T, V) of all targets of a batch."""
        logits: Tensor = self(batch["tokens"][:, :-1])
        return logits

    def measure(self, batch: dict[str, Any], stage: str) -> None:
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        rows = (
            f"|rows={data.eval_batch_size * self.trainer.world_size}"
            if data.batching == "streams"
            else ""
        )  # each from no state
        read = f"ctx={data.context}|read={data.batching}{rows}|positions=all"
        self.nll.description = f"{read}|unit=nats/token|split={data.split_name(stage)}"
        self.nll.update(self.losses(batch), batch["targets"])
        self.log_metric(f"{stage}/nll", self.nll)

    def on_validation_epoch_end(self) -> None:
        super().on_validation_epoch_end()
        self._relate("val")

    def on_test_epoch_end(self) -> None:
        super().on_test_epoch_end()
        self._relate("test")
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        limit = self.trainer.limit_test_batches  # the integer 1 is one batch, 1.0 all of them
        if data.batching == "windows" and not isinstance(limit, int) and limit == 1.0:
            stride = max(1, data.context // 2)
            self.nll_stride.description = self.nll.description.replace("|", f"|stride={stride}|", 1)
            with self.trainer.precision_plugin.forward_context():
                ids, ranks = (
                    data.tokens("test").ids,
                    (self.trainer.global_rank, self.trainer.world_size),
                )
                self.measure_stride(ids, data.context, stride, data.eval_batch_size, *ranks)
            self.log_metric("test/nll_stride", self.nll_stride)

    def measure_stride(
        self, ids: np.ndarray, context: int, stride: int, rows: int, rank: int = 0, world: int = 1
    ) -> None:
        """Add the NLL of a text in overlapping windows to `nll_stride`.

        Windows begin `stride` tokens apart. The first window scores all of its targets, each other
        one its last `stride`. Every token but the first is scored once, given at least `context -
        stride` tokens if available. At a stride of half a context that is 3/4 of a context on
        average; disjoint windows have 1/2.

        Args:
            ids: the text (L,).
            context: tokens that a window holds.
            stride: tokens between the beginnings of two windows; `context` for disjoint ones.
            rows: windows that are read at a time.
            rank: number of this process; it reads every `world`-th window.
            world: number of processes.
        """
        targets = len(ids) - 1
        for starts in torch.arange(0, max(1, targets - context + stride), stride)[
            rank::world
        ].split(rows):
            tokens = gather(ids, starts.numpy(), context + 1).to(self.device)
            place = torch.arange(context)
            scored = (starts[:, None] + place < targets) & (
                (starts == 0)[:, None] | (place >= context - stride)
            )
            losses = token_losses(
                self(tokens[:, :-1]),
                tokens[:, 1:],
                torch.full((len(starts),), context, device=self.device),
            )
            self.nll_stride.update(losses * scored.to(self.device), int(scored.sum()))

    def _relate(self, stage: str) -> None:
        """Log the perplexity, and bits per character and byte of the predicted tokens, which
        compare across tokenizers.
        """
        nats = self.nll.compute()
        text = self.trainer.datamodule.tokens(stage)  # type: ignore[attr-defined]
        bits = nats / math.log(2) * text.targets
        figures = {"ppl": nats.exp()}
        if self.tokenizer is not None and self.tokenizer.lossless:
            given = (
                "" if self.tokenizer.specials else self.tokenizer.decode(text.ids[:1])
            )  # predicted from nothing: not counted
            figures |= {
                "bpc": bits / (text.characters - len(given)),
                "bpb": bits / (text.bytes - len(given.encode())),
            }
        for name, value in figures.items():
            self.log(f"{stage}/{name}", value)
            self.signatures[f"{stage}/{name}"] = self.nll.signature.replace("nll", name, 1)

    # Decoding

    def begin(self, prompts: list[list[int]]) -> tuple[Tensor, Any]:
        """See `DecodableModel`."""
        raise NotImplementedError

    def advance(self, tokens: list[int], state: Any) -> tuple[Tensor, Any]:
        """See `DecodableModel`."""
        raise NotImplementedError

    def prompt_ids(self, prompt: str) -> list[int]:
        """Ids of a prompt; of none, those of a record's beginning, or of an empty line, or the
        first id of all.
        """
        tokenizer = self.known_tokenizer()
        begin = [tokenizer.special(RECORD[1])] if tokenizer.specials else []
        ids = [*begin, *tokenizer.encode(prompt).tolist()]
        try:
            return ids or tokenizer.encode("\n").tolist() or [0]
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
            prompt: how the text begins (`sample.py` reads "-" from stdin); of one beyond the
                context the model sees the end.
            max_new_tokens: at most that many tokens; a record may end before.
            temperature: below 1 likelier and more alike, above 1 more daring; 0 always takes the
                likeliest token.
            top_k: choose among the k likeliest tokens; 0 among all.
            top_p: choose among the fewest tokens that have this probability together.
            min_p: choose among tokens at least this share as likely as the likeliest.
            repetition_penalty: above 1 avoids tokens that occurred.

        Returns:
            N texts, each with its prompt.

        Raises:
            UserError: if an option is out of its range or contradicts another, or the prompt has an
                unknown character.
        """
        choice = SamplingConfig(temperature, top_k, top_p, min_p, repetition_penalty)
        if max_new_tokens < 1:
            raise UserError(f"--max_new_tokens {max_new_tokens}: give at least 1")
        ids = self.prompt_ids(prompt)
        if len(ids) > self.context:
            print(
                f"the prompt has {len(ids)} tokens, of which the model sees the end: it has room for {self.context}",
                file=sys.stderr,
            )
        assert self.tokenizer is not None
        stop = self.tokenizer.special(RECORD[2]) if self.tokenizer.specials else None
        prompts = [ids] * len(seeds)
        made = generate(
            self,
            prompts,
            seeds,
            max_new_tokens=max_new_tokens,
            choice=choice,
            stop=stop,
            listen=self.listener,
        )
        given = len(
            self.tokenizer.decode(ids)
        )  # what stands between two tokens is known only to both together
        return [prompt + self.tokenizer.decode([*ids, *row])[given:] for row in made]

    @sampling
    def surprisals(self, text: str) -> tuple[list[tuple[str, float]], int]:
        """Score the tokens of a text, each given what `sample` would have seen before it.

        Where the corpus was of records, each line is one, and all of its tokens are scored, `<eos>`
        for the end of the line. Otherwise the first token is not, since there is nothing to predict
        it from.

        Returns:
            Each scored token with its -log p in nats, and the number of characters that these
            tokens spell.

        Raises:
            UserError: if the text has an unknown character, or too few tokens.
        """
        tokenizer = self.known_tokenizer()
        records = bool(tokenizer.specials)
        begin, end = ([tokenizer.special(token)] if records else [] for token in RECORD[1:])
        found, characters = [], 0
        for part in filter(None, map(str.strip, text.split("\n"))) if records else [text]:
            ids = torch.tensor([*begin, *tokenizer.encode(part).tolist(), *end], device=self.device)
            characters += len(part) + (1 if records else -len(tokenizer.decode(ids[:1].tolist())))
            done = 1
            while done < len(ids):
                start = context_start(done, self.context)
                last = min(start + self.context, len(ids) - 1)
                logits = self(ids[None, start:last])[0, done - 1 - start :].float()
                nats = torch.nn.functional.cross_entropy(
                    logits, ids[done : last + 1], reduction="none"
                )
                found += list(
                    zip((tokenizer.token(i) for i in ids[done : last + 1].tolist()), nats.tolist())
                )
                done = last + 1
        if not found:
            raise UserError("there is nothing to score: the text has fewer than two tokens")
        return found, characters

    @sampling
    def preview(self, batch: dict[str, Any]) -> dict[str, Tensor | list[str]]:
        """Four texts from nothing, always with the same seeds."""
        if self.tokenizer is None:  # before a run has begun there is only its shape to be shown
            self(batch["tokens"][:, :-1])
            return {}
        return {"samples": self.sample([0, 1, 2, 3])}
