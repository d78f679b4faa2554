"""GPT: a decoder-only Transformer, trained to predict the next token.

GPT-1: Radford et al., "Improving Language Understanding by Generative Pre-Training" (2018).
Architecture and initialisation follow GPT-2: Radford et al., "Language Models are Unsupervised
Multitask Learners" (2019).

    -log p(x) = sum_{t >= 2} -log p(x_t | x_<t)             (1)
    h_0[t] = W_e[x_t] + W_p[t]                              (2)
    h_l = Block(h_{l-1}),  l = 1 .. L                       (3)
    p(x_{t+1} | x_<=t) = softmax(W_e norm(h_L[t]))          (4)

The first token of a text is only an input, never a target. Each block normalises the input of its
residual branches, and position t attends to positions 1 .. t (`nn/transformer.py`).

Sampling feeds each sampled token back as the next input. A sampled token is discrete and has no
gradient, which a text GAN would need. Fluent samples do not imply a high likelihood, so runs report
both samples and validation loss. The fine-tuning of GPT-1 is not implemented.

| paper | here |
|---|---|
| W_e (V, width), W_p (T, width) | embedding.weight (input and output), positions.weight |
| n_layer, n_head, n_embd, n_ctx | layers, heads, width, context |
| weights of std .02; last layer of a residual branch: .02 / sqrt(2 L) | `init_gpt` |
| modified L2 except on gains and biases | decoupled weight decay, also of embeddings |

Training: the base class calls `loss` for each mini-batch. `configure_optimizers` builds AdamW for
all parameters, or Muon for the matrices of the blocks and AdamW for all other parameters. The
learning rate has a linear warm-up and a cosine decay. Gradients are clipped to the norm
`trainer.gradient_clip_val`.

Sampling: `sample_plain` recomputes the whole context window for every token. `sample`, inherited
from `LanguageModel`, gives the same tokens faster, with a key-value cache (`decoding/`). When the
context window is full, both methods drop its older half.

Where the papers, Karpathy's nanoGPT and this file differ:

| | papers | nanoGPT | here |
|---|---|---|---|
| biases | yes | no (`bias` in its train.py) | yes; no in the nanoGPT recipes (`bias`) |
| GELU | tanh approximation (GPT-2's model.py) | exact | exact; `gelu_tanh` for GPT-2's weights |
| final learning rate | 0 (GPT-1, section 4.1) | a tenth of the peak | a tenth of the peak |
| vocabulary of GPT-2 | 50,257 | 50,304, for speed | 50,257 |
| between documents | end-of-text token | end-of-text token | nothing, or a line break |
| OpenWebText, validation | - | random 0.05 % of documents | last 0.05 % of the text |
| validation loss | - | mean over random windows | mean over all tokens |
"""

from typing import Any, Literal, NamedTuple

import torch
from jsonargparse.typing import (
    ClosedUnitInterval,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
)
from torch import Tensor, nn
from torch.nn import functional as F

from common.errors import UserError
from lightning_modules.core.exports import PublishedWeights
from lightning_modules.core.language_model import LanguageModel
from lightning_modules.core.modes import sampling
from lightning_modules.core.networks import ExportedNetwork, Method
from lightning_modules.decoding.filters import MinimumShare
from lightning_modules.decoding.kv_cache import GrowingCache, KVCache
from lightning_modules.nn.attention import AttentionMap, recording_attention
from lightning_modules.nn.transformer import Block, TransformerConfig, init_gpt
from lightning_modules.optim.muon import muon_or_adamw
from lightning_modules.optim.schedules import cosine

# Parts of names in Hugging Face's GPT-2, and here. Its matrices in blocks are transposed.
GPT2_NAMES = {
    **{"wte": "embedding", "wpe": "positions", "h": "blocks", "ln_f": "norm"},
    **{"ln_1": "norms.0", "ln_2": "norms.1", "attn": "attention", "mlp": "feed_forward"},
    **{"c_attn": "qkv", "c_fc": "input", "c_proj": "output"},
}


LAST_RATE = 0.1  # learning rate at the last update, as a fraction of the peak

# Settings of GPT-2 that this file cannot change.
GPT2_SETTINGS = {
    **{"activation_function": "gelu_new", "n_inner": None, "layer_norm_epsilon": 1e-5},
    **{"scale_attn_weights": True, "scale_attn_by_inverse_layer_idx": False},
    "tie_word_embeddings": True,
}


class DecodingState(NamedTuple):
    """State of decoding with a key-value cache.

    Attributes:
        window: Tokens (N, T) in the context window.
        cache: Keys and values of the tokens in `window`.
    """

    window: Tensor
    cache: KVCache


class GPT(PublishedWeights, LanguageModel):
    """Decoder-only Transformer that predicts the next token.

    Args:
        Data:
        vocab_size: Number V of tokens in the vocabulary; supplied by the data module.
        context: Maximum number T of tokens in the context window.
        Network:
        layers: Number L of Transformer blocks.
        heads: Number of attention heads.
        width: Width of the residual stream; must be a multiple of `heads`.
        dropout: Dropout probability of the embeddings and of the output of each residual branch.
        attention_dropout: Dropout probability of the attention weights; None uses the value of
            `dropout`. 0 allows a fused kernel, with which training on a CPU is 1.5 times as fast.
        norm: Type of normalisation: `layer` (layer norm) or `rms` (RMSNorm). `nn/transformer.py`
            cites the papers of `norm`, `positions`, `feed_forward` and `qk_norm`.
        positions: Type of position encoding: `learned` (embeddings) or `rotary` (rotation of
            queries and keys).
        feed_forward: Type of the feed-forward layers: `gelu` (two linear layers with GELU between
            them), `gelu_tanh` (with GPT-2's approximation of GELU) or `swiglu` (linear layers with
            a gate).
        qk_norm: Apply RMSNorm to queries and keys.
        bigram_rows: Number of embeddings of pairs of adjacent tokens; 0: none. The embedding of a
            token and the token before it is added to the embedding of the token (Huang et al.,
            "Over-Tokenized Transformer", 2025). V (V + 1) gives each pair its own; with fewer,
            pairs share embeddings.
        bias: Use biases in linear layers and layer norms, as in GPT-2. The default of nanoGPT is
            False.
        Optimizer:
        optimizer: Type of optimizer: `adamw` for all parameters, or `muon` for the matrices of the
            blocks and AdamW for all other parameters.
        learning_rate: Peak learning rate. With Muon, it applies to the matrices of the blocks only.
        embedding_rate: Peak learning rate of embeddings, gains and biases with Muon; unused with
            AdamW.
        betas: Decay rates of AdamW's running means of the gradient and of its square.
        weight_decay: Decoupled weight decay of matrices and embeddings. Gains and biases are
            not decayed.
        warmup_steps: Number of updates over which the learning rate rises to its peak.

    Raises:
        UserError: If `width` is not a multiple of `heads` (of 2 * `heads` with rotary positions).
    """

    modality = "text"

    def __init__(
        self,
        vocab_size: int,
        context: PositiveInt = 64,
        layers: PositiveInt = 4,
        heads: PositiveInt = 4,
        width: PositiveInt = 128,
        dropout: ClosedUnitInterval = 0.0,
        attention_dropout: ClosedUnitInterval | None = None,
        norm: Literal["layer", "rms"] = "layer",
        positions: Literal["learned", "rotary"] = "learned",
        feed_forward: Literal["gelu", "gelu_tanh", "swiglu"] = "gelu",
        qk_norm: bool = False,
        bigram_rows: NonNegativeInt = 0,
        bias: bool = True,
        optimizer: Literal["adamw", "muon"] = "adamw",
        learning_rate: PositiveFloat = 1e-3,
        embedding_rate: PositiveFloat = 1e-3,
        betas: list[MinimumShare] = [0.9, 0.95],  # noqa: B006  # read only
        weight_decay: NonNegativeFloat = 0.1,
        warmup_steps: NonNegativeInt = 100,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.context = context
        config = TransformerConfig(
            width,
            heads,
            dropout,
            dropout if attention_dropout is None else attention_dropout,
            norm,
            positions == "rotary",
            feed_forward,
            qk_norm,
            bias=bias,
        )
        self.embedding = nn.Embedding(vocab_size, width)
        self.bigrams = nn.Embedding(bigram_rows, width) if bigram_rows else None
        self.positions = nn.Embedding(context, width) if positions == "learned" else None
        self.blocks = nn.ModuleList([Block(config, layer) for layer in range(layers)])
        self.norm = config.make_norm()
        init_gpt(self, layers)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return next-token logits (N, T, V) of tokens (N, T)."""
        return F.linear(self.hidden(tokens), self.embedding.weight)  # Eq. 4

    def hidden(
        self, tokens: Tensor, cache: KVCache | None = None, previous: Tensor | None = None
    ) -> Tensor:
        """Return hidden states (N, T, width) of tokens (N, T) that follow the cached tokens.

        Args:
            tokens: Token ids (N, T).
            cache: Keys and values of the tokens before, or None.
            previous: Token (N, 1) before the first one, for `bigram_rows`; None: there is none.
        """
        first = 0 if cache is None else cache.length
        x = self.embedding(tokens)  # Eq. 2
        if self.bigrams is not None:
            start = torch.full_like(tokens[:, :1], -1) if previous is None else previous
            pairs = (torch.cat([start, tokens[:, :-1]], 1) + 1) * self.hparams.vocab_size + tokens
            x = x + self.bigrams(pairs % self.bigrams.num_embeddings)
        if self.positions is not None:
            x = x + self.positions.weight.narrow(0, first, tokens.shape[1])
        x = F.dropout(x, self.hparams.dropout, self.training)
        for block in self.blocks:
            x = block(x, cache)  # Eq. 3; appends keys and values to the cache
        if cache is not None:
            cache.length += tokens.shape[1]
        return self.norm(x)

    def published_weights(
        self, config: dict[str, Any], weights: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        """Return the weights of GPT-2 in the layout of Hugging Face `transformers`, renamed.

        Raises:
            UserError: If the weights are those of another network than GPT-2, or if an option of
                this system does not fit them.
        """
        if config.get("model_type") != "gpt2":
            raise UserError(
                f"--init_from has a network of the type {config.get('model_type')!r}; give a GPT-2"
            )
        for name, known in GPT2_SETTINGS.items():
            if (other := config.get(name, known)) != known:
                raise UserError(f"--init_from has {name} {other}; GPT reads networks with {known}")
        options = {"layers": config["n_layer"], "heads": config["n_head"]}
        options |= {"width": config["n_embd"], "vocab_size": config["vocab_size"]}
        options |= {"feed_forward": "gelu_tanh", "norm": "layer", "positions": "learned"}
        options |= {"qk_norm": False, "bias": True, "bigram_rows": 0}
        wrong = {name: value for name, value in options.items() if self.hparams[name] != value}
        if "vocab_size" in wrong:
            raise UserError(
                f"--init_from has {wrong['vocab_size']} tokens, and this data has "
                f"{self.hparams.vocab_size}; give its tokenizer.json as --data.tokenizer_file"
            )
        if wrong or self.context > config["n_positions"]:
            needed = " ".join(f"--model.{name} {value}" for name, value in wrong.items())
            longest = f"model.context at most {config['n_positions']}"
            raise UserError(f"--init_from needs {needed or longest}")
        found = {}
        for name, value in weights.items():
            parts = name.removeprefix("transformer.").split(".")
            ours = ".".join(GPT2_NAMES.get(part, part) for part in parts)
            found[ours] = value.T if value.dim() == 2 and ours.startswith("blocks") else value
        found["positions.weight"] = found["positions.weight"][: self.context]
        return {name: found[name].contiguous() for name in self.state_dict()}

    # Training

    def token_nll(self, batch: dict[str, Any]) -> Tensor:
        """Return -log p in nats of each target token (N, T), with 0 at padding (Eq. 1).

        Args:
            batch: Mini-batch with `tokens` (N, T + 1), padded at the end, and `length` (N,), the
                number of targets in each row.
        """
        inputs, targets = batch["tokens"][:, :-1], batch["tokens"][:, 1:]  # (N, T)
        logits = self(inputs).flatten(0, 1).float()  # (N * T, V)
        nll = F.cross_entropy(logits, targets.flatten(), reduction="none").view_as(targets)
        position = torch.arange(targets.shape[1], device=targets.device)
        return nll * (position < batch["length"][:, None])

    def loss(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """Compute the mean of -log p over the target tokens of a batch."""
        return {"loss": self.token_nll(batch).sum() / batch["num_targets"]}

    def configure_optimizers(self) -> Any:
        h = self.hparams
        optimizer = muon_or_adamw(
            h.optimizer,
            self,
            self.blocks,
            h.learning_rate,
            h.embedding_rate,
            tuple(h.betas),
            h.weight_decay,
        )
        return [optimizer], [cosine(optimizer, self.total_updates, h.warmup_steps, LAST_RATE)]

    # Sampling

    @sampling
    def sample_plain(
        self, prompt: list[int], seeds: list[int], max_new_tokens: int, temperature: float = 1.0
    ) -> list[list[int]]:
        """Sample tokens after a prompt, recomputing the whole context window for each token.

        Args:
            prompt: Token ids of the prompt, with which every row starts; at least one id.
            seeds: Seeds of the random generators, one per row.
            max_new_tokens: Number of tokens to sample per row.
            temperature: Divisor of the logits, positive.

        Returns:
            Sampled tokens of each row. Row i does not depend on the seeds of other rows.
        """
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        window = torch.tensor([prompt] * len(seeds), device=self.device)  # (N, T)
        outputs: list[Tensor] = []
        for _ in range(max_new_tokens):
            window = self.truncate(window)
            logits = self(window)[:, -1].float()  # (N, V)
            cumulative = (logits / temperature).softmax(-1).double().cumsum(-1)
            # Invert the cumulative distribution at one uniform number per row. The number is scaled
            # by the last cumulative value, which rounding may make differ from 1.
            uniform = torch.cat([torch.rand(1, generator=generator) for generator in generators])
            threshold = uniform.to(self.device).double()[:, None] * cumulative[:, -1:]
            token = torch.searchsorted(cumulative, threshold, right=True)  # (N, 1)
            outputs.append(token)
            window = torch.cat([window, token], 1)
        return torch.cat(outputs, 1).tolist()

    def truncate(self, window: Tensor) -> Tensor:
        """Drop the oldest tokens (N, T), half a context window at a time, until the rest fits."""
        keep = max(1, self.context // 2)
        while window.shape[1] > self.context:
            window = window[:, self.context + 1 - keep :]
        return window

    def prefill(self, prompts: Tensor) -> tuple[Tensor, DecodingState]:
        window = self.truncate(prompts)
        state = DecodingState(window, KVCache(len(self.blocks), self.context))
        hidden = self.hidden(window, state.cache)
        return F.linear(hidden[:, -1], self.embedding.weight), state

    def decode_step(self, tokens: Tensor, state: DecodingState) -> tuple[Tensor, DecodingState]:
        window = torch.cat([state.window, tokens[:, None]], 1)
        if window.shape[1] > self.context:  # recompute the cache from the newest half
            window, state.cache.length = self.truncate(window), 0
            hidden = self.hidden(window, state.cache)
            return F.linear(hidden[:, -1], self.embedding.weight), state._replace(window=window)
        hidden = self.hidden(tokens[:, None], state.cache, window[:, -2:-1])
        return F.linear(hidden[:, -1], self.embedding.weight), DecodingState(window, state.cache)

    def networks(self) -> dict[str, ExportedNetwork]:
        """Return one step of decoding: logits of the next token, and the extended cache."""

        def step(
            token: Tensor, cache: Tensor, previous: Tensor | None = None
        ) -> tuple[Tensor, Tensor]:
            past = GrowingCache(cache)
            hidden = self.hidden(token, past, previous)  # type: ignore[arg-type]  # as a KVCache
            return F.linear(hidden[:, -1], self.embedding.weight), past.extended()

        heads, width = self.hparams.heads, self.hparams.width
        inputs = {
            "token": torch.zeros(2, 1, dtype=torch.int64),
            "cache": torch.zeros(2, len(self.blocks), 2, heads, 2, width // heads),
        }
        sizes = {"token": {0: "batch"}, "cache": {0: "batch", 4: "past"}}
        if self.bigrams is not None:
            inputs["previous"], sizes["previous"] = inputs["token"] - 1, {0: "batch"}
        return {"step": ExportedNetwork(Method(self, step), inputs, ("logits", "cache_out"), sizes)}

    @sampling
    def attention_maps(self, batch: dict[str, Any]) -> dict[str, AttentionMap]:
        """Return the attention weights of each layer for the first 24 tokens of the first text."""
        tokenizer = self.known_tokenizer()
        tokens = batch["tokens"][:1, : min(24, int(batch["length"][0]))]
        words = [tokenizer.token(i) for i in tokens[0].tolist()]
        with recording_attention(self) as weights:
            self(tokens)
        return {
            f"layer{number}": AttentionMap(words, words, one[0])
            for number, one in enumerate(weights, 1)
        }
