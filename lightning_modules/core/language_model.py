"""Base class of language models: metrics of a split, encoding of prompts, and sampling.

A text x is a sequence of discrete tokens. A language model factorises the probability of x into
next-token distributions:

    -log p(x) = sum_t -log p(x_t | x_<t)          (1)
"""

import math
import sys
from typing import Any, ClassVar

import numpy as np
import torch
from jsonargparse.typing import NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor
from torch.nn import functional as F

from common.errors import UserError
from datamodules.text.storage import gather
from datamodules.tokenizers.base import RECORD
from lightning_modules.core.modes import sampling
from lightning_modules.core.tokens import TokenModule
from lightning_modules.decoding.filters import (
    FiniteNonNegative,
    MinimumShare,
    NucleusProbability,
    SamplingConfig,
)
from lightning_modules.decoding.generation import Listener, generate
from metrics.language import TokenNLL


def context_start(length: int, context: int) -> int:
    """Return the index of the first token in the context window of a text of `length` tokens.

    `context` is the maximum number of tokens in the window. When the window is full, the older half
    of its tokens is dropped.
    """
    jump = context + 1 - max(1, context // 2)
    return jump * math.ceil(max(0, length - context) / jump)


class LanguageModel(TokenModule):
    """Base class of systems that predict the next token.

    A subclass implements `forward` (next-token logits (N, T, V) of tokens (N, T)), `token_nll` and
    `loss`. For sampling, it implements `prefill` and `decode_step`, which
    `decoding.generation.generate` calls.

    Attributes:
        listener: Function that `sample` calls after each step, with the new tokens and the
            probabilities they were sampled from; None for none.
    """

    monitor: ClassVar[tuple[str, str] | None] = ("val/nll", "min")
    token_score: ClassVar[str] = "surprisal in nats"
    listener: Listener | None = None

    def __init__(self) -> None:
        super().__init__()
        self.nll, self.nll_stride = TokenNLL(), TokenNLL()

    def token_nll(self, batch: dict[str, Any]) -> Tensor:
        """Compute -log p of each target token (N, T) in nats (Eq. 1); 0 for padding."""
        raise NotImplementedError

    def measure(self, batch: dict[str, Any], stage: str) -> None:
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        rows = ""
        if data.batching == "streams":  # NLL depends on the rows: each starts from a zero state
            rows = f"|rows={data.eval_batch_size * self.trainer.world_size}"
        read = f"ctx={data.context}|read={data.batching}{rows}|positions=all"
        self.nll.description = f"{read}|unit=nats/token|split={data.split_name(stage)}"
        self.nll.update(self.token_nll(batch), batch["num_targets"])
        self.log_metric(f"{stage}/nll", self.nll)

    def on_validation_epoch_end(self) -> None:
        super().on_validation_epoch_end()
        self._log_perplexity("val")

    def on_test_epoch_end(self) -> None:
        super().on_test_epoch_end()
        self._log_perplexity("test")
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        limit = self.trainer.limit_test_batches  # 1 means one batch, 1.0 all batches
        if data.batching == "windows" and not isinstance(limit, int) and limit == 1.0:
            stride = max(1, data.context // 2)
            self.nll_stride.description = self.nll.description.replace("|", f"|stride={stride}|", 1)
            with self.trainer.precision_plugin.forward_context():
                self.measure_stride(
                    data.tokens("test").ids,
                    data.context,
                    stride,
                    data.eval_batch_size,
                    self.trainer.global_rank,
                    self.trainer.world_size,
                )
            self.log_metric("test/nll_stride", self.nll_stride)

    def measure_stride(
        self, ids: np.ndarray, context: int, stride: int, rows: int, rank: int = 0, world: int = 1
    ) -> None:
        """Compute the NLL of a text in overlapping windows and add it to the metric `nll_stride`.

        Windows start `stride` tokens apart. The first window scores all of its targets; each later
        window scores only its last `stride` targets. Every token except the first is thus scored
        once. Except near the start of the text, it is predicted from at least `context - stride`
        previous tokens. The average number of previous tokens is 3/4 of `context` if `stride` is
        `context / 2`, and 1/2 of `context` for disjoint windows.

        Args:
            ids: Token ids (L,) of the text.
            context: Number of tokens in a window.
            stride: Number of tokens between the starts of two windows; `context` gives disjoint
                windows.
            rows: Number of windows in a batch.
            rank: Index of this process, which scores every `world`-th window.
            world: Number of processes.
        """
        targets = len(ids) - 1
        all_starts = torch.arange(0, max(1, targets - context + stride), stride)
        for starts in all_starts[rank::world].split(rows):
            tokens = gather(ids, starts.numpy(), context + 1).to(self.device)
            position = torch.arange(context)
            scored = (starts[:, None] + position < targets) & (
                (starts == 0)[:, None] | (position >= context - stride)
            )
            logits = self(tokens[:, :-1])
            targets_in_window = tokens[:, 1:].flatten()
            nll = F.cross_entropy(
                logits.flatten(0, 1).float(), targets_in_window, reduction="none"
            ).view(scored.shape)
            self.nll_stride.update(nll * scored.to(self.device), int(scored.sum()))

    def _log_perplexity(self, stage: str) -> None:
        """Log perplexity and, if the tokenizer is lossless, bits per character and bits per byte.

        Unlike perplexity, bits per character and bits per byte are comparable across tokenizers.
        """
        nats = self.nll.compute()
        text = self.trainer.datamodule.tokens(stage)  # type: ignore[attr-defined]
        bits = nats / math.log(2) * text.targets
        figures = {"ppl": nats.exp()}
        if self.tokenizer is not None and self.tokenizer.lossless:
            # Without `<bos>`, the first token of the text is not predicted: do not count its text.
            given = "" if self.tokenizer.specials else self.tokenizer.decode(text.ids[:1])
            figures |= {
                "bpc": bits / (text.characters - len(given)),
                "bpb": bits / (text.bytes - len(given.encode())),
            }
        for name, value in figures.items():
            self.log(f"{stage}/{name}", value)
            self.signatures[f"{stage}/{name}"] = self.nll.signature.replace("nll", name, 1)

    # Decoding

    def prefill(self, prompts: Tensor) -> tuple[Tensor, Any]:
        """Return next-token logits (N, V) after prompts (N, T), and the decoding state."""
        raise NotImplementedError

    def decode_step(self, tokens: Tensor, state: Any) -> tuple[Tensor, Any]:
        """Return next-token logits (N, V) after one more token per row (N,), and the new state."""
        raise NotImplementedError

    def prompt_ids(self, prompt: str) -> list[int]:
        """Encode a prompt as token ids, after `<bos>` if the tokenizer has special tokens.

        Without `<bos>`, an empty prompt becomes a line break, or token 0 if the vocabulary has no
        line break.
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
        max_new_tokens: PositiveInt = 200,
        temperature: FiniteNonNegative = 1.0,
        top_k: NonNegativeInt = 0,
        top_p: NucleusProbability = 1.0,
        min_p: MinimumShare = 0.0,
        repetition_penalty: PositiveFloat = 1.0,
    ) -> list[str]:
        """Sample texts that continue a prompt.

        Args:
            seeds: One seed per text. Text i does not depend on the seeds of other texts.
            prompt: Text to continue; "-" reads the prompt from stdin (in `sample.py`). If the
                prompt is longer than the context window, only its end is used.
            max_new_tokens: Maximum number of new tokens. A text ends earlier at `<eos>`.
            temperature: Divisor of the logits. Below 1, samples are less diverse. 0 always selects
                the most likely token.
            top_k: Number of most likely tokens to sample from; 0 means all tokens.
            top_p: Total probability, in (0, 1], of the most likely tokens to sample from (nucleus
                sampling); 1 means all tokens.
            min_p: Minimum probability of a token to sample, as a fraction of the highest
                probability, in [0, 1); 0 means all tokens.
            repetition_penalty: Penalty, above 0, of tokens that already occur in the text (Keskar
                et al. 2019); 1 means no penalty.

        Returns:
            N texts, each starting with the prompt.

        Raises:
            UserError: If `temperature` 0 is combined with `top_k`, `top_p` or `min_p`, or if the
                prompt has a character that the tokenizer cannot encode.
        """
        config = SamplingConfig(temperature, top_k, top_p, min_p, repetition_penalty)
        tokenizer = self.known_tokenizer()
        ids = self.prompt_ids(prompt)
        if len(ids) > self.context:
            print(
                f"the prompt has {len(ids)} tokens: only its end is used "
                f"(context window: {self.context} tokens)",
                file=sys.stderr,
            )
        outputs = generate(
            self,
            torch.tensor([ids] * len(seeds), device=self.device),
            seeds,
            max_new_tokens=max_new_tokens,
            config=config,
            eos=tokenizer.special(RECORD[2]) if tokenizer.specials else None,
            listener=self.listener,
        )
        # Decode prompt and output together: the space between two tokens depends on both tokens.
        given = len(tokenizer.decode(ids))
        return [prompt + tokenizer.decode([*ids, *row])[given:] for row in outputs]

    @sampling
    def surprisals(self, text: str) -> tuple[list[tuple[str, float]], int]:
        """Compute -log p of each token of a text, with the same context window as in `sample`.

        If the tokenizer has `<bos>` and `<eos>`, each line is a separate text, and all of its
        tokens are scored, including the `<eos>` that replaces the line break. Otherwise, the first
        token of the text is not scored.

        Returns:
            Scored tokens with -log p in nats, and the number of characters in these tokens.

        Raises:
            UserError: If the text has a character that the tokenizer cannot encode, or no token to
                score.
        """
        tokenizer = self.known_tokenizer()
        records = bool(tokenizer.specials)
        bos, eos = ([tokenizer.special(token)] if records else [] for token in RECORD[1:])
        scores: list[tuple[str, float]] = []
        characters = 0
        for line in filter(None, map(str.strip, text.split("\n"))) if records else [text]:
            ids = torch.tensor([*bos, *tokenizer.encode(line).tolist(), *eos], device=self.device)
            characters += len(line) + (1 if records else -len(tokenizer.decode(ids[:1].tolist())))
            done = 1
            while done < len(ids):
                start = context_start(done, self.context)
                last = min(start + self.context, len(ids) - 1)
                logits = self(ids[None, start:last])[0, done - 1 - start :].float()
                targets = ids[done : last + 1]
                nats = F.cross_entropy(logits, targets, reduction="none")
                scores += list(zip(map(tokenizer.token, targets.tolist()), nats.tolist()))
                done = last + 1
        if not scores:
            raise UserError("the text has fewer than two tokens to score: give a longer text")
        return scores, characters

    def score_tokens(self, text: str) -> list[tuple[str, float]]:
        """Return the scored tokens of `surprisals`, each with -log p in nats."""
        return self.surprisals(text)[0]

    @sampling
    def preview(self, batch: dict[str, Any]) -> dict[str, Tensor | list[str]]:
        """Return four unconditional samples with fixed seeds."""
        if self.tokenizer is None:  # no text to decode; `layer_table` needs a forward pass
            self(batch["tokens"][:, :-1])
            return {}
        return {"samples": self.sample([0, 1, 2, 3])}
