"""RNN language model: a recurrent network that predicts the next token from its state.

Mikolov et al., "Recurrent neural network based language model", Interspeech 2010. The LSTM with
dropout follows Zaremba, Sutskever and Vinyals, "Recurrent Neural Network Regularization" (2014).
Models of characters follow Karpathy's char-rnn (2015).

    -log p(x) = sum_t -log p(x_t | x_<t)               (1)
    h^l_t = f(D h^{l-1}_t, h^l_{t-1})                  (2)
    p(x_{t+1} | x_1 .. x_t) = softmax(W D h^L_t + b)   (3)

f is a recurrent cell. An LSTM has a second state with additive updates, which preserve gradients
over many steps. D is dropout. It is applied between layers but not between time steps, where it
would erase the state (Zaremba et al., Eq. 4 and Figure 2).

The text is one long sequence. The N rows of a batch are parts of it that start at N different
positions. In the next batch, each row continues the same row of this batch from its final state.
Gradients stop at the border between batches (truncated back-propagation through time, Williams and
Peng 1990). The state has a fixed size, however long the text is; attention has no such limit.

Training: each update is an optimizer step (by default Adam with learning rate 2e-3) on the mean of
-log p per target token. A learning-rate schedule, if given, is stepped once per epoch.

Sampling: `sample_plain` recomputes the whole text for every token. `sample` keeps the recurrent
state and gives the same tokens faster.

| paper | here |
|---|---|
| h^0_t | embedding of the token, or a one-hot vector if `embedding` is 0 |
| unrolled steps | data.context |
| weights from U(-r, r) | initial_range |

Where the papers, the released code (Zaremba's main.lua, char-rnn's train.lua) and this file
differ:

| | paper | released code | here |
|---|---|---|---|
| Mikolov: f | sigmoid | - | tanh in the cell "rnn" |
| Zaremba: loss of T steps | sum | as the paper | mean |
| Zaremba: maximum gradient norm; learning rate | 5; 1 | as the paper | 5 / T; T |
| Zaremba: first decay of the rate | after 4, 6 or 14 epochs | one epoch later | as the paper |
| Zaremba: two initial biases of a forget gate | - | U(-r, r) | U(-r, r) and `forget_bias` |
| char-rnn: loss of T steps | - | sum | mean |
| char-rnn: maximum of gradient elements; epsilon of RMSprop | - | 5; 1e-8 | 5 / T; 1e-8 / T |
| char-rnn: state at the start of an epoch | - | final state of the previous epoch | zero |
| char-rnn: validation text | - | last 5 % of each row | end of the text, `data.val_share` |

Training skips tokens at the end of the text that do not fill a batch of N rows.
"""

from collections.abc import Iterable
from typing import Any, Literal

import torch
from jsonargparse.typing import (
    ClosedUnitInterval,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveInt,
)
from pytorch_lightning.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import LRScheduler

from lightning_modules.core.language_model import LanguageModel
from lightning_modules.core.modes import sampling
from lightning_modules.core.networks import ExportedNetwork, Method
from lightning_modules.nn.recurrent import LSTM

CELLS: dict[str, Any] = {"rnn": nn.RNN, "gru": nn.GRU, "lstm": LSTM}


State = tuple[Tensor, ...]  # (h,), or (h, c) for an LSTM; shapes (L, N, width)


def adam(parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """Build Adam with learning rate 2e-3, as in torch-rnn."""
    return torch.optim.Adam(parameters, lr=2e-3, fused=True)


class ConstantThenExponential(LRScheduler):
    """Learning-rate schedule: constant, then exponential decay (Zaremba et al. 2014; char-rnn).

    Args:
        optimizer: Optimizer whose learning rates are scaled.
        constant: Number of epochs at the initial learning rate.
        factor: Factor below 1 that multiplies the learning rate at the start of each later epoch.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, constant: int, factor: float) -> None:
        self.constant, self.factor = constant, factor
        super().__init__(optimizer)

    def get_lr(self) -> list[float | Tensor]:
        decayed = max(0, self.last_epoch + 1 - self.constant)  # number of epochs of decay
        return [base * self.factor**decayed for base in self.base_lrs]


class RNNLM(LanguageModel):
    """Recurrent language model that predicts the next token.

    Args:
        Data:
        vocab_size: Number V of tokens in the vocabulary; supplied by the data module.
        Network:
        cell: Type of recurrent cell: `rnn` (with tanh), `gru` or `lstm`.
        layers: Number L of recurrent layers.
        width: Number of units in each recurrent layer.
        embedding: Size of the token embeddings; 0 uses one-hot vectors instead.
        dropout: Dropout probability after the embedding, between layers and before the output.
            One-hot vectors have no dropout.
        initial_range: Bound r of the initial weights, which are uniform random numbers in [-r, r].
        forget_bias: Initial bias of the forget gate of an LSTM. A positive value preserves the
            state early in training (Jozefowicz et al. 2015).
        Optimizer:
        optimizer: Optimizer of all parameters; by default Adam with learning rate 2e-3.
        schedule: Learning-rate schedule, stepped once per epoch; None means a constant
            learning rate.
    """

    modality = "text"

    def __init__(
        self,
        vocab_size: int,
        cell: Literal["rnn", "gru", "lstm"] = "lstm",
        layers: PositiveInt = 2,
        width: PositiveInt = 256,
        embedding: NonNegativeInt = 64,
        dropout: ClosedUnitInterval = 0.0,
        initial_range: NonNegativeFloat = 0.08,
        forget_bias: float = 1.0,
        optimizer: OptimizerCallable = adam,
        schedule: LRSchedulerCallable | None = None,
    ) -> None:
        super().__init__()
        self.save_hyperparameters(ignore=["optimizer", "schedule"])
        self.optimizer_factories = [(optimizer, schedule)]
        self.embedding = nn.Embedding(vocab_size, embedding) if embedding else None
        self.recurrent = CELLS[cell](
            embedding or vocab_size,
            width,
            layers,
            batch_first=True,
            dropout=dropout if layers > 1 else 0.0,
        )
        self.output = nn.Linear(width, vocab_size)
        for p in self.parameters():
            nn.init.uniform_(p, -initial_range, initial_range)
        if cell == "lstm":
            for name, bias in self.recurrent.named_parameters():
                if name.startswith("bias_ih"):  # gates: input, forget, cell, output
                    nn.init.constant_(bias[width : 2 * width], forget_bias)
        # Final states of the previous training batch (key True) and evaluation batch (key False).
        self.states: dict[bool, State | None] = {True: None, False: None}

    def forward(self, tokens: Tensor) -> Tensor:
        """Return next-token logits (N, T, V) of tokens (N, T), starting from a zero state."""
        return self.step(tokens, None)[0]

    def step(self, tokens: Tensor, state: State | None) -> tuple[Tensor, State]:
        """Return next-token logits (N, T, V) of tokens (N, T), and the new state.

        If `state` is None, the initial state is zero.
        """
        x = self.embed(tokens)  # (N, T, D)
        # PyTorch's cells take and return a tuple for an LSTM and a tensor otherwise.
        initial = state[0] if state is not None and len(state) == 1 else state
        hidden, state = self.recurrent(x, initial)  # Eq. 2
        logits = self.output(self.dropout(hidden))  # Eq. 3
        return logits, state if isinstance(state, tuple) else (state,)

    def embed(self, tokens: Tensor) -> Tensor:
        """Return embeddings or one-hot vectors (N, T, D) of tokens (N, T)."""
        if self.embedding is None:
            return F.one_hot(tokens, self.hparams.vocab_size).to(self.output.weight.dtype)
        return self.dropout(self.embedding(tokens))

    # Training

    def token_nll(self, batch: dict[str, Any]) -> Tensor:
        """Return -log p in nats of each target token (N, T), with 0 at padding (Eq. 1).

        The initial state is the final state of the previous batch, or zero at the start of a text.
        """
        inputs, targets = batch["tokens"][:, :-1], batch["tokens"][:, 1:]  # (N, T)
        state = self.states[self.training]
        if batch["first"] or state is None or state[0].shape[1] != len(inputs):
            state = None
        else:
            state = tuple(part.to(self.device) for part in state)
        logits, state = self.step(inputs, state)
        self.states[self.training] = tuple(part.detach() for part in state)
        logits = logits.flatten(0, 1).float()  # (N * T, V)
        nll = F.cross_entropy(logits, targets.flatten(), reduction="none").view_as(targets)
        position = torch.arange(targets.shape[1], device=targets.device)
        return nll * (position < batch["length"][:, None])

    def loss(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """Compute the mean of -log p over the target tokens of a batch."""
        return {"loss": self.token_nll(batch).sum() / batch["num_targets"]}

    def configure_optimizers(self) -> Any:
        ((make_optimizer, make_schedule),) = self.optimizer_factories
        optimizer = make_optimizer(self.parameters())
        if make_schedule is None:
            return optimizer
        return [optimizer], [make_schedule(optimizer)]  # stepped once per epoch

    # Sampling

    @sampling
    def sample_plain(
        self, prompt: list[int], seeds: list[int], max_new_tokens: int, temperature: float = 1.0
    ) -> list[list[int]]:
        """Sample tokens after a prompt, recomputing the whole text for each token.

        Args:
            prompt: Token ids of the prompt, with which every row starts; at least one id.
            seeds: Seeds of the random generators, one per row.
            max_new_tokens: Number of tokens to sample per row.
            temperature: Divisor of the logits, positive.

        Returns:
            Sampled tokens of each row. Row i does not depend on the seeds of other rows.
        """
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        tokens = torch.tensor([prompt] * len(seeds), device=self.device)  # (N, T)
        for _ in range(max_new_tokens):
            logits = self(tokens)[:, -1].float()  # (N, V)
            cumulative = (logits / temperature).softmax(-1).double().cumsum(-1)
            # Invert the cumulative distribution at one uniform number per row.
            uniform = torch.cat([torch.rand(1, generator=generator) for generator in generators])
            threshold = uniform.to(self.device).double()[:, None] * cumulative[:, -1:]
            token = torch.searchsorted(cumulative, threshold, right=True)  # (N, 1)
            tokens = torch.cat([tokens, token], 1)
        return tokens[:, len(prompt) :].tolist()

    def prefill(self, prompts: Tensor) -> tuple[Tensor, State]:
        logits, state = self.step(prompts, None)
        return logits[:, -1], state

    def decode_step(self, tokens: Tensor, state: State) -> tuple[Tensor, State]:
        logits, state = self.step(tokens[:, None], state)
        return logits[:, -1], state

    def networks(self) -> dict[str, ExportedNetwork]:
        """Return one step of decoding: logits of the next token, and the new state."""

        def step(token: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
            logits, new = self.step(token, tuple(part.transpose(0, 1) for part in state))
            return logits[:, -1], *(part.transpose(0, 1) for part in new)

        token = torch.zeros(2, 1, dtype=torch.int64)
        state = self.step(token.to(self.device), None)[1]
        parts = {f"state{i}": part.transpose(0, 1).cpu() for i, part in enumerate(state)}
        outputs = ("logits", *(f"{name}_out" for name in parts))
        inputs = {"token": token, **parts}
        return {"step": ExportedNetwork(Method(self, step), inputs, outputs)}

    def dropout(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.hparams.dropout, self.training)

    # Checkpoints

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Store the states of all ranks, because each rank trains on other parts of the text."""
        super().on_save_checkpoint(checkpoint)
        state = self.states[True]
        checkpoint["recurrent_states"] = self.of_all_ranks(
            None if state is None else [part.cpu() for part in state]
        )

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        if self._trainer is not None and self.trainer.global_rank < len(
            checkpoint["recurrent_states"]
        ):
            state = checkpoint["recurrent_states"][self.trainer.global_rank]
            self.states[True] = None if state is None else tuple(state)
