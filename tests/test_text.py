"""Tests of tokenizers, text corpora and batches of text."""

import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
import torch

from common.errors import UserError
from datamodules.samplers import Part, Request
from datamodules.text import shards
from datamodules.text.corpora import EmojiNames, PythonDocs, TinyShakespeare
from datamodules.text.files import TextFiles
from datamodules.text.records import LengthBatchSampler
from datamodules.text.shards import encode_shards, nonempty, raw_lines, text_slice
from datamodules.text.windows import DisjointWindows, Streams, splitmix64
from datamodules.text_files import read_shards
from datamodules.tokenizers.base import RECORD
from datamodules.tokenizers.bpe import BPETokenizer
from datamodules.tokenizers.kinds import KINDS, tokenizer_from_json
from datamodules.tokenizers.simple import CharTokenizer, WordTokenizer
from metrics.ngram import witten_bell

TEXT = (
    "To be, or not to be:\n\n"
    "that is  the question — whether 'tis nobler; naïve 🙂 words\nwords words"
)


@pytest.mark.parametrize("kind", ["char", "byte", "bpe"])
def test_text_comes_back(kind: str) -> None:
    tokenizer = KINDS[kind].train([TEXT], 300)
    ids = tokenizer.encode(TEXT)
    assert ids.dtype == np.int64
    assert 0 <= ids.min() <= ids.max() < tokenizer.vocab_size
    assert tokenizer.decode(ids.tolist()) == TEXT
    again = tokenizer_from_json(tokenizer.to_json())
    assert again.vocab_size == tokenizer.vocab_size
    assert np.array_equal(again.encode(TEXT), ids)
    assert len(tokenizer.encode("")) == 0


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [1, 3, 17])
def test_pieces_are_encoded_as_the_whole(kind: str, size: int) -> None:
    tokenizer = KINDS[kind].train([TEXT], 300)
    pieces = [TEXT[i : i + size] for i in range(0, len(TEXT), size)]
    ids = np.concatenate(list(encode_shards(tokenizer, pieces)))
    assert np.array_equal(ids, tokenizer.encode(TEXT))


@pytest.mark.parametrize("kind", KINDS)
def test_shards_are_encoded_in_pieces(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "PIECE", 20)
    tokenizer = KINDS[kind].train([TEXT], 300)
    parts = list(encode_shards(tokenizer, [TEXT * 3, TEXT]))
    assert len(parts) > 8
    assert np.array_equal(np.concatenate(parts), tokenizer.encode(TEXT * 4))


@pytest.mark.parametrize("kind", KINDS)
def test_special_tokens_come_first_and_have_no_text(kind: str) -> None:
    tokenizer = KINDS[kind].train([TEXT], 300, RECORD)
    assert [tokenizer.special(token) for token in RECORD] == [0, 1, 2]
    ids = [1, *tokenizer.encode("words").tolist(), 2, 0]
    assert min(ids[1:-2]) > 2
    assert tokenizer.decode(ids) == "words"


def test_words() -> None:
    """Words are sorted by frequency; rare ones are `<unk>`, and the end of a line is a word."""
    tokenizer = WordTokenizer.train(["b a b\n", "c b a\n"], 4)
    assert tokenizer.words == ["b", "a"]
    assert tokenizer.decode(tokenizer.encode("a b c\nb").tolist()) == "a b <unk>\nb"


def test_all_unknown_characters_are_named() -> None:
    with pytest.raises(
        UserError,
        match=r"has 4 characters that are not in the vocabulary: 'z' \(3\), 'ß' \(1\); leave",
    ):
        CharTokenizer("abc").encode("abzzßz")


def test_byte_pairs_of_a_published_file(tmp_path: Path) -> None:
    trained = BPETokenizer.train([TEXT * 5], 280)
    (tmp_path / "tokenizer.json").write_text(trained.model.to_str(), encoding="utf-8")
    (tmp_path / "text.txt").write_text(TEXT * 20, encoding="utf-8")
    data = TextFiles(
        str(tmp_path / "text.txt"),
        context=8,
        tokenizer_file=str(tmp_path / "tokenizer.json"),
        root=str(tmp_path),
    )
    assert data.data_spec["vocab_size"] == trained.vocab_size
    assert np.array_equal(data.tokens("train").ids[:20], trained.encode(TEXT * 20)[:20])
    with pytest.raises(UserError, match="lacks the special token <pad>"):
        TextFiles(
            str(tmp_path / "text.txt"),
            context=8,
            batching="records",
            tokenizer_file=data.tokenizer_file,
            root=str(tmp_path),
        ).prepare_data()


@pytest.mark.parametrize("kind", ["ByteLevel", "Metaspace"])
@pytest.mark.parametrize("size", [50, 97])
def test_pieces_of_a_published_tokenizer_do_not_show(kind: str, size: int) -> None:
    """Some tokenizers put a space before each text; shards after the first must not get one."""
    model = tokenizers.Tokenizer(tokenizers.models.BPE())
    model.pre_tokenizer = getattr(tokenizers.pre_tokenizers, kind)()
    model.train_from_iterator(
        [TEXT * 30], tokenizers.trainers.BpeTrainer(vocab_size=600, show_progress=False)
    )
    tokenizer, text = BPETokenizer(model.to_str()), f"{TEXT} " * 20
    ids = np.concatenate(
        list(encode_shards(tokenizer, [text[i : i + size] for i in range(0, len(text), size)]))
    )
    assert np.array_equal(ids, tokenizer.encode(text))


@pytest.mark.parametrize("wrong", ["", "{}", '{"kind": "morse"}', '{"kind": "char"}', "[1]"])
def test_other_files_are_no_tokenizers(wrong: str) -> None:
    with pytest.raises(UserError, match="not a tokenizer of this template"):
        tokenizer_from_json(wrong)


# Batches


def corpus(path: Path, text: str, **options: Any) -> TextFiles:
    path.mkdir(exist_ok=True)
    (path / "text.txt").write_text(text, encoding="utf-8")
    return TextFiles(
        str(path / "text.txt"), **{"context": 8, "root": str(path / "data"), **options}
    )


def test_the_last_part_is_for_validation(tmp_path: Path) -> None:
    text = "".join(chr(97 + i % 26) for i in range(1000))
    data = corpus(tmp_path, text)
    decoded = {
        split: data.tokenizer.decode(data.tokens(split).ids.tolist())
        for split in ("train", "val", "test")
    }
    assert decoded["train"] == text[:900]
    assert decoded["val"] == decoded["test"] == text[900:]
    assert data.tokens("val").characters == data.tokens("val").bytes == 100
    assert data.tokens("val").targets == 99


def test_disjoint_windows_meet_every_target_once() -> None:
    ids = np.arange(103, dtype=np.uint16)
    windows = DisjointWindows(ids, 10)
    assert len(windows) == 11
    batch = windows.__getitems__(Request(torch.arange(11), 0))
    targets = [
        row[1 : 1 + length].tolist() for row, length in zip(batch["tokens"], batch["length"])
    ]
    assert [target for row in targets for target in row] == list(range(1, 103))
    assert all(row[0] == 10 * number for number, row in enumerate(batch["tokens"]))


def test_random_windows_are_a_function_of_the_epochs_order(tmp_path: Path) -> None:
    data = corpus(tmp_path, "".join(chr(97 + i % 26) for i in range(1000)))
    split = data.split("train")
    one, again, other = (
        split.__getitems__(Request(torch.arange(50), seed, order))
        for seed, order in ((1, 1), (2, 1), (1, 2))
    )
    assert torch.equal(one["tokens"], again["tokens"])
    assert not torch.equal(one["tokens"], other["tokens"])
    assert ((one["tokens"].diff(dim=1) % 26) == 1).all(), (
        "each window is a contiguous part of the text"
    )
    assert one["tokens"].shape == (50, 9)
    assert one["tokens"].dtype == torch.int64


def test_streams_go_on_where_they_stopped() -> None:
    ids = np.arange(1000, dtype=np.uint16)
    streams = Streams(ids, 10, 4, whole=False)
    steps = [
        streams.__getitems__(Request(torch.arange(4) + 4 * step, 0))
        for step in range(len(streams) // 4)
    ]
    assert [batch["first"] for batch in steps] == [True] + [False] * (len(steps) - 1)
    for before, after in itertools.pairwise(steps):
        assert torch.equal(before["tokens"][:, -1], after["tokens"][:, 0])
    assert [row[0].item() for row in steps[0]["tokens"]] == [0, 240, 480, 720]
    whole = torch.cat([batch["tokens"][:, 1:] for batch in steps], 1)
    assert whole[0].tolist() == list(range(1, 241))


@pytest.mark.parametrize("rows", [1, 4, 7, 600])
def test_streams_of_evaluation_meet_every_target_once(rows: int) -> None:
    streams = Streams(np.arange(1000, dtype=np.uint16), 10, rows, whole=True)
    met = []
    for step in range(len(streams) // rows):
        batch = streams.__getitems__(Request(torch.arange(rows) + rows * step, 0))
        met += [
            target
            for row, length in zip(batch["tokens"], batch["length"])
            for target in row[1 : 1 + length].tolist()
        ]
    assert sorted(met) == list(range(1, 1000))


def test_streams_are_loaded_in_order(tmp_path: Path) -> None:
    data = corpus(
        tmp_path, "".join(chr(97 + i % 26) for i in range(1000)), batching="streams", batch_size=4
    )
    batches = list(data.train_dataloader())
    assert len(batches) == (899 // 4) // 8
    for before, after in itertools.pairwise(batches):
        assert torch.equal(before["tokens"][:, -1], after["tokens"][:, 0])


def test_another_batch_size_divides_the_text_into_other_streams(tmp_path: Path) -> None:
    """As after Lightning's BatchSizeFinder, which tries batch sizes on one data module."""
    data = corpus(tmp_path, "abcdefghij" * 100, batching="streams", batch_size=4)
    assert len(next(iter(data.train_dataloader()))["tokens"]) == 4
    data.batch_size = 8
    first, second = itertools.islice(data.train_dataloader(), 2)
    assert len(first["tokens"]) == 8
    assert torch.equal(first["tokens"][:, -1], second["tokens"][:, 0])
    data.batch_size = 500
    with pytest.raises(UserError, match="900 tokens, fewer than a batch of 500 rows of 8: lower"):
        data.train_dataloader()


def test_the_last_line_break_of_a_text_starts_no_validation_text(tmp_path: Path) -> None:
    data = corpus(tmp_path, "a b c d e " * 100 + "\n", tokenizer="word", batch_size=4)
    assert data.tokens("val").characters == 101  # a tenth of the text


def test_records_do_not_run_into_each_other(tmp_path: Path) -> None:
    data = corpus(
        tmp_path, "one\n\ntwo words\n  three \n" * 30, batching="records", context=20, batch_size=8
    )
    batch = data.batch("train", [0, 1, 2])
    rows = [data.tokenizer.decode(row.tolist()) for row in batch["tokens"]]
    assert rows == ["one", "two words", "  three"]
    assert batch["length"].tolist() == [4, 10, 8]
    for row, length in zip(batch["tokens"], batch["length"]):
        assert row[0] == 1
        assert row[length] == 2
        assert (row[length + 1 :] == 0).all()
    with pytest.raises(
        UserError, match=r"a line of 12 tokens, more than data.context 4: raise data.context"
    ):
        corpus(
            tmp_path / "short", "a long line\n" * 30, batching="records", context=4, batch_size=8
        ).batch("train", [0])
    assert data.tokens("train").characters == data.tokens("train").targets, (
        "characters of the encoded lines, line breaks included"
    )


def drawn(
    lengths: np.ndarray, size: int, epoch: int = 0, used: Sequence[Part] = (), **options: Any
) -> list[tuple[list[int], int]]:
    sampler = LengthBatchSampler(lengths, size, **{"seed": 1, "name": "train", **options})
    sampler.used = used
    sampler.set_epoch(epoch)
    return [(request.index.tolist(), request.seed) for request in sampler]


@pytest.mark.parametrize("world", [1, 2, 3])
def test_batches_of_records_are_of_similar_lengths(world: int) -> None:
    """Ranks have equal numbers of batches, no record occurs twice, and padding is below 10 %."""
    lengths = np.random.default_rng(0).integers(3, 40, 1003)
    ranks = [
        [index for index, _ in drawn(lengths, 8, epoch=2, rank=rank, world=world)]
        for rank in range(world)
    ]
    assert {len(rank) for rank in ranks} == {1003 // (8 * world)}
    seen = [number for rank in ranks for index in rank for number in index]
    assert len(seen) == len(set(seen)) == 1003 // (8 * world) * 8 * world
    padded = sum(len(index) * lengths[index].max() for rank in ranks for index in rank)
    assert lengths[seen].sum() / padded > 0.9
    alone = [index for index, _ in drawn(lengths, 8 * world, epoch=2)]
    assert [sorted(number for index in parts for number in index) for parts in zip(*ranks)] == [
        sorted(index) for index in alone
    ]


def test_a_token_of_any_record_weighs_the_same_in_training() -> None:
    """Every batch has the mean number of tokens, to within the longest record."""
    lengths = np.random.default_rng(0).integers(3, 40, 1003)
    tokens = np.array([lengths[index].sum() for index, _ in drawn(lengths, 16)])
    assert np.abs(tokens - tokens.mean()).max() <= lengths.max()
    assert sum(len(index) for index, _ in drawn(lengths, 16)) / len(tokens) == 16


def test_no_rank_is_without_a_record() -> None:
    """Every rank gets a record of each batch, even if single records exceed the mean batch."""
    lengths = np.array([1] * 30 + [1000] * 6)
    batches = [[index for index, _ in drawn(lengths, 1, rank=rank, world=3)] for rank in range(3)]
    assert [len(rank) for rank in batches] == [12] * 3
    assert min(len(index) for rank in batches for index in rank) == 1
    assert sorted(number for rank in batches for index in rank for number in index) == list(
        range(36)
    )


def test_the_order_of_records_is_a_function_of_seed_and_epoch() -> None:
    lengths = np.random.default_rng(0).integers(3, 40, 1003)
    first, again, later, other = (
        drawn(lengths, 8, epoch, seed=seed) for seed, epoch in ((1, 0), (1, 0), (1, 1), (2, 0))
    )
    assert first == again
    for different in (later, other):
        same = {frozenset(index) for index, _ in first} & {
            frozenset(index) for index, _ in different
        }
        assert len(same) <= 1, "the shortest records fill one batch"
        assert not {seed for _, seed in first} & {seed for _, seed in different}
    longest = [lengths[index].max() for index, _ in first]
    assert abs(np.corrcoef(longest, np.arange(len(longest)))[0, 1]) < 0.3, (
        "short and long batches alternate"
    )
    assert drawn(lengths, 8, used=[Part(8, 1, 50)]) == first[50:]
    dropped = [
        set(range(1003)) - {number for index, _ in drawn(lengths, 8, epoch) for number in index}
        for epoch in range(9)
    ]
    assert len(set.union(*dropped)) > 20, "each epoch drops other records"


def test_records_fill_their_training_batches() -> None:
    """Over 90 % of a batch are tokens (45 % without sorting); evaluation keeps the order."""
    data = EmojiNames(batching="records", context=64, batch_size=32)
    batches = list(data.train_dataloader())
    assert (
        sum(int((batch["length"] + 1).sum()) for batch in batches)
        / sum(batch["tokens"].numel() for batch in batches)
        > 0.9
    )
    assert sum(len(batch["tokens"]) for batch in batches) == 32 * len(batches)
    assert torch.equal(
        torch.cat([batch["index"] for batch in data.val_dataloader()]),
        torch.arange(len(data.names["val"])),
    )


def test_a_corpus_is_encoded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = corpus(tmp_path, TEXT * 50)
    data.prepare_data()
    monkeypatch.setattr(TextFiles, "_encode", lambda *_: pytest.fail("encoded again"))
    again = corpus(tmp_path, TEXT * 50)
    assert again.data_spec == data.data_spec
    monkeypatch.undo()
    changed = corpus(tmp_path, TEXT * 51)
    assert changed.cache != data.cache, "the folder depends on the content, not on the name"
    assert [path.name for path in data.cache.parent.iterdir() if "tmp" in path.name] == []


def test_a_folder_with_parts(tmp_path: Path) -> None:
    for name, text in {
        "readme.txt": "other words",
        "train.txt": "a b a c\n" * 9,
        "valid.txt": "b b\n" * 9,
        "test.txt": "c\n" * 9,
    }.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    data = TextFiles(str(tmp_path), context=4, tokenizer="word", root=str(tmp_path / "data"))
    assert [
        data.tokenizer.decode(data.tokens(split).ids[:3].tolist())
        for split in ("train", "val", "test")
    ] == [
        "a b a",
        "b b\n",
        "c\nc",
    ]


def test_a_folder_is_joined_in_order(tmp_path: Path) -> None:
    for name in ("b", "a", "c"):
        (tmp_path / f"{name}.txt").write_text(name * 20, encoding="utf-8")
    data = TextFiles(str(tmp_path), context=4, root=str(tmp_path / "data"))
    assert (
        data.tokenizer.decode(data.tokens("train").ids.tolist())
        == "a" * 20 + "\n" + "b" * 20 + "\n" + "c" * 13
    )


def test_large_files_are_read_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datamodules.text_files.SHARD_BYTES", 7)
    (tmp_path / "x.txt").write_text(TEXT * 3, encoding="utf-8")
    assert "".join(read_shards(tmp_path / "x.txt")) == TEXT * 3
    assert "".join(text_slice(iter([TEXT[:20], TEXT[20:50], TEXT[50:]]), 15, 60)) == TEXT[15:60]
    assert list(nonempty(raw_lines(["a\nb", "c\n", "\n d "]))) == ["a", "bc", " d"]


def test_emoji_names() -> None:
    data = EmojiNames(batching="records", context=64)
    names = data.names
    assert 1700 < len(names["train"]) < 1900
    assert not set(names["train"]) & (set(names["val"]) | set(names["test"]))
    assert not set(names["val"]) & set(names["test"])
    words = {word for name in names["train"] for word in name.split()}
    assert all(words.issuperset(name.split()) for name in names["val"]), (
        "combinations of words are held out, never words"
    )
    assert not any("skin tone" in name for name in names["train"] if name.count(" ") > 3)
    assert (
        data.tokenizer.decode(data.batch("train", [5])["tokens"][0].tolist()) == names["train"][5]
    )


def test_python_docs_have_their_facts_at_once() -> None:
    data = PythonDocs()
    assert data.data_spec == {"vocab_size": data.tokenizer.vocab_size}
    assert "assert" in data.tokenizer.decode(data.tokens("train").ids[:500].tolist())


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        (None, {}, "there is no such file or folder"),
        (b"", {}, r"is empty; give a text file \(.txt.*\) with text"),
        (
            b"aaaaa",
            {"context": 64},
            "has 4 tokens, too few for data.context 64: lower data.context, or add text",
        ),
        (b"good \xff bad" * 50, {}, r"is not UTF-8 \(byte 5\); convert it"),
        ("ä".encode()[:1], {}, "ends in the middle of a character"),
        (
            b"text" * 50,
            {"tokenizer_file": "/nowhere"},
            "data.tokenizer_file /nowhere: there is no such file",
        ),
    ],
)
def test_bad_texts(
    content: bytes | None, options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    path = tmp_path / "x.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=message):
        TextFiles(str(path), **{"context": 4, "root": str(tmp_path / "data"), **options}).split(
            "train"
        )


def test_positions_of_windows_are_those_of_splitmix64() -> None:
    """Reference values of the generator for seed 1234567."""
    expected = [6457827717110365317, 3203168211198807973, 9817491932198370423]
    assert splitmix64(1234567, np.arange(3)).tolist() == expected


def test_shakespeare_is_the_published_file(tmp_path: Path) -> None:
    """A file that was placed by hand is used as it is."""
    (tmp_path / "tiny_shakespeare").mkdir()
    (tmp_path / "tiny_shakespeare/input.txt").write_text(TEXT * 30, encoding="utf-8")
    assert TinyShakespeare(context=8, root=str(tmp_path)).data_spec["vocab_size"] == len(set(TEXT))
    assert (
        json.loads(
            (TinyShakespeare(context=8, root=str(tmp_path)).cache / "tokenizer.json").read_text(
                encoding="utf-8"
            )
        )["kind"]
        == "char"
    )


# Baseline


def counted(train: list[int], context: tuple[int, ...], token: int, vocab_size: int) -> float:
    """Probability of a token by Witten and Bell's recursion, written out."""
    shorter = counted(train, context[1:], token, vocab_size) if context else 1 / vocab_size
    size = len(context)
    after = [
        train[i + size] for i in range(len(train) - size) if tuple(train[i : i + size]) == context
    ]
    kinds = len(set(after))
    return (after.count(token) + kinds * shorter) / (len(after) + kinds) if after else shorter


@pytest.mark.parametrize("order", [1, 2, 3, 5])
def test_witten_bell_is_its_recursion(order: int) -> None:
    draw = np.random.default_rng(0)
    train, text = draw.integers(0, 4, 80), draw.integers(0, 5, 40)
    probabilities = [
        counted(train.tolist(), tuple(text[max(0, i - order + 1) : i].tolist()), int(text[i]), 5)
        for i in range(1, len(text))
    ]
    assert witten_bell(train, text, order, 5) == pytest.approx(
        -np.log(probabilities).mean(), rel=1e-9
    )
    assert sum(
        counted(train.tolist(), tuple(text[3:5].tolist()), token, 5) for token in range(5)
    ) == pytest.approx(1)


# Regressions


def test_test_text_is_never_trained_on(tmp_path: Path) -> None:
    """Without val.txt, validation text is the end of train.txt; test.txt remains the test text."""
    (tmp_path / "train.txt").write_text("a" * 100, encoding="utf-8")
    (tmp_path / "test.txt").write_text("b" * 100, encoding="utf-8")
    data = TextFiles(str(tmp_path), context=4, root=str(tmp_path / "data"))
    decoded = {
        split: set(data.tokenizer.decode(data.tokens(split).ids.tolist()))
        for split in ("train", "val", "test")
    }
    assert decoded == {"train": {"a"}, "val": {"a"}, "test": {"b"}}
    assert len(data.tokens("train").ids) == 90
    assert data.split_name("test") == "test"
    assert (
        TextFiles(str(tmp_path / "train.txt"), context=4, root=str(tmp_path / "data")).split_name(
            "test"
        )
        == "val"
    )


def test_lines_and_words_are_not_cut_in_two(tmp_path: Path) -> None:
    lines = [f"my record number {number}" for number in range(50)]
    data = corpus(tmp_path, "\n".join(lines), batching="records", context=40)
    met = []
    for split in ("train", "val"):
        batch = data.batch(split, list(range(len(data.split(split)))))
        met += [data.tokenizer.decode(row.tolist()) for row in batch["tokens"]]
    assert met == lines


def test_equal_files_with_other_names_are_another_corpus(tmp_path: Path) -> None:
    for folder, names in {"splits": ("train", "val"), "joined": ("one", "two")}.items():
        (tmp_path / folder).mkdir()
        for number, name in enumerate(names):
            (tmp_path / folder / f"{name}.txt").write_text(f"{number} " * 50, encoding="utf-8")
    one, other = (
        TextFiles(str(tmp_path / path), context=4, root=str(tmp_path / "data"))
        for path in ("splits", "joined")
    )
    assert one.cache != other.cache
    (one.cache.parent).mkdir(parents=True)
    one.cache.with_name(f"{one.cache.name}.tmp1").mkdir()  # left by a killed process
    one.prepare_data()
    assert not list(one.cache.parent.glob("*.tmp*"))


def test_words_of_prompt_and_answer_stay_apart() -> None:
    tokenizer = WordTokenizer.train(["the cat sat"], 10)
    ids = tokenizer.encode("the cat sat").tolist()
    given = len(tokenizer.decode(ids[:2]))
    assert "the cat" + tokenizer.decode(ids)[given:] == "the cat sat"
    assert not tokenizer.lossless


def test_special_tokens_in_a_text_are_only_text() -> None:
    tokenizer = BPETokenizer.train(["a <eos> b"], 300, RECORD)
    ids = tokenizer.encode("a <eos> b").tolist()
    assert min(ids) > 2
    assert tokenizer_from_json(tokenizer.to_json()).decode(ids) == "a <eos> b"


@pytest.mark.parametrize("kind", ["word", "bpe"])
def test_too_small_a_vocabulary_is_refused(kind: str) -> None:
    with pytest.raises(UserError, match=r"data.vocab_size must be at least"):
        KINDS[kind].train(["a b c"], 2)


def test_too_high_an_order_is_refused() -> None:
    with pytest.raises(UserError, match="lower the order"):
        witten_bell(np.arange(10), np.arange(10), 5, 20000)
