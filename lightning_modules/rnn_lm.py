"""RNN language model: a state that is carried from symbol to symbol, and predicts the next one from
all that it remembers.

Mikolov et al., "Recurrent neural network based language model", Interspeech 2010; LSTM with dropout
as in Zaremba, Sutskever and Vinyals, "Recurrent Neural Network Regularization" (2014); character by
character as in Karpathy's char-rnn (2015).

    h^l_t = f(D h^{l-1}_t, h^l_{t-1})                  (2)
    p(x_{t+1} | x_1 .. x_t) = softmax(W D h^L_t + b)   (3)

f is a recurrent cell; with the LSTM it carries a second state that is only added to, through which
a gradient survives many steps. D is dropout: only upward, never along time, where it would wear the
memory down (Zaremba et al., Eq. 4 and Figure 2).

Text is one long sequence. A batch reads N places of it side by side and goes on where the batch
before it stopped, with the state that that one left; gradients stop at the border (truncated
back-propagation through time, Williams and Peng 1990). All that a sentence was has to fit into the
state: the forgetful context vector that attention was invented against.

| paper | here |
|---|---|
| h^0_t, the symbol | embedding, or a one-hot vector where its size is 0 |
| unrolled steps | data.context |
| weights from U(-r, r) | initial_range |

Where papers, released codes (Zaremba's main.lua, char-rnn's train.lua) and this file differ:

| | paper | released code | here |
|---|---|---|---|
| Mikolov: f | sigmoid | - | tanh in the cell "rnn" |
| Zaremba: loss of T steps | sum; norm of the gradient at most 5, step size 1 | as the paper | mean; at most 5 / T, step size T |
| Zaremba: first lower step size | after 4, 6 or 14 epochs | one epoch later | as the paper |
| Zaremba: both biases of a forget gate | - | U(-r, r) | one is `forget_bias` |
| char-rnn: loss of T steps | - | sum; elements of the gradient at most 5, epsilon 1e-8 | mean; 5 / T, 1e-8 / T |
| char-rnn: state when an epoch begins | - | that of the end of the last epoch | zero |
| char-rnn: validation text | - | the last 5 % of each row of a batch | the last part of the text, `data.val_share` |

The last steps of a row that do not fill a batch are left out in training.
"""

from typing import Any, Literal

import torch
from pytorch_lightning.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_padded_sequence

from common.errors import UserError
from lightning_modules.core.language_model import LanguageModel

CELLS: dict[str, Any] = {"rnn": nn.RNN, "gru": nn.GRU, "lstm": nn.LSTM}


def adam(parameters: Any) -> torch.optim.Optimizer:
    """Adam at 2e-3, as torch-rnn has it."""
    return torch.optim.Adam(parameters, lr=2e-3, fused=True)


class RNNLM(LanguageModel):
    """Recurrent language model.

    Args:
        vocab_size: V, a fact of the data.
        cell: f of Eq. 2.
        layers: L.
        width: of each state.
        embedding: size of a symbol's vector; 0 for one-hot vectors.
        dropout: of D.
        initial_range: r of the initial U(-r, r) of all weights.
        forget_bias: what an LSTM's forget gate begins with, so that it begins by remembering
            (Jozefowicz et al. 2015).
        optimizer: made from all parameters.
        schedule: made from the optimizer, stepped once per epoch.
    """

    modality = "text"

    def __init__(
        self,
        vocab_size: int,
        cell: Literal["rnn", "gru", "lstm"] = "lstm",
        layers: int = 2,
        width: int = 256,
        embedding: int = 64,
        dropout: float = 0.0,
        initial_range: float = 0.08,
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
                if name.startswith("bias_ih"):
                    nn.init.constant_(
                        bias[width : 2 * width], forget_bias
                    )  # gates are input, forget, cell, output
        self.states: dict[bool, tuple[Tensor, ...] | None] = {
            True: None,
            False: None,
        }  # of training and of evaluation

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits (N, T, V) of what follows each of tokens (N, T), from an empty state."""
        return self.step(tokens, None)[0]

    def step(
        self, tokens: Tensor, state: tuple[Tensor, ...] | None
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Logits (N, T, V) and the state, one tensor (L, N, width) or an LSTM's two, after tokens
        (N, T).
        """
        hidden, after = self.recurrent(self.inputs(tokens), self._packed(state))  # Eq. 2
        hidden = F.dropout(hidden, self.hparams.dropout, self.training)
        return self.output(hidden), after if isinstance(after, tuple) else (after,)  # Eq. 3

    def inputs(self, tokens: Tensor) -> Tensor:
        """Vectors (N, T, D) of symbols."""
        if self.embedding is None:
            return F.one_hot(tokens, self.hparams.vocab_size).to(self.output.weight.dtype)
        return F.dropout(self.embedding(tokens), self.hparams.dropout, self.training)

    @staticmethod
    def _packed(state: tuple[Tensor, ...] | None) -> Any:
        """As PyTorch's cells take it."""
        return state if state is None or len(state) == 2 else state[0]

    def read(self, batch: dict[str, Any]) -> Tensor:
        """Goes on from the state that the batch before left, except at the beginning of the text,
        and of every record.
        """
        state = self.states[self.training]
        if batch["first"] or state is None or state[0].shape[1] != len(batch["tokens"]):
            state = None
        else:
            state = tuple(part.to(self.device) for part in state)
        logits, after = self.step(batch["tokens"][:, :-1], state)
        self.states[self.training] = tuple(part.detach() for part in after)
        return logits

    def configure_optimizers(self) -> Any:
        ((make, schedule),) = self.optimizer_factories
        optimizer = make(self.parameters())
        return ([optimizer], [schedule(optimizer)]) if schedule else optimizer

    # Checkpoints

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Each rank reads other places of the text, and all states are kept."""
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

    # Decoding

    def begin(self, prompts: list[list[int]]) -> tuple[Tensor, tuple[Tensor, ...]]:
        if not all(prompts):
            raise UserError("there is nothing to continue: the prompt has no tokens")
        lengths = [len(prompt) for prompt in prompts]
        padded = torch.tensor(
            [prompt + [0] * (max(lengths) - len(prompt)) for prompt in prompts], device=self.device
        )
        packed = pack_padded_sequence(
            self.inputs(padded), torch.tensor(lengths), batch_first=True, enforce_sorted=False
        )
        _, after = self.recurrent(packed)
        state = after if isinstance(after, tuple) else (after,)
        return self.output(
            state[0][-1]
        ), state  # the top layer's state after each prompt's own last token

    def advance(
        self, tokens: list[int], state: tuple[Tensor, ...]
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        logits, state = self.step(torch.tensor(tokens, device=self.device)[:, None], state)
        return logits[:, 0], state
