"""DALL-E: a Transformer that reads a caption and goes on with a picture, both of them tokens of one
sequence.

Ramesh et al., "Zero-Shot Text-to-Image Generation", ICML 2021, section 2.2 and appendix B. With a
picture x as codes z of a discrete VAE (`dvae.py`, frozen) and its caption y as T tokens:

    log p(x, y) >= E_q(z|x)[log p(x|y, z)] + log p(y) + log p(z|y),  of which this is the last two           (1)
    p(y) p(z|y) = prod_t p(y_t | y_<t) prod_m p(z_m | y, z_<m)                                               (2)
    loss = 1/8 mean_t -log p(y_t | y_<t) + 7/8 mean_m -log p(z_m | y, z_<m)                                  (3)
    row: j <= m and m - j <= w;  column: j <= m and w divides m - j;  conv: j is in m's kernel, and
        before it  (4)
    log p = log p(z_m | none) + s * (log p(z_m | y) - log p(z_m | none))                                     (5)

Where a caption ends, each position up to T has a padding token of its own, which is learnt and
predicted like any other. Text has a head over texts and pictures one over codes: the same as one
softmax over all in which the other kind is masked, without computing what is masked. Eq. 4 says
which codes (of a grid w wide, in raster order) a code looks at besides all text (Figure 11);
"sparse" takes them by layers: column where (layer - 2) mod 4 = 0, conv in the last one, row in all
others; "dense" looks at everything before. Eq. 5 is classifier-free guidance (Ho and Salimans
2021): some captions are dropped in training, so that the model knows what pictures look like
without one, and s > 1 goes further from there than the caption asks.

| paper | here |
|---|---|
| text tokens, padding tokens | tokens with 0 for no token; V + t in its place |
| BPE dropout; reranking | data.bpe_dropout; `sample.py --ranker`, `clip.py` |

The released code (`openai/DALL-E`) has the encoder and the decoder of the dVAE, not the
Transformer. Departures from the paper:

| | paper | here |
|---|---|---|
| size (section 2.2) | 64 layers, 62 heads of 64; 256 text tokens, 1,024 codes out of 8,192 | of the configuration |
| optimizer (appendix B.2) | AdamW 4.5e-4 (.9, .96), decay .045, halved by hand on plateaus | the same with a cosine, or Muon |
| average of the weights (appendix B.2) | .99, once in 25 updates | none |
| dropout | not stated | of branches and embeddings |
| loss of padding tokens in Eq. 3 | not stated | counts |
| captions dropped in training | none | `caption_dropout`, whose text then has no loss |
| sampling (section 2.6) | temperature 1, no guidance, best of 512 by CLIP | temperature .5 and s = 1.5 unless given otherwise |
"""

from math import prod
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from common.errors import UserError
from datamodules.captions.encoding import caption_tokens
from datamodules.samplers import mix_seed
from datamodules.tokenizers.bpe import BPETokenizer
from lightning_modules.core.modes import sampling
from lightning_modules.core.module import GenerativeModule
from lightning_modules.decoding.filters import SamplingConfig
from lightning_modules.decoding.generation import DecodableModel, Guided, generate
from lightning_modules.decoding.kv_cache import KVCache
from lightning_modules.dvae import discrete_vae
from lightning_modules.nn.sparse import behind_text, pattern_of, picture_mask
from lightning_modules.nn.transformer import Block, TransformerConfig, init_gpt
from lightning_modules.optim.muon import muon_or_adamw
from lightning_modules.optim.schedules import cosine
from metrics.language import TokenNLL


class DALLE(GenerativeModule):
    """Captions to pictures.

    Args:
        dvae: checkpoint of a discrete VAE; in hyper-parameters, what that was made of.
        image_shape: (C, H, W), a fact of the data.
        vocab_size: V, a fact of the data.
        text_length: T, a fact of the data.
        layers: of the Transformer.
        heads: of attention.
        width: of the residual stream.
        dropout: of branches and embeddings.
        attention: all that is before, or the patterns of Eq. 4 in turns.
        kernel: side of the convolutional pattern.
        caption_dropout: probability that a picture is trained on without its caption.
        prompts: what is drawn while training, with the same seeds each time; two that follow each
            other stand side by side.
        optimizer: AdamW, or Muon for the blocks' matrices and AdamW for all else
            (`optim/muon.py`).
        learning_rate: at its peak.
        embedding_rate: the same for all else under Muon.
        weight_decay: of matrices.
        warmup_steps: updates on the way up.

    Raises:
        UserError: if the dVAE is none or of other pictures, or prompts are no pairs.
    """

    modality = "text-to-image"
    scores_captions = True
    monitor = ("val/nll", "min")
    tokenizer: BPETokenizer | None

    def __init__(
        self,
        dvae: str | dict[str, Any],
        image_shape: list[int],
        vocab_size: int,
        text_length: int,
        layers: int = 6,
        heads: int = 8,
        width: int = 256,
        dropout: float = 0.1,
        attention: Literal["dense", "sparse"] = "dense",
        kernel: int = 11,
        caption_dropout: float = 0.1,
        prompts: list[str] = [],  # noqa: B006  # read only
        optimizer: Literal["adamw", "muon"] = "adamw",
        learning_rate: float = 4.5e-4,
        embedding_rate: float = 2e-3,
        weight_decay: float = 4.5e-2,
        warmup_steps: int = 5000,
    ) -> None:
        super().__init__()
        if len(prompts) % 2 or kernel % 2 == 0:
            raise UserError(
                f"model.prompts ({len(prompts)}) and model.kernel ({kernel}): give pairs, and an odd number"
            )
        made = discrete_vae(dvae, image_shape)
        dvae = dict(made.hparams)
        self.save_hyperparameters()
        self.grid, self.text_length = made.grid, text_length
        shape = TransformerConfig(width, heads, dropout, 0.0, "layer", False, "gelu")
        self.text_embedding = nn.Embedding(
            vocab_size + text_length + 1, width
        )  # tokens, padding, and what begins every text
        self.text_positions = nn.Embedding(text_length + 1, width)
        self.image_embedding = nn.Embedding(made.hparams.codes, width)
        self.rows, self.columns = (
            nn.Embedding(self.grid[0], width),
            nn.Embedding(self.grid[1], width),
        )
        self.blocks = nn.ModuleList([Block(shape, layer) for layer in range(layers)])
        self.norm = nn.LayerNorm(width)
        self.text_head = nn.Linear(width, vocab_size + text_length)
        self.image_head = nn.Linear(width, made.hparams.codes)
        self.masks: Tensor | None
        patterns = (
            [pattern_of(layer, layers) for layer in range(1, layers + 1)]
            if attention == "sparse"
            else []
        )
        masks = [
            behind_text(picture_mask(pattern, self.grid[0], self.grid[1], kernel), text_length)
            for pattern in patterns
        ]
        self.register_buffer(
            "masks", torch.stack(masks) if masks else None, persistent=False
        )  # (layers, T + M, T + M)
        init_gpt(self, layers)
        self.dvae = made.requires_grad_(False).eval()  # after the others have begun
        self.text_nll, self.nll = TokenNLL(), TokenNLL()
        self._encoded: dict[str, Tensor] = {}

    def train(self, mode: bool = True) -> "DALLE":
        super().train(mode)
        self.dvae.eval()
        return self

    # The sequence: what begins it, T text tokens, codes

    def padded(self, tokens: Tensor) -> Tensor:
        """Text tokens (N, T) with the padding of its own at each position where there is none."""
        padding = self.hparams.vocab_size + torch.arange(self.text_length, device=tokens.device)
        return torch.where(tokens > 0, tokens, padding)

    def embed(self, text: Tensor, codes: Tensor) -> Tensor:
        """(N, 1 + T + m, width) of text (N, T) and the first codes (N, m)."""
        begin = torch.full_like(text[:, :1], self.text_embedding.num_embeddings - 1)
        written = self.text_embedding(torch.cat([begin, text], 1)) + self.text_positions.weight
        return torch.cat([written, self.embed_codes(codes, 0)], 1)

    def embed_codes(self, codes: Tensor, first: int) -> Tensor:
        """(N, m, width) of codes (N, m), of which the first has that place in the grid."""
        place = torch.arange(first, first + codes.shape[1], device=codes.device)
        return (
            self.image_embedding(codes)
            + self.rows(place // self.grid[1])
            + self.columns(place % self.grid[1])
        )

    def hidden(self, x: Tensor, cache: KVCache | None = None) -> Tensor:
        """(N, S, width) of embeddings (N, S, width), which are all or, with a cache that goes on,
        the next one.
        """
        last = x.shape[1] + (0 if cache is None else cache.length)
        x = F.dropout(x, self.hparams.dropout, self.training)
        for number, block in enumerate(self.blocks):
            mask = (
                None if self.masks is None else self.masks[number, last - x.shape[1] : last, :last]
            )
            x = block(x, cache, mask)
        if cache is not None:
            cache.length = last
        return self.norm(x)

    def forward(self, text: Tensor, codes: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of all text (N, T, V + T) and all codes (N, M, K), each from what is before it;
        Eq. 2.
        """
        hidden = self.hidden(self.embed(text, codes[:, :-1]))  # (N, T + M, width)
        return self.text_head(hidden[:, : self.text_length]), self.image_head(
            hidden[:, self.text_length :]
        )

    def on_fit_start(self) -> None:
        for split in ("train", "val"):
            if len(self.trainer.datamodule.split(split)):  # type: ignore[attr-defined]
                self._encode(split)

    def _encode(self, split: str) -> None:
        """Codes of all pictures of a split, once, since the dVAE never changes: each rank makes a
        part of them.
        """
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        size, world, parts = len(data.split(split)), self.trainer.world_size, []
        mine = (torch.arange(-(-size // world)) * world + self.trainer.global_rank) % size
        for part in mine.split(data.eval_batch_size):
            image = data.batch(split, part.tolist())["image"].to(self.device)
            parts.append(self.dvae.codes_of(image).flatten(1).int())
        every = cast(Tensor, self.all_gather(torch.cat(parts))).view(world, -1, prod(self.grid))
        self._encoded[split] = every.transpose(0, 1).flatten(0, 1)[:size]

    def codes(self, batch: dict[str, Any], split: str) -> Tensor:
        """Codes (N, M) of a batch's pictures."""
        if split not in self._encoded:
            self._encode(split)
        return self._encoded[split][batch["index"].to(self.device)].long()

    def dropped(self, tokens: Tensor, seed: int) -> Tensor:
        """Captions (N, T) of which some are gone, by the batch's seed."""
        numbers = torch.Generator(tokens.device).manual_seed(mix_seed(seed, "caption dropout"))
        gone = (
            torch.rand(len(tokens), 1, generator=numbers, device=tokens.device)
            < self.hparams.caption_dropout
        )
        return tokens.masked_fill(gone, 0)

    def losses(self, tokens: Tensor, codes: Tensor) -> tuple[Tensor, Tensor]:
        """-log p of each text token (N, T) and code (N, M), in nats."""
        text = self.padded(tokens)
        of_text, of_codes = self(text, codes)
        pairs = (of_text, text), (of_codes, codes)
        nll_text, nll_codes = (
            F.cross_entropy(logits.mT.float(), truth, reduction="none") for logits, truth in pairs
        )
        return nll_text, nll_codes

    def loss(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        tokens = self.dropped(batch["tokens"], batch["seed"])
        of_text, of_codes = self.losses(tokens, self.codes(batch, "train"))
        given = tokens[:, :1] > 0  # that a caption was dropped says nothing of p(y)
        text, image = (
            (of_text * given).sum() / (given.sum() * self.text_length).clamp(min=1),
            of_codes.mean(),
        )
        return {"loss": (text + 7 * image) / 8, "loss_text": text, "loss_image": image}  # Eq. 3

    def configure_optimizers(self) -> Any:
        h = self.hparams
        adam = muon_or_adamw(
            h.optimizer,
            self,
            self.blocks,
            h.learning_rate,
            h.embedding_rate,
            (0.9, 0.96),
            h.weight_decay,
        )
        return [adam], [cosine(adam, self.total_updates, h.warmup_steps)]

    def _measure(self, batch: dict[str, Any], stage: str) -> None:
        text, image = self.losses(batch["tokens"], self.codes(batch, stage))
        loss = (text.mean() + 7 * image.mean()) / 8
        self.log(f"{stage}/loss", loss, batch_size=len(text), sync_dist=True)
        for metric, losses, name, unit in (
            (self.text_nll, text, "nll_text", "caption"),
            (self.nll, image, "nll", "picture|given=caption"),
        ):
            metric.description = f"unit=nats/{unit}"
            metric.update(losses, len(losses))
            self.log_metric(f"{stage}/{name}", metric)

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        self._measure(batch, "val")

    def test_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        self._measure(batch, "test")

    def read(self, prompts: list[str]) -> Tensor:
        """Text tokens (N, T) of prompts; complains as `encode_caption`."""
        return caption_tokens(self.known_tokenizer(), prompts, self.text_length).to(self.device)

    def prefill(self, prompts: Tensor) -> tuple[Tensor, KVCache]:
        """See `DecodableModel`. A prompt is T text tokens and the codes that are given."""
        cache = KVCache(self.hparams.layers, self.text_length + prod(self.grid))
        text, codes = prompts[:, : self.text_length], prompts[:, self.text_length :]
        hidden = self.hidden(self.embed(text, codes), cache)
        return self.image_head(hidden[:, -1]), cache

    def decode_step(self, tokens: Tensor, state: KVCache) -> tuple[Tensor, KVCache]:
        x = self.embed_codes(tokens[:, None], state.length - self.text_length - 1)
        return self.image_head(self.hidden(x, state)[:, 0]), state

    def guided(self, guidance: float) -> DecodableModel:
        """This system by Eq. 5."""
        if guidance == 1:
            return self

        def unconditional(prompts: Tensor) -> Tensor:
            text = self.padded(torch.zeros_like(prompts[:, : self.text_length]))
            return torch.cat([text, prompts[:, self.text_length :]], 1)

        return Guided(self, guidance, unconditional)

    def draw(
        self,
        tokens: Tensor,
        seeds: list[int],
        guidance: float,
        config: SamplingConfig,
        given: Tensor | None = None,
    ) -> Tensor:
        """Codes (N, h, w) for captions (N, T), row i by seed i; the first ones may be given,
        (m,).
        """
        first = tokens.new_empty(len(tokens), 0)
        if given is not None:
            first = given.expand(len(tokens), -1)
        codes = generate(
            self.guided(guidance),
            torch.cat([self.padded(tokens), first], 1),
            seeds,
            max_new_tokens=prod(self.grid) - first.shape[1],
            config=config,
        )
        return torch.cat([first, torch.tensor(codes, device=self.device)], 1).view(-1, *self.grid)

    @sampling
    def sample(
        self,
        seeds: list[int],
        *,
        batch: dict[str, Any] | None = None,
        prompt: list[str] | None = None,
        guidance: float = 1.5,
        temperature: float = 0.5,
        top_k: int = 0,
        top_p: float = 1.0,
        prime: Tensor | None = None,
        prime_share: float = 0.5,
    ) -> Tensor:
        """Draw pictures for captions.

        Args:
            seeds: row i depends on `seeds[i]` and its caption alone.
            batch: `tokens` (N, T) for row i, where there is no prompt: captions of unseen pictures.
            prompt: a caption for all rows, or one for each.
            guidance: s of Eq. 5; 1 for none.
            temperature: logits are divided by it; 0 takes the likeliest code.
            top_k: draw among the k likeliest codes; 0 for all.
            top_p: draw among the fewest codes that have this probability together.
            prime: a picture whose upper part is kept, (C, H, W) in [-1, 1].
            prime_share: how much of its height.

        Returns:
            (N, C, H, W) in [-1, 1].

        Raises:
            UserError: if an option is out of its range, a prompt cannot be read, or there are not
                as many as seeds.
        """
        config = SamplingConfig(temperature, top_k, top_p)
        if not 0 <= guidance < float("inf"):
            raise UserError(f"--guidance {guidance}: give 0 or more, 1 for none")
        if guidance != 1 and not self.hparams.caption_dropout:
            raise UserError(
                "this model never saw a picture without its caption (model.caption_dropout 0): give --guidance 1"
            )
        if prime is not None and not 0 < prime_share < 1:
            raise UserError(f"--prime_share {prime_share}: give more than 0 and less than 1")
        if prompt is None and batch is None:
            raise UserError(
                "DALL-E draws from words: give --prompt TEXT, or --data CONFIG for the captions of its test split"
            )
        tokens = (
            self.read(prompt) if prompt is not None else cast(Any, batch)["tokens"].to(self.device)
        )
        tokens = tokens.expand(len(seeds), -1) if len(tokens) == 1 else tokens
        if len(tokens) != len(seeds):
            raise UserError(
                f"{len(tokens)} captions for {len(seeds)} seeds: give one for all, or as many"
            )
        given = None
        if prime is not None:
            kept = max(1, round(prime_share * self.grid[0])) * self.grid[1]
            given = self.dvae.codes_of(prime[None].to(self.device)).flatten()[
                : min(kept, prod(self.grid) - 1)
            ]
        return self.dvae.picture(self.draw(tokens, seeds, guidance, config, given))

    @sampling
    def score(self, image: Tensor, captions: list[str]) -> Tensor:
        """log p(z|y) (N, M) of pictures (N, C, H, W), as codes, under M captions: its own measure
        of what fits, as a ranker's.
        """
        codes = self.dvae.codes_of(image.to(self.device)).flatten(1)
        return torch.stack(
            [
                -self.losses(row.expand(len(codes), -1), codes)[1].sum(1)
                for row in self.read(captions)
            ],
            1,
        )

    @sampling
    def preview(self, batch: dict[str, Any]) -> dict[str, Tensor | list[str]]:
        """Previews above what their codes keep and what is drawn for their captions; and pairs of
        prompts, one above the other.
        """
        image, tokens = batch["image"], batch["tokens"]
        guidance = 1.5 if self.hparams.caption_dropout else 1.0
        drawn = self.sample(list(range(len(image))), batch=batch, guidance=guidance)
        shown: dict[str, Tensor | list[str]] = {
            "samples": torch.stack([image, self.dvae.reconstruct(image), drawn])
        }
        if self.tokenizer is not None:
            shown["captions"] = [self.tokenizer.decode(row) for row in tokens.tolist()]
        if self.tokenizer is not None and (prompts := self.hparams.prompts):
            pairs = self.sample([0] * len(prompts), prompt=prompts, guidance=guidance)
            shown["prompts"] = torch.stack([pairs[::2], pairs[1::2]])
        return shown
