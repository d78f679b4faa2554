"""Parallel corpora: aligned sides, batches within the token limit, mistakes reported by line."""

import gzip
import hashlib
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from common.errors import UserError
from datamodules.images.emoji import emoji_names
from datamodules.images.openmoji import OpenMoji
from datamodules.parallel.files import PairTable, ParallelFiles, suspicious_line
from datamodules.parallel.multi30k import Multi30k
from datamodules.parallel.openmoji import EmojiTranslation
from datamodules.parallel.sampler import BucketBatchSampler, token_cuts
from datamodules.samplers import Part, Request
from datamodules.text.corpora import EmojiNames
from datamodules.text_files import read_lines
from datamodules.tokenizers.base import RECORD
from datamodules.tokenizers.kinds import KINDS, tokenizer_from_json
from datamodules.tokenizers.pair import PairTokenizer
from tests.test_pairs import Server, server  # noqa: F401  # a fixture

WORDS = [
    "ein",
    "mann",
    "hund",
    "läuft",
    "über",
    "die",
    "grüne",
    "straße",
    "und",
    "isst",
    "einen",
    "apfel",
    "im",
    "park",
]


def sentences(count: int, seed: int = 0) -> list[tuple[str, str]]:
    """Sentence pairs; the target is the source in reverse order of words, in capitals."""
    draw = np.random.default_rng(seed)
    drawn = [
        [WORDS[i] for i in draw.integers(len(WORDS), size=draw.integers(2, 15))]
        for _ in range(count)
    ]
    return [(" ".join(words), " ".join(reversed(words)).upper()) for words in drawn]


def write(folder: Path, name: str, pairs: list[tuple[str, str]]) -> None:
    folder.mkdir(exist_ok=True)
    for side, ending in enumerate(("de", "en")):
        (folder / f"{name}.{ending}").write_text(
            "".join(f"{pair[side]}\n" for pair in pairs), encoding="utf-8"
        )


def files(
    folder: Path, train: list[tuple[str, str]], val: list[tuple[str, str]], **options: Any
) -> ParallelFiles:
    write(folder, "train", train)
    write(folder, "val", val)
    return ParallelFiles(
        str(folder), "de", "en", **{"tokenizer": "word", "root": str(folder / "data"), **options}
    )


# Tokenizers


def test_a_pair_of_tokenizers_travels_as_one_string() -> None:
    """A pair encodes sources and decodes targets; a shared tokenizer is stored once."""
    one, other = (KINDS["char"].train([text], 0, RECORD) for text in ("abc", "xyz"))
    apart = tokenizer_from_json(PairTokenizer(one, other).to_json())
    assert isinstance(apart, PairTokenizer)
    assert apart.kind == "pair"
    assert apart.encode("cab").tolist() == one.encode("cab").tolist()
    assert apart.decode([1, 5, 3, 2, 0]) == "zx"
    assert apart.vocab_size == 6
    assert apart.source is not apart.target
    together = tokenizer_from_json(PairTokenizer(one, one).to_json())
    assert isinstance(together, PairTokenizer)
    assert together.source is together.target
    assert len(together.to_json()) < len(apart.to_json())
    assert together.to_json() == PairTokenizer(one, one).to_json()


@pytest.mark.parametrize(
    "wrong",
    ['{"kind": "pair"}', '{"kind": "pair", "parts": []}', '{"kind": "pair", "parts": ["x"]}'],
)
def test_a_broken_pair_is_refused(wrong: str) -> None:
    with pytest.raises(UserError, match="not a tokenizer of this template"):
        tokenizer_from_json(wrong)


# Batches


def lengths_like_captions(count: int, seed: int = 0) -> np.ndarray:
    """Correlated lengths (2, N) of around 14 tokens per side, as in Multi30k."""
    draw = np.random.default_rng(seed)
    source = np.exp(draw.normal(2.6, 0.33, count))
    return np.clip(np.round([source, source * np.exp(draw.normal(0, 0.15, count))]), 3, 45).astype(
        np.int64
    )


def sampler(lengths: np.ndarray, batch_tokens: int = 400, **options: Any) -> BucketBatchSampler:
    return BucketBatchSampler(
        lengths,
        batch_tokens,
        **{"shuffle": True, "seed": 1, "name": "train", "rank": 0, "world": 1, **options},
    )


def requests(sampler: BucketBatchSampler, epoch: int = 0) -> list[tuple[list[int], int]]:
    sampler.set_epoch(epoch)
    return [(request.index.tolist(), request.seed) for request in sampler]


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("world", [1, 2, 3])
def test_every_pair_is_seen_once_within_the_budget(world: int, shuffle: bool) -> None:
    lengths = lengths_like_captions(2003)
    ranks = [
        [
            index
            for index, _ in requests(
                sampler(lengths, shuffle=shuffle, rank=r, world=world), epoch=2
            )
        ]
        for r in range(world)
    ]
    assert sorted(number for rank in ranks for index in rank for number in index) == list(
        range(2003)
    )
    for parts in zip(*ranks):
        batch = [number for index in parts for number in index]
        assert len(batch) * lengths[:, batch].max() <= 400 * world
        assert max(map(len, parts)) - min(map(len, parts)) <= 1
    if shuffle:
        assert {len(rank) for rank in ranks} == {len(sampler(lengths, world=world))}, (
            "ranks have equal numbers of batches"
        )


@pytest.mark.parametrize("shuffle", [True, False])
def test_ranks_share_the_batches_of_one_process(shuffle: bool) -> None:
    lengths = lengths_like_captions(2000)
    alone = [index for index, _ in requests(sampler(lengths, 800, shuffle=shuffle), epoch=3)]
    ranks = [
        [
            index
            for index, _ in requests(
                sampler(lengths, 400, shuffle=shuffle, rank=r, world=2), epoch=3
            )
        ]
        for r in range(2)
    ]
    assert len(alone) == len(ranks[0]) == len(ranks[1])
    for whole, first, second in zip(alone, *ranks):
        assert (whole[::2], whole[1::2]) == (first, second)


def test_the_order_is_a_function_of_seed_and_epoch() -> None:
    lengths = lengths_like_captions(1000)
    first, again, later, other = (
        requests(sampler(lengths, seed=seed), epoch)
        for seed, epoch in ((1, 0), (1, 0), (1, 1), (2, 0))
    )
    assert first == again
    for different in (later, other):
        assert len(different) == len(first)
        assert not {seed for _, seed in first} & {seed for _, seed in different}
        assert not {frozenset(index) for index, _ in first} >= {
            frozenset(index) for index, _ in different
        }, "batches hold other pairs"
    longest = [lengths[:, index].max() for index, _ in first]
    assert longest != sorted(longest, reverse=True), "batches are not sorted by length"
    evaluation = [requests(sampler(lengths, shuffle=False), epoch) for epoch in range(2)]
    assert [index for index, _ in evaluation[0]] == [index for index, _ in evaluation[1]]


def test_batches_go_on_in_the_middle_of_an_epoch() -> None:
    lengths = lengths_like_captions(1000)
    whole = [requests(sampler(lengths), epoch) for epoch in range(2)]
    later = sampler(lengths)
    later.used = [Part(later.batch_size, 1, 7)]
    assert requests(later) == whole[0][7:]
    assert requests(later, 1) == whole[1]


def test_little_is_padding_and_sorting_is_fast() -> None:
    lengths = lengths_like_captions(29_000)
    batches = [index for index, _ in requests(sampler(lengths, 4096))]
    padded = sum(len(index) * lengths[:, index].max(1) for index in batches)
    assert 1 - lengths.sum() / padded.sum() < 0.12
    draw = torch.randperm(29_000).split(29_000 // len(batches))
    assert (
        1 - lengths.sum() / sum((len(index) * lengths[:, index].max(1)).sum() for index in draw)
        > 0.5
    ), "random batches have more padding"


def test_cuts() -> None:
    assert token_cuts(np.array([5, 4, 4, 3, 3, 2]), 12, 1) == [0, 2, 5, 6]
    assert token_cuts(np.array([2, 5, 2, 2]), 12, 1) == [0, 2, 4], "lengths need not be sorted"
    assert token_cuts(np.array([9, 9, 9, 1]), 6, 2) == [0, 2, 4], "batches have a minimum size"


def test_no_rank_goes_without_in_training() -> None:
    lengths = np.array([[5, 5, 5, 5, 2], [5, 5, 5, 5, 2]])
    assert [
        index for index, _ in requests(sampler(lengths, 5, rank=1, world=2, shuffle=False))
    ] == [[1], [3]]
    assert [len(sampler(lengths, 5, rank=rank, world=2)) for rank in range(2)] == [2, 2]
    assert sorted(len(index) for index, _ in requests(sampler(lengths, 5, rank=0, world=2))) == [
        1,
        2,
    ]
    with pytest.raises(UserError, match="5 training pairs are fewer than the 6 processes"):
        sampler(lengths, 5, world=6)


# Corpora


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shared", [True, False])
def test_both_sides_come_back(kind: Any, shared: bool, tmp_path: Path) -> None:
    train, val = sentences(60), sentences(9, seed=1)
    data = files(tmp_path, train, val, tokenizer=kind, shared_vocabulary=shared, vocab_size=300)
    batch = data.batch("train", [3, 0, 41])
    tokenizer = data.tokenizer
    assert (tokenizer.source is tokenizer.target) == shared
    assert data.data_spec == {
        "vocab_size": tokenizer.target.vocab_size,
        "source_vocab_size": tokenizer.source.vocab_size,
        "pad_id": 0,
    }
    assert [tokenizer.source.decode(row.tolist()) for row in batch["source"]] == [
        train[i][0] for i in (3, 0, 41)
    ]
    assert [tokenizer.decode(row.tolist()) for row in batch["target"]] == [
        train[i][1] for i in (3, 0, 41)
    ]
    assert data.texts("val") == ([pair[0] for pair in val], [pair[1] for pair in val])
    assert data.texts("test") == data.texts("val")
    assert data.split_name("test") == "val"


def test_rows_begin_and_end_where_they_should(tmp_path: Path) -> None:
    data = files(tmp_path, [("a b", "x"), ("a", "x y z")], [("a", "x")])
    batch = data.batch("train", [0, 1])
    a, b, x, y, z = (data.tokenizer.source.encode(word)[0] for word in "abxyz")
    assert batch["source"].tolist() == [[a, b, 2], [a, 2, 0]]
    assert batch["target"].tolist() == [[1, x, 2, 0, 0], [1, x, y, z, 2]]
    assert batch["source_length"].tolist() == [3, 2]
    assert batch["target_length"].tolist() == [2, 4]
    assert batch["index"].tolist() == [0, 1]
    assert {
        batch[name].dtype for name in ("source", "target", "source_length", "target_length")
    } == {torch.int64}


def test_an_epoch_of_loaded_batches(tmp_path: Path) -> None:
    train = sentences(300)
    data = files(
        tmp_path,
        train,
        sentences(20, seed=1),
        batch_tokens=100,
        max_length=20,
        eval_batch_tokens=60,
    )
    seen = []
    for batch in data.train_dataloader():
        assert (
            len(batch["index"]) * max(batch["source"].shape[1], batch["target"].shape[1] - 1) <= 100
        )
        for i, source, target in zip(
            batch["index"].tolist(), batch["source"].tolist(), batch["target"].tolist()
        ):
            assert (data.tokenizer.source.decode(source), data.tokenizer.decode(target)) == train[i]
            seen.append(i)
    assert sorted(seen) == list(range(300))
    evaluation: Any = data.val_dataloader()
    assert sorted(i for batch in evaluation for i in batch["index"].tolist()) == list(range(20))


def test_training_goes_on_with_the_next_batch(tmp_path: Path) -> None:
    def indices(data: ParallelFiles) -> list[list[int]]:
        return [batch["index"].tolist() for batch in data.train_dataloader()]

    data = files(tmp_path, sentences(300), sentences(20, seed=1), batch_tokens=100, max_length=20)
    data.load_state_dict({"epoch": 4, "used": []})
    whole = indices(data)
    data.load_state_dict({"epoch": 4, "used": [[100, 1, 5]]})
    assert indices(data) == whole[5:]
    data.load_state_dict({"epoch": 3, "used": [[100, 1, len(whole)]]})
    assert indices(data) == whole, "a finished epoch continues with the next one"


def test_a_subset_keeps_its_texts(tmp_path: Path) -> None:
    train = sentences(50)
    data = files(tmp_path, train, train[:5], max_samples=7, lower=True)
    sources, targets = data.texts("train")
    assert len(sources) == data.sizes["train"] == 7
    assert all((source, target.upper()) in train for source, target in zip(sources, targets)), (
        "lower-cased"
    )
    row = data.batch("train", [4])
    assert data.tokenizer.decode(row["target"][0].tolist()) == targets[4]


def test_a_corpus_is_encoded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = files(tmp_path, sentences(30), sentences(5, seed=1))
    data.prepare_data()
    monkeypatch.setattr(
        ParallelFiles, "_encode", lambda *_: pytest.fail("the corpus was already encoded")
    )
    again = files(
        tmp_path, sentences(30), sentences(5, seed=1), skip=True, max_length=20, batch_tokens=99
    )
    assert again.data_spec == data.data_spec
    others = (
        {"lower": True},
        {"shared_vocabulary": False},
        {"vocab_size": 99},
        {"tokenizer": "byte"},
    )
    caches = {
        files(tmp_path, sentences(30), sentences(5, seed=1), **other).cache for other in others
    }
    caches.add(files(tmp_path, sentences(31), sentences(5, seed=1)).cache)
    assert len(caches | {data.cache}) == 6


def test_lines_end_where_editors_end_them(tmp_path: Path) -> None:
    r"""Only "\n" ends a line: splitting at other Unicode line ends would shift later pairs."""
    odd = [("a\u2028b", "x\x85y"), ("c\rd", "z\x0bw"), ("e", "v")]
    write(tmp_path, "train", odd)
    (tmp_path / "val.de").write_bytes(b"\xef\xbb\xbfa\r\n")
    (tmp_path / "val.en").write_bytes(b"x")
    data = ParallelFiles(str(tmp_path), "de", "en", tokenizer="char", root=str(tmp_path / "data"))
    assert data.texts("train") == (["a\u2028b", "c\rd", "e"], ["x\x85y", "z\x0bw", "v"])
    assert data.texts("val") == (["a"], ["x"])
    assert list(read_lines(tmp_path / "val.de")) == ["a\r"]


def test_without_validation_files_the_last_pairs_are_for_it(tmp_path: Path) -> None:
    pairs = sentences(20)
    (tmp_path / "pairs.tsv").write_text(
        "".join(f"{source}\t{target}\n" for source, target in pairs), encoding="utf-8"
    )
    table = PairTable(str(tmp_path / "pairs.tsv"), tokenizer="word", root=str(tmp_path / "data"))
    write(tmp_path, "train", pairs)
    write(tmp_path, "test", pairs[:3])
    aligned = ParallelFiles(
        str(tmp_path), "de", "en", val_share=0.25, tokenizer="word", root=str(tmp_path / "data")
    )
    for data, border in ((table, 18), (aligned, 15)):
        assert list(zip(*data.texts("train"))) == pairs[:border]
        assert list(zip(*data.texts("val"))) == pairs[border:]
    assert list(zip(*table.texts("test"))) == pairs[18:]
    assert list(zip(*aligned.texts("test"))) == pairs[:3]


def test_tables_in_a_folder(tmp_path: Path) -> None:
    for name, count in (("train", 5), ("dev", 2), ("test", 3)):
        (tmp_path / f"{name}.tsv").write_text("a b\tx\n" * count, encoding="utf-8")
    data = PairTable(str(tmp_path), tokenizer="word", root=str(tmp_path / "data"))
    assert data.sizes == {"train": 5, "val": 2, "test": 3}


# Mistakes


def broken(path: Path, content: dict[str, str | bytes], **options: Any) -> ParallelFiles:
    """A valid corpus with some files replaced."""
    write(path, "train", sentences(20))
    write(path, "val", sentences(5, seed=1))
    for name, text in content.items():
        (path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return ParallelFiles(
        str(path), "de", "en", **{"tokenizer": "word", "root": str(path / "data"), **options}
    )


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        ({"train.en": "A\n" * 19}, {},
         r"train.de has 20 lines and .*train.en has 19: .*; look at line \d+ first"),
        ({"val.de": "a\n\nb\nc\nd\ne\n", "val.en": "x\ny\nz\nu\nv\n"}, {},
         r"has 6 lines .* has 5: .* look at line 2 first"),
        ({"train.de": "a\n" * 4 + "\n" + "a\n" * 15}, {},
         r"^\S+train.de line 5: the text is empty; complete .* --data.skip true$"),
        ({"train.de": "a\n\n", "train.en": "a\n \n"}, {},
         r"train.de line 2 and \S+train.en line 2: the text is empty; complete"),
        ({"val.de": "a\nb\n", "val.en": "a\n\n"}, {"skip": True},
         r"val.en line 2: the text is empty; .* or remove it from both sides$"),
        ({"train.de": "a a a\na\n", "train.en": "a\na a a a\n"},
         {"max_length": 4, "batch_tokens": 9},
         r"train.en line 2: has 5 tokens, more than data.max_length 4; raise data.max_length, "
         r"or skip such pairs with --data.skip true"),
        ({"train.de": b"good \xff bad\n" * 20}, {},
         r"train.de: is not UTF-8 \(byte 5\); convert it"),
        ({"test.de": "a\n"}, {}, r"test.en: there is no such file beside test.de; add it"),
        ({"train.de": "", "train.en": ""}, {}, r"train.de: is empty; put text into it"),
        ({}, {"max_length": 1},
         r"train.\w\w line 1: has \d+ tokens, more than data.max_length 1; raise data.max_length"),
        ({}, {"batch_tokens": 200},
         "data.batch_tokens gives a process 200 tokens per batch, below data.max_length 256"),
    ],
)  # fmt: skip
def test_mistakes_end_in_one_line(
    content: dict[str, str | bytes], options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError) as caught:
        broken(tmp_path, content, **options).sizes  # noqa: B018
    assert re.search(message, str(caught.value)), str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_files(tmp_path: Path) -> None:
    with pytest.raises(
        UserError,
        match=r"data.folder \S+nowhere: there is no such folder; "
        r"give one with train.de and train.en",
    ):
        ParallelFiles(str(tmp_path / "nowhere"), "de", "en").data_spec  # noqa: B018
    with pytest.raises(
        UserError, match=r"train.de: there is no such file; place the training pairs there"
    ):
        ParallelFiles(str(tmp_path), "de", "en").data_spec  # noqa: B018
    with pytest.raises(
        UserError,
        match=r"data.path \S+: there is no table in it; give a .tsv, or a folder with train.tsv",
    ):
        PairTable(str(tmp_path)).data_spec  # noqa: B018


@pytest.mark.parametrize(("row", "columns"), [("a", 1), ("", 1), ("a\tb\tc", 3)])
def test_rows_of_a_table_have_two_columns(row: str, columns: int, tmp_path: Path) -> None:
    (tmp_path / "x.tsv").write_text("a\tb\n" * 19 + f"{row}\n", encoding="utf-8")
    with pytest.raises(
        UserError, match=rf"x.tsv line 20: has {columns} columns; give the line two"
    ):
        PairTable(str(tmp_path / "x.tsv"), tokenizer="word", root=str(tmp_path / "data")).data_spec  # noqa: B018


def test_what_is_left_out_is_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train = [
        ("a", "x"),
        ("", "x"),
        ("a b", "x y"),
        ("a", ""),
        ("", ""),
        ("a b c d", "x"),
        ("a", "x y z w v"),
        ("b", "z"),
    ]
    data = files(tmp_path, train, [("a", "x y z w v u")], skip=True, max_length=4)
    assert data.sizes == {"train": 3, "val": 1, "test": 1}, "evaluation pairs may have any length"
    used, skipped = capsys.readouterr().err.splitlines()
    assert used == f"{tmp_path} (train 2, val 2): 4 files found, 4 used"
    assert skipped == "skipped 3 empty and 2 long pairs of 8"
    assert list(zip(*data.texts("train"))) == [train[i] for i in (0, 2, 7)]
    assert data.tokenizer.source.decode(data.batch("train", [2])["source"][0].tolist()) == "b"


@pytest.mark.parametrize("place", [0, 17, 150, 199])
def test_the_line_at_which_files_come_apart_is_found(place: int, tmp_path: Path) -> None:
    """The position is found within two lines, from sentence lengths alone."""
    pairs = sentences(200)
    write(tmp_path, "train", pairs)
    with_one_more = [target for _, target in pairs]
    with_one_more.insert(place, "one that should not be here")
    (tmp_path / "train.en").write_text("\n".join(with_one_more), encoding="utf-8")
    for sides in (("de", "en"), ("en", "de")):
        found = suspicious_line(*(tmp_path / f"train.{side}" for side in sides))
        assert abs(found - (place + 1)) <= 2
    (tmp_path / "train.en").write_text(
        "".join(f"{target}\n" for _, target in pairs) + "more\n", encoding="utf-8"
    )
    assert suspicious_line(tmp_path / "train.de", tmp_path / "train.en") == 201, (
        "the last line has no counterpart"
    )


# By name, and embedded


@pytest.fixture
def captions(monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """Six compressed files in place of Multi30k, with the expected checksums adapted."""
    parts = {
        "train": sentences(30),
        "val": sentences(5, seed=1),
        "test_2016_flickr": sentences(4, seed=2),
    }
    packed = {
        f"{name}.{ending}": gzip.compress(
            "".join(f"{pair[side]}\n" for pair in pairs).encode(), mtime=0
        )
        for name, pairs in parts.items()
        for side, ending in enumerate(("de", "en"))
    }
    monkeypatch.setattr(
        Multi30k,
        "CHECKSUMS",
        {name: hashlib.sha256(content).hexdigest() for name, content in packed.items()},
    )
    return packed


def test_multi30k_by_name(
    server: Server,  # noqa: F811
    captions: dict[str, bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server.content = {f"/{name}.gz": content for name, content in captions.items()}
    monkeypatch.setattr(Multi30k, "ADDRESS", server.address("/{}.gz"))
    data = Multi30k(tokenizer="word", root=str(tmp_path))
    assert data.sizes == {"train": 30, "val": 5, "test": 4}
    assert (
        Multi30k("en", "de", tokenizer="word", root=str(tmp_path)).texts("test")
        == data.texts("test")[::-1]
    )
    assert len(server.ranges) == 6, "each file is downloaded once"
    server.content["/train.en.gz"] = gzip.compress(b"other\n" * 30)
    for path in (tmp_path / "multi30k").glob("train.en*"):
        path.unlink()
    with pytest.raises(UserError, match=r"train.en.gz: its SHA-256 is"):
        Multi30k(root=str(tmp_path)).data_spec  # noqa: B018


def test_multi30k_placed_by_hand(captions: dict[str, bytes], tmp_path: Path) -> None:
    """Uncompressed and compressed files are both accepted."""
    folder = tmp_path / "multi30k"
    folder.mkdir()
    for name, content in captions.items():
        if name == "val.en":
            (folder / f"{name}.gz").write_bytes(content)
        else:
            (folder / name).write_bytes(gzip.decompress(content))
    assert Multi30k(tokenizer="word", root=str(tmp_path)).sizes == {
        "train": 30,
        "val": 5,
        "test": 4,
    }
    (folder / "val.en").unlink()
    (folder / "val.en.gz").write_bytes(captions["val.en"][:-9])
    with pytest.raises(
        UserError, match=r"val.en.gz: is damaged .*; remove it to download it again"
    ):
        Multi30k(tokenizer="word", root=str(tmp_path)).data_spec  # noqa: B018
    assert not (folder / "val.en").exists()


def test_names_of_emoji_are_translated() -> None:
    data = EmojiTranslation(tokenizer="word")
    pairs = {split: list(zip(*data.texts(split))) for split in ("train", "val", "test")}
    assert ("waving hand dark skin tone", "winkende hand dunkle hautfarbe") in {
        pair for split in pairs.values() for pair in split
    }
    assert sum(map(len, pairs.values())) > 3500
    assert {split: len(named) for split, named in pairs.items()} == {
        "train": 3554,
        "val": 207,
        "test": 192,
    }
    trained = {source for source, _ in pairs["train"]}
    words = {word for source in trained for word in source.split()}
    for split in ("val", "test"):
        held_out = {source for source, _ in pairs[split]}
        assert not held_out & trained
        assert all(words.issuperset(source.split()) for source in held_out), (
            "combinations are held out, never words"
        )
    for named in pairs.values():
        assert len(set(named)) == len(named)
        assert not any(
            set(":_") & set(name) or name != name.lower() for pair in named for name in pair
        )


def test_no_source_is_in_two_splits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Emoji that share a name across splits, as in other package versions, go to training."""

    def first_word(codes: list[str], language: str) -> dict[str, str]:
        return {
            code: name.split()[0] if language == "en" else name
            for code, name in emoji_names(codes, language).items()
        }

    real = EmojiTranslation().split_sources
    monkeypatch.setattr("datamodules.parallel.openmoji.emoji_names", first_word)
    parts = EmojiTranslation().split_sources
    assert sum(map(len, parts.values())) == sum(map(len, real.values()))
    train, val, test = (
        {source for source, _ in parts[split]} for split in ("train", "val", "test")
    )
    assert not train & val
    assert not train & test
    assert not val & test
    assert len(parts["val"]) < len(real["val"])


def test_the_split_is_drawn_under_the_root(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Both emoji text corpora cache the images that determine the split under their root."""
    roots = []

    def numbered(data: OpenMoji, size: int, layers: str) -> np.ndarray:
        roots.append(data.root)
        return np.arange(len(data.codes))

    monkeypatch.setattr(OpenMoji, "_rasterised", numbered)
    EmojiTranslation(root=str(tmp_path)).split_sources  # noqa: B018
    EmojiNames(root=str(tmp_path)).names  # noqa: B018
    assert roots == [tmp_path, tmp_path]


def test_a_language_without_names_is_refused() -> None:
    with pytest.raises(
        UserError,
        match=r"data.target tlh: emoji have no names in this language; "
        r"give one of ar, de, en, es, fa, fr, id, it, ja",
    ):
        EmojiTranslation("en", "tlh")


def test_one_pair_by_itself(tmp_path: Path) -> None:
    """A batch of one pair is padded to the length of this pair only."""
    data = files(tmp_path, sentences(3), [("a", "b")])
    batch = data.split("val").__getitems__(Request(torch.tensor([0]), 0))
    assert batch["source"].shape == (1, 2)
    assert batch["target"].shape == (1, 3)
