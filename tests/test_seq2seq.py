"""Translation systems: padding, cached decoding, beam search and the published architectures."""

import dataclasses
import importlib
import inspect
import itertools
import math
import re
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor, nn
from torch.nn import functional as F

from cli.compilation import compile_called
from cli.options import OptionParser, add_option
from common.errors import UserError
from common.files import ROOT
from lightning_modules.core.translator import BOS, EOS, PAD, Translator
from lightning_modules.decoding.beam_search import BeamSearchConfig, beam_search
from lightning_modules.gpt import GPT
from lightning_modules.nn.attention import recording_attention
from lightning_modules.seq2seq import Seq2Seq
from lightning_modules.transformer import Transformer, sinusoids

VOCABULARY = 9
SYSTEMS: dict[str, Any] = {
    "none": lambda: Seq2Seq(VOCABULARY, VOCABULARY, "none", width=12, embedding=6),
    "reversed": lambda: Seq2Seq(
        VOCABULARY, VOCABULARY, "none", "lstm", 2, 12, 6, reading="backward"
    ),
    "additive": lambda: Seq2Seq(VOCABULARY, VOCABULARY, "additive", width=12, embedding=6),
    "multiplicative": lambda: Seq2Seq(VOCABULARY, VOCABULARY, "multiplicative", "lstm", 2, 12, 6),
    "post-norm": lambda: Transformer(VOCABULARY, VOCABULARY, 2, 2, 16, 24),
    "pre-norm": lambda: Transformer(
        VOCABULARY, VOCABULARY, 2, 2, 16, 24, norm_first=True, shared=False
    ),
}


@pytest.fixture(params=SYSTEMS)
def model(request: pytest.FixtureRequest) -> Translator:
    torch.manual_seed(1)
    made: Translator = SYSTEMS[request.param]().eval()
    if isinstance(made, Seq2Seq):
        for p in made.parameters():
            p.data.mul_(3)  # so that logits differ
    return made


def sources(*lengths: int) -> tuple[Tensor, Tensor]:
    """Random sources (N, S) that end with EOS, padded with random tokens."""
    source = torch.randint(3, VOCABULARY, (len(lengths), max(lengths)))
    for row, length in enumerate(lengths):
        source[row, length - 1] = EOS
    return source, torch.tensor(lengths)


@torch.no_grad()
def test_padding_never_shows(model: Translator) -> None:
    """Logits in a batch of unequal sentences equal the logits of each sentence alone."""
    (source, length), tokens = sources(7, 3, 5), torch.randint(3, VOCABULARY, (3, 6))
    together = model.decode(model.encode(source, length), tokens)
    for row, size in enumerate(length.tolist()):
        alone = model.decode(
            model.encode(source[row : row + 1, :size], length[row : row + 1]), tokens[row : row + 1]
        )
        torch.testing.assert_close(together[row], alone[0], atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_no_target_is_seen_before_it_is_predicted(model: Translator) -> None:
    source, length = sources(5, 4)
    tokens = torch.randint(3, VOCABULARY, (2, 6))
    changed = tokens.clone()
    changed[:, 3:] = (changed[:, 3:] - 2) % 6 + 3
    one, other = (model.decode(model.encode(source, length), row) for row in (tokens, changed))
    torch.testing.assert_close(one[:, :3], other[:, :3], atol=1e-5, rtol=1e-5)
    assert not torch.allclose(one[:, 3:], other[:, 3:])


@torch.no_grad()
def test_writing_token_by_token_is_reading_them_at_once(model: Translator) -> None:
    """Cached logits equal uncached logits, also after rows are reordered, repeated or dropped."""
    source, length = sources(7, 3, 5)
    state = model.init_state(model.encode(source, length), 12)
    targets = torch.empty(3, 0, dtype=torch.int64)
    of = torch.arange(3)  # the source of each row
    moves = {
        2: ([0, 1, 2], [0, 0, 1, 1, 2, 2]),
        4: ([0, 2], [1, 0, 5, 4]),
        6: ([1], [3, 3]),
    }  # step: sentences, rows
    for step in range(9):
        tokens = torch.randint(3, VOCABULARY, (len(of),))
        targets = torch.cat([targets, tokens[:, None]], 1)
        logits, state = model.decode_step(tokens, state)
        expected = model.decode(model.encode(source[of], length[of]), targets)[:, -1]
        torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-5, msg=f"step {step}")
        if step in moves:
            sentences, rows = (torch.tensor(part) for part in moves[step])
            state = model.reorder_cache(state, sentences, rows)
            targets, of = targets[rows], of[rows]


def search(
    model: Translator, source: Tensor, length: Tensor, config: BeamSearchConfig, limit: int = 12
) -> list[list[tuple[float, list[int]]]]:
    return model.search(source, length, dataclasses.replace(config, max_length=limit))


@torch.no_grad()
def test_the_plain_greedy_loop_is_a_beam_of_one(model: Any) -> None:
    """Greedy decoding without a cache gives the tokens of beam search with beam 1."""
    source, length = sources(7, 3, 5, 6)
    hypotheses = search(model, source, length, BeamSearchConfig())
    greedy = model.translate_greedy(source, length, 12)
    assert [ids for ((_, ids),) in hypotheses] == greedy
    for row, ids in enumerate(greedy):
        tokens = [BOS]
        memory = model.encode(source[row : row + 1], length[row : row + 1])
        while (
            len(tokens) <= 12
            and (token := int(model.decode(memory, torch.tensor([tokens]))[0, -1].argmax())) != EOS
        ):
            tokens.append(token)
        assert ids == tokens[1:]


@torch.no_grad()
def test_beams_are_alone(model: Translator) -> None:
    """Hypotheses do not depend on the other sentences of the batch, which end earlier or later."""
    source, length = sources(7, 2, 5, 6)
    together = search(model, source, length, BeamSearchConfig(beam=3))
    for row, found in enumerate(together):
        (alone,) = search(
            model,
            source[row : row + 1, : length[row]],
            length[row : row + 1],
            BeamSearchConfig(beam=3),
        )
        assert [ids for _, ids in alone] == [ids for _, ids in found]
        assert [score for score, _ in alone] == pytest.approx(
            [score for score, _ in found], abs=1e-4
        )


class Chain:
    """Stateless model with a table of p(next token | last token), to test the search alone."""

    def __init__(self, table: Tensor) -> None:
        self.table = table

    def decode_step(self, tokens: Tensor, state: Any) -> tuple[Tensor, Any]:
        return self.table[tokens], state

    def reorder_cache(self, state: Any, sentences: Tensor, rows: Tensor) -> Any:
        return state


@pytest.mark.parametrize("penalty", ["wu", "plain"])
@pytest.mark.parametrize("alpha", [0.0, 0.6, 1.0])
def test_a_beam_as_wide_as_the_space_finds_the_best_there_is(penalty: Any, alpha: float) -> None:
    """A full beam finds the best of all texts of at most four tokens, for two sentences."""
    tables = torch.randn(5, 5, generator=torch.Generator().manual_seed(3)).log_softmax(-1)
    options = BeamSearchConfig(beam=700, length_penalty=alpha, penalty=penalty)
    found = beam_search(
        Chain(tables), None, [4, 3], options, bos=BOS, eos=EOS, device=torch.device("cpu")
    )
    words = [0, 1, 3, 4]
    for sentence, most in enumerate((4, 3)):
        everything = []
        for size in range(most + 1):
            for text in itertools.product(words, repeat=size):
                whole = [BOS, *text, *([EOS] if size < most else [])]
                score = sum(tables[a, b].item() for a, b in itertools.pairwise(whole))
                everything.append((options.normalised(score, len(whole) - 1), list(text)))
        best = max(everything)
        assert found[sentence][0][1] == best[1]
        assert found[sentence][0][0] == pytest.approx(best[0], abs=1e-4)
        assert len(found[sentence]) == len(everything)


def test_lengths_are_kept() -> None:
    tables = torch.zeros(5, 5)
    tables[:, EOS] = 5.0  # ends at once without a minimum
    for least in (0, 1, 3):
        options = BeamSearchConfig(beam=2, min_length=least)
        (((_, ids), *_),) = beam_search(
            Chain(tables), None, [6], options, bos=BOS, eos=EOS, device=torch.device("cpu")
        )
        assert len(ids) == least
    tables[:, EOS] = -9.0  # ends at the maximum only
    found = beam_search(
        Chain(tables),
        None,
        [6, 3],
        BeamSearchConfig(),
        bos=BOS,
        eos=EOS,
        device=torch.device("cpu"),
    )
    assert [len(ids) for ((_, ids),) in found] == [6, 3]


def test_length_penalties() -> None:
    """Scores follow Wu et al. 2016, Eq. 14, or the plain length penalty."""
    assert BeamSearchConfig(length_penalty=0.6).normalised(-3.0, 7) == pytest.approx(-3 / 2**0.6)
    assert BeamSearchConfig(length_penalty=0.5, penalty="plain").normalised(
        -3.0, 9
    ) == pytest.approx(-1)
    assert BeamSearchConfig(length_penalty=0).normalised(-3.0, 9) == -3


def test_impossible_searches_are_refused() -> None:
    with pytest.raises(UserError, match="--min_length 5 exceeds --max_length 4"):
        BeamSearchConfig(min_length=5, max_length=4)


@pytest.mark.parametrize(
    ("option", "value"),
    [("beam", "0"), ("length_penalty", "-1"), ("min_length", "-1"), ("max_length", "-1")],
)
def test_options_have_ranges(option: str, value: str) -> None:
    parser = OptionParser()
    add_option(parser, inspect.signature(Translator.sample).parameters[option], "")
    with pytest.raises(UserError, match=f"--{option}"):
        parser.parse_args([f"--{option}", value])


# The networks


@pytest.mark.parametrize("norm_first", [False, True])
@torch.no_grad()
def test_stacks_are_those_of_pytorch(norm_first: bool) -> None:
    """`nn.Transformer` with the same weights gives the same logits."""
    model = Transformer(VOCABULARY, VOCABULARY, 2, 2, 16, 24, norm_first=norm_first).eval()
    reference = nn.Transformer(
        16, 2, 2, 2, 24, 0.0, F.relu, batch_first=True, norm_first=norm_first
    ).eval()
    mine = dict(model.network.named_parameters())
    state = {}
    for name in reference.state_dict():
        stack, *rest = name.split(".")
        if rest[0] == "norm":
            state[name] = mine.get(
                f"norms.{int(stack == 'decoder')}.{rest[1]}",
                torch.ones(16) if rest[1] == "weight" else torch.zeros(16),
            )
            continue
        _, number, part, *more = rest
        kind, cross = more[-1], part == "multihead_attn"
        if part.startswith("norm"):
            ours = f"norms.{int(part[4:]) - 1}.{kind}"
        elif part.startswith("linear"):
            ours = f"feed_forward.{'input' if part == 'linear1' else 'output'}.{kind}"
        elif kind.startswith("in_proj"):
            kind = kind.removeprefix("in_proj_")
            prefix = f"{stack}.{number}."
            both = (
                [mine[f"{prefix}cross.{one}.{kind}"] for one in ("query", "keys_values")]
                if cross
                else []
            )
            state[name] = torch.cat(both) if cross else mine[f"{prefix}attention.qkv.{kind}"]
            continue
        else:
            ours = f"{'cross' if cross else 'attention'}.output.{kind}"
        state[name] = mine[f"{stack}.{number}.{ours}"]
    reference.load_state_dict(state)
    if not norm_first:  # PyTorch adds final norms, which the paper lacks
        reference.encoder.norm = reference.decoder.norm = None
    (source, length), tokens = sources(7, 4), torch.randint(3, VOCABULARY, (2, 5))
    embed = model.network.embed
    padding = torch.arange(7) >= length[:, None]
    mask = nn.Transformer.generate_square_subsequent_mask(5)
    out = reference(
        embed(source, model.network.embedding), embed(tokens, model.network.embedding),
        tgt_mask=mask, src_key_padding_mask=padding, memory_key_padding_mask=padding,
    )  # fmt: skip
    expected = out @ model.network.embedding.weight.T
    torch.testing.assert_close(
        model.decode(model.encode(source, length), tokens), expected, atol=1e-4, rtol=1e-4
    )


def test_transformer_base_has_its_65_million_parameters() -> None:
    """Table 3 has 65M with 37,000 shared byte pairs; here attention has biases."""
    with torch.device("meta"):
        model = Transformer(37_000, 37_000)
    assert sum(p.numel() for p in model.network.parameters()) / 1e6 == pytest.approx(63.1, abs=0.2)


# Millions of parameters, and the config whose text states the number.
RECIPES = {
    "seq2seq/multi30k": (6.3, "_reproduce/seq2seq-attention-multi30k"),
    "seq2seq/multi30k_no_attention": (7.9, "_reproduce/seq2seq-multi30k"),
    "transformer/multi30k": (6.0, "_reproduce/transformer-multi30k"),
    "transformer/multi30k_tiny": (2.6, "transformer/multi30k_tiny"),
    "transformer/wmt14_base": (63.1, "transformer/wmt14_base"),
}


@pytest.mark.parametrize("recipe", RECIPES)
def test_recipes_state_their_size(recipe: str) -> None:
    millions, place = RECIPES[recipe]
    config = yaml.safe_load((ROOT / f"configs/{recipe}.yaml").read_text(encoding="utf-8"))
    vocabulary = config["data"]["init_args"].get("vocab_size", 8000)
    module, _, name = config["model"]["class_path"].rpartition(".")
    with torch.device("meta"):
        model = getattr(importlib.import_module(module), name)(
            vocabulary, vocabulary, **config["model"]["init_args"]
        )
    found = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert found / 1e6 == pytest.approx(millions, abs=0.05)
    assert re.search(
        rf"\b{millions}M\s+parameters", (ROOT / f"configs/{place}.yaml").read_text(encoding="utf-8")
    )


def test_weights_begin_as_glorot_has_them() -> None:
    """Queries, keys and values are initialised as separate matrices."""
    network = Transformer(VOCABULARY, VOCABULARY, 1, 2, 64, 128).network
    block = network.decoder[0]
    for matrix in [
        *block.attention.qkv.weight.split(64),
        *block.cross.keys_values.weight.split(64),
    ]:  # type: ignore[union-attr, operator]
        assert matrix.abs().max().item() == pytest.approx((6 / 128) ** 0.5, rel=0.01)
    assert block.feed_forward.input.weight.abs().max().item() == pytest.approx(
        (6 / 192) ** 0.5, rel=0.01
    )  # type: ignore[union-attr]


def test_sinusoids() -> None:
    """Values follow Eq. 5, and dot products depend on the distance of positions only."""
    table = sinusoids(torch.arange(50), 8)
    assert table[7, 4].item() == pytest.approx(math.sin(7 / 10000 ** (4 / 8)), abs=1e-6)
    assert table[7, 5].item() == pytest.approx(math.cos(7 / 10000 ** (4 / 8)), abs=1e-6)
    dots = [(table[i] @ table[i + 5]).item() for i in (0, 10, 40)]
    assert dots == pytest.approx([dots[0]] * 3, abs=1e-4)


@torch.no_grad()
def test_label_smoothing(model: Any) -> None:
    """The loss is (1 - e) times that of the true token plus e times the mean, without padding."""
    (source, length), target = sources(7, 3), torch.randint(3, VOCABULARY, (2, 6))
    target[1, 4:] = PAD
    batch = {"source": source, "source_length": length, "target": target, "num_targets": 8}
    model.hparams.smoothing = 0.1
    logs = model.decode(model.encode(source, length), target[:, :-1]).log_softmax(-1)
    expected = -0.9 * logs.gather(2, target[:, 1:, None])[..., 0] - 0.1 * logs.mean(-1)
    expected[1, 3:] = 0
    torch.testing.assert_close(model.loss(batch)["loss"], expected.sum() / 8)


def test_schedules() -> None:
    """Learning rates follow Eq. 4 (Transformer) and half a cosine (Seq2Seq)."""

    def rates(model: Any, steps: int) -> list[float]:
        model._trainer = type("Stub", (), {"estimated_stepping_batches": 101})()
        (adam,), (entry,) = model.configure_optimizers()
        found = []
        for _ in range(steps):
            found.append(adam.param_groups[0]["lr"])
            adam.step()
            entry["scheduler"].step()
        return found

    scale = (512 / 16) ** -0.5
    noam = rates(Transformer(VOCABULARY, VOCABULARY, 1, 2, 16, 24, scale=scale), 16_000)
    for step in (1, 100, 4000, 4001, 16_000):
        assert noam[step - 1] == pytest.approx(
            512**-0.5 * min(step**-0.5, step * 4000**-1.5), rel=1e-6
        )
    half = rates(Seq2Seq(VOCABULARY, VOCABULARY, width=12, learning_rate=0.5, warmup_steps=1), 102)
    assert [half[i] * 2 for i in (0, 1, 51, 101)] == pytest.approx([1, 1, 0.5, 0], abs=1e-6)


@torch.no_grad()
def test_attention_looks_only_at_words(model: Translator) -> None:
    """Attention weights sum to 1 over the source words, and recording keeps the logits."""
    (source, length), tokens = sources(7, 3), torch.randint(3, VOCABULARY, (2, 5))
    expected = model.decode(model.encode(source, length), tokens)
    with recording_attention(model) as weights:
        torch.testing.assert_close(
            model.decode(model.encode(source, length), tokens), expected, atol=1e-5, rtol=1e-5
        )
    maps = model.cross_attention(weights)
    assert len(maps) == {"none": 0, "additive": 1, "multiplicative": 1}.get(
        model.hparams.get("attention", ""), 2
    )
    for one in maps.values():
        assert one.shape[0] == 2
        assert one.shape[2:] == (5, 7)
        torch.testing.assert_close(one.sum(-1), torch.ones(one.shape[:-1]))
        assert one[1, ..., 3:].abs().max() == 0


@torch.no_grad()
def test_backward_reading_leaves_the_end_last() -> None:
    """Words are reversed, `<eos>` stays last (Sutskever et al. 2014, section 3.3)."""
    torch.manual_seed(2)
    forward, backward = (
        Seq2Seq(VOCABULARY, VOCABULARY, "multiplicative", "lstm", 2, 12, 6, reading=reading).eval()
        for reading in ("forward", "backward")
    )
    backward.load_state_dict(forward.state_dict())
    (source, length), tokens = sources(7, 4), torch.randint(3, VOCABULARY, (2, 5))
    mirrored = source.clone()
    for row, size in enumerate(length.tolist()):
        mirrored[row, : size - 1] = source[row, : size - 1].flip(0)
        assert mirrored[row, size - 1] == EOS
    expected = forward.decode(forward.encode(mirrored, length), tokens)
    torch.testing.assert_close(backward.decode(backward.encode(source, length), tokens), expected)
    maps = []
    for model, read in ((forward, mirrored), (backward, source)):
        with recording_attention(model) as weights:
            model.decode(model.encode(read[:1], length[:1]), tokens[:1])
        maps.append(model.cross_attention(weights)["source"])
    torch.testing.assert_close(maps[1], maps[0][..., [5, 4, 3, 2, 1, 0, 6]])


def test_teacher_forcing() -> None:
    """Without teacher forcing, each step is fed its own most likely word."""
    torch.manual_seed(0)
    own = Seq2Seq(
        VOCABULARY, VOCABULARY, width=12, embedding=6, dropout=0.0, teacher_forcing=0.0
    ).train()
    (source, length), tokens = sources(5, 4), torch.randint(3, VOCABULARY, (2, 6))
    logits = own.decode(own.encode(source, length), tokens)
    fed = torch.cat([tokens[:, :1], logits[:, :-1].argmax(-1)], 1)
    torch.testing.assert_close(
        logits, own.eval().decode(own.encode(source, length), fed), atol=1e-5, rtol=1e-5
    )


@pytest.mark.parametrize("system", ["GPT", "Transformer"])
@torch.no_grad()
def test_blocks_are_compiled(system: str) -> None:
    """`--compile` covers blocks in lists and methods besides `forward`; outputs stay equal."""
    model = (
        GPT(VOCABULARY, 8, 2, 2, 16).eval() if system == "GPT" else SYSTEMS["post-norm"]().eval()
    )
    (source, length), tokens = sources(7, 4), torch.randint(3, VOCABULARY, (2, 5))

    def run() -> Tensor:
        return (
            model(tokens) if system == "GPT" else model.decode(model.encode(source, length), tokens)
        )

    expected, sizes = run(), []

    def count(graph: torch.fx.GraphModule, inputs: Any) -> Any:
        sizes.append(len(graph.graph.nodes))
        return graph.forward

    compile_called(model, count)
    torch.testing.assert_close(run(), expected, atol=1e-5, rtol=1e-5)
    assert sum(sizes) > 40, "more than embeddings and norms"


def test_sizes_and_inputs_that_do_not_fit_are_named() -> None:
    with pytest.raises(UserError, match=r"model\.width must be even"):
        Transformer(VOCABULARY, VOCABULARY, 1, 3, 9, 8)
    with pytest.raises(UserError, match="a translation needs texts: give --input"):
        Transformer(VOCABULARY, VOCABULARY, 1, 1, 8, 8).sample([0])


def test_averages_are_of_the_last_states() -> None:
    """The average covers updates 60, 80 and 100 of 100 only (section 6.1)."""
    model = Transformer(VOCABULARY, VOCABULARY, 1, 2, 8, 8, average=3, average_every=20)
    model._trainer = type("Stub", (), {"estimated_stepping_batches": 100, "global_step": 0})()
    for step in range(1, 101):
        model._trainer.global_step = step - 1  # type: ignore[union-attr]
        with torch.no_grad():
            model.network.embedding.weight.fill_(step)
        model.eval()
        trained = model.network
        with model.averaged_weights():
            assert (model.network is trained) == (step <= 60)
        model.update_ema(step)
    torch.testing.assert_close(
        model.ema.networks["network"].embedding.weight, torch.full((VOCABULARY, 8), 80.0)
    )
    assert model.network is trained
    # A run extended to 140 updates averages 120 and 140 only: the old average of 60, 80 and 100 is
    # discarded.
    model._trainer.estimated_stepping_batches, model._trainer.global_step = 140, 100
    model.on_train_start()
    for step in range(101, 141):
        model._trainer.global_step = step - 1  # type: ignore[union-attr]
        with torch.no_grad():
            model.network.embedding.weight.fill_(step)
        model.update_ema(step)
    average = model.ema.networks["network"].embedding.weight
    torch.testing.assert_close(average, torch.full_like(average, 130.0))
