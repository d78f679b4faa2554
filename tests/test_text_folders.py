"""Folders of text: names of splits, kinds of files, and what is said about files left out."""

import gzip
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from common.errors import UserError
from datamodules.parallel.files import PairTable, ParallelFiles
from datamodules.text.files import TextFiles
from datamodules.text_files import read_lines, read_table
from tests.trials.test_text_folders import SUBSET, check_folder, check_table

Files = dict[str, str | bytes]


def write(folder: Path, files: Files) -> Path:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


def letters(data: Any) -> dict[str, str]:
    """Letters that occur in each split."""
    decoded = {
        split: data.tokenizer.decode(data.tokens(split).ids.tolist())
        for split in ("train", "val", "test")
    }
    return {split: "".join(sorted(set(text) - {"\n"})) for split, text in decoded.items()}


def rows(*texts: str, **more: Any) -> str:
    return "".join(json.dumps({"text": text, **more}) + "\n" for text in texts)


def corpus(folder: Path, **options: Any) -> TextFiles:
    root = str(folder.parent / "data")
    return TextFiles(str(folder), **{"context": 4, "tokenizer": "byte", "root": root, **options})


@pytest.mark.parametrize("seed", SUBSET)
def test_random_folders(seed: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    check_folder(seed, tmp_path, lambda: capsys.readouterr().err)


@pytest.mark.parametrize("seed", range(20))
def test_random_tables(seed: int, tmp_path: Path) -> None:
    check_table(seed, tmp_path)


A, V, T = "a" * 50, "v" * 50, "t" * 50


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"training.txt": A, "val.txt": V, "test.txt": T}, ("a", "v", "t")),
        ({"Train.txt": A, "Dev.TXT": V, "TESTING.md": T}, ("a", "v", "t")),
        ({"Training/x.text": A, "x/y.txt": T, "valid/deep/x.txt": V}, ("a", "v", "v")),
        ({"a.txt": A, "b.TXT": A, "sub/c.md": A, ".git/x.txt": V, ".h.txt": V}, ("a", "a", "a")),
        ({"train.txt.gz": gzip.compress(A.encode()), "val.txt": V}, ("a", "v", "v")),
        ({"train.json": rows(A), "dev.jsonl": rows(V), "README.md": T}, ("a", "v", "v")),
        ({"contest.txt": A, "trains.txt": A, "settings.json": "{}"}, ("a", "a", "a")),
    ],
)
def test_splits_have_their_own_text(
    files: Files, expected: tuple[str, str, str], tmp_path: Path
) -> None:
    found = letters(corpus(write(tmp_path / "x", files)))
    assert tuple(found.values()) == expected


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"val.txt": V, "test.txt": T}, "has test.txt and val.txt, but no training data"),
        ({"train.txt": A, "dev.txt": V, "val.md": V}, "are both the val split; rename"),
        ({"train.txt": A, "Train/x.txt": A}, "are both the train split; rename"),
        ({"en/train.txt": A, "en/test.txt": T}, "en/test.txt may be test data, and would be"),
        ({"ptb.train.txt": A, "ptb.valid.txt": V}, "ptb.valid.txt may be val data"),
        ({"train/x.txt": A, "train/test/y.txt": T}, "train/test/y.txt may be test data"),
        ({"a.txt": A, "b.jsonl": rows(A)}, r"has both text \(a.txt\) and records \(b.jsonl\)"),
        ({"a.pdf": A, "b": A}, r"has no text file .*, only .pdf; add text files"),
        ({"train.txt": "", "val.txt": V}, "train.txt: is empty; put text into it"),
        ({"a.txt": A.encode("utf-16")}, r"not UTF-8 \(byte 0\); .* -f utf-16 "),
        ({"a.txt": A.encode("utf-16-le")}, r"has a NUL byte \(byte 1\), so it is not UTF-8"),
        ({"a.txt.gz": gzip.compress(A.encode())[:-9]}, "a.txt.gz: is damaged"),
        ({"a.txt.gz": A}, "a.txt.gz: is damaged"),
        ({"a.jsonl": rows(A) + "{oops\n"}, "a.jsonl line 2: is not JSON"),
        ({"a.jsonl": rows(A) + "[1]\n"}, "a.jsonl line 2: is not a JSON object"),
        ({"a.jsonl": rows(A) + '{"text": null}\n'}, "line 2: has null in the column text"),
        ({"a.jsonl": rows(A) + '{"x": "y"}\n'}, "a.jsonl line 2: has no column text"),
        ({"a.jsonl": rows("\ud800")}, "line 1: has a character in the column text that is no"),
        ({"a.jsonl": rows(A, title="x", id=1)}, r"2 text columns \(all columns: text, title, id\)"),
        ({"a.jsonl": "\n"}, "a.jsonl: has no records"),
    ],
)
def test_unclear_folders_are_refused(files: Files, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message) as caught:
        corpus(write(tmp_path / "x", files)).prepare_data()
    assert "\n" not in str(caught.value)


def test_used_and_left_out_files_are_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files: Files = {"train.txt": A, "notes.md": T, "x.pdf": "", ".git/a.txt": T, "Test/x.txt": T}
    folder = write(tmp_path / "x", files)
    (folder / "gone.txt").symlink_to("nowhere")
    (folder / "loop").symlink_to(folder)
    corpus(folder).prepare_data()
    assert capsys.readouterr().err == (
        f"{folder} (train 1, test 1): 7 files found, 2 used; 1 hidden (.git), "
        "2 broken or repeated links (gone.txt, loop), 1 of another kind (x.pdf), "
        "1 not named as a split (notes.md)\n"
    )


def test_documents_are_joined_or_are_records(tmp_path: Path) -> None:
    content = rows("one\ntwo", " ", "three", "four\n", title=1)
    folder = write(tmp_path / "x", {"train.jsonl": content, "val.jsonl": content})
    joined = corpus(folder, column="text")
    assert joined.tokenizer.decode(joined.tokens("train").ids.tolist()) == "one\ntwo\nthree\nfour\n"
    apart = corpus(folder, batching="records", context=20)
    batch = apart.batch("train", [0, 1, 2])
    texts = [apart.tokenizer.decode(row.tolist()) for row in batch["tokens"]]
    assert texts == ["one\ntwo", "three", "four"]
    with pytest.raises(UserError, match=r"data.column body: .*train.jsonl has the columns text"):
        corpus(folder, column="body").prepare_data()
    with pytest.raises(UserError, match=r"data.column text: .* is plain text without columns"):
        corpus(write(tmp_path / "y", {"a.txt": A}), column="text").prepare_data()


def test_the_last_documents_are_for_validation(tmp_path: Path) -> None:
    """Documents with line breaks stay whole."""
    texts = [f"line {number}\nof a document" for number in range(20)]
    data = corpus(write(tmp_path / "x", {"a.jsonl": rows(*texts)}), batching="records", context=40)
    met = [
        data.tokenizer.decode(row.tolist())
        for split in ("train", "val")
        for row in data.batch(split, list(range(len(data.split(split)))))["tokens"]
    ]
    assert met == texts
    assert data.sizes == {"train": 19, "val": 1, "test": 1}


def test_parquet(tmp_path: Path) -> None:
    """Numbered parts form a split; a missing part is an error."""
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    for number, name in enumerate(("train-00000-of-00002", "train-00001-of-00002", "test")):
        table = pyarrow.table({"id": [1, 2], "text": ["at"[number == 2] * 20, None][:2]})
        parquet.write_table(table.slice(0, 1), tmp_path / f"{name}.parquet")
    assert letters(corpus(tmp_path)) == {"train": "a", "val": "a", "test": "t"}
    parquet.write_table(table, tmp_path / "test.parquet")
    with pytest.raises(UserError, match=r"test.parquet row 2 has null in the column text"):
        corpus(tmp_path).prepare_data()
    (tmp_path / "train-00001-of-00002.parquet").unlink()
    with pytest.raises(UserError, match=r"train-\*: 1 of 2 parts are there"):
        corpus(tmp_path).prepare_data()
    (tmp_path / "broken.parquet").write_bytes(b"PAR1")
    with pytest.raises(UserError, match=r"broken.parquet: is not a readable Parquet file"):
        corpus(tmp_path / "broken.parquet").prepare_data()


def saved(folder: Path, text: str) -> None:
    """Write a data set as `save_to_disk` of Hugging Face `datasets` does."""
    import pyarrow

    folder.mkdir(parents=True)
    table = pyarrow.table({"id": list(range(5)), "text": [text] * 5})
    with pyarrow.ipc.new_stream(str(folder / "data-00000-of-00001.arrow"), table.schema) as file:
        file.write_table(table)
    state = {"_data_files": [{"filename": "data-00000-of-00001.arrow"}]}
    (folder / "state.json").write_text(json.dumps(state), encoding="utf-8")
    (folder / "dataset_info.json").write_text("{}", encoding="utf-8")


def test_saved_data_sets(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("pyarrow")
    for name, text in {"train": "a" * 9, "validation": "v" * 9, "unlabelled": "u" * 9}.items():
        saved(tmp_path / "x" / name, text)
    index = tmp_path / "x/dataset_dict.json"
    index.write_text('{"splits": ["train", "validation", "unlabelled"]}', encoding="utf-8")
    assert letters(corpus(tmp_path / "x")) == {"train": "a", "val": "v", "test": "v"}
    assert "3 splits found, 2 used; 1 not named as a split (unlabelled)" in capsys.readouterr().err
    assert letters(corpus(tmp_path / "x/train")) == {"train": "a", "val": "a", "test": "a"}
    index.write_text('{"splits": ["validation"]}', encoding="utf-8")
    with pytest.raises(UserError, match="has the splits validation, but none is named train"):
        corpus(tmp_path / "x").prepare_data()
    (tmp_path / "x/train/data-00000-of-00001.arrow").unlink()
    with pytest.raises(UserError, match="arrow: is missing from the data set"):
        corpus(tmp_path / "x/train").prepare_data()


def test_a_missing_reader_names_its_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "x.parquet").write_bytes(b"PAR1")
    for name in ("pyarrow", "pyarrow.parquet"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UserError, match="not installed: pip install pyarrow"):
        corpus(tmp_path / "x.parquet").prepare_data()


def pairs(folder: Path) -> ParallelFiles:
    return ParallelFiles(str(folder), "de", "en", tokenizer="byte", root=str(folder.parent / "r"))


def table(folder: Path, **options: Any) -> PairTable:
    return PairTable(str(folder), tokenizer="byte", root=str(folder.parent / "r"), **options)


JSON_PAIR = '{"id": 1, "de": "ein\\nHund", "en": "a dog"}\n'


@pytest.mark.parametrize(
    ("build", "files", "sizes"),
    [
        (pairs, {"Training.de": "a\n" * 9, "Training.en": "b\n" * 9, "DEV.de": "a", "dev.EN": "b"},
         (9, 1, 1)),
        (pairs, {"train/x.de": "a\n", "train/x.en": "b\n", "test/x.de": "a", "test/x.en": "b"},
         (0, 1, 1)),
        (pairs, {"x.de": "a\n" * 10, "x.en": "b\n" * 10, "x.fr": "c"}, (9, 1, 1)),
        (table, {"Train.TSV": "a\tb\n" * 9, "valid.tsv": "a\tb\n"}, (9, 1, 1)),
        (table, {"x.tsv.gz": gzip.compress(b"a\tb\n" * 10)}, (9, 1, 1)),
        (table, {"train.jsonl": JSON_PAIR * 5, "Dev.jsonl": JSON_PAIR}, (5, 1, 1)),
    ],
)  # fmt: skip
def test_pairs_follow_the_same_rule(
    build: Callable[[Path], Any], files: Files, sizes: tuple[int, int, int], tmp_path: Path
) -> None:
    data = build(write(tmp_path / "x", files))
    assert tuple(data.sizes.values()) == sizes
    if "train.jsonl" in files:
        assert data.texts("val") == (["ein Hund"], ["a dog"])
        assert table(tmp_path / "x", columns=["en", "de"]).texts("val")[0] == ["a dog"]


@pytest.mark.parametrize(
    ("build", "files", "message"),
    [
        (pairs, {"val.de": "a", "val.en": "b"}, "has val.de and val.en, but no training data"),
        (pairs, {"train.de": "a", "train.en": "b", "dev.de": "a", "val.en": "b"},
         r"dev.de and \S+val.en are both in the val split, but have different names"),
        (pairs, {"x.de": "a", "x.en": "b", "y.de": "a", "y.en": "b"}, "both in the train split"),
        (pairs, {"newstest.de": "a", "newstest.en": "b", "test2016.de": "a", "test2016.en": "b"},
         r"test2016.(de|en) may be test data"),
        (table, {"a.tsv": "a\tb\n", "b.tsv": "a\tb\n"}, "a.tsv and b.tsv are both in the train"),
        (table, {"test.tsv": "a\tb\n"}, "has test.tsv, but no training data"),
        (table, {"a.jsonl": '{"de": "a"}\n'}, r"1 text columns \(all columns: de\)"),
    ],
)  # fmt: skip
def test_unclear_pairs_are_refused(
    build: Callable[[Path], Any], files: Files, message: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message):
        build(write(tmp_path / "x", files)).prepare_data()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("file,caption\na.png,one, two\n", r"line 2 has more fields than the header \(file, cap"),
        ("file,caption\nb.png,x\na.png\n", "line 3 has only 1 of the fields file, caption"),
        ('file,caption\na.png,"open\nb.png,x\nc.png,y"\n', "line 2 has a wrong quote"),
        ('file,caption\na.png,"b" c\n', "line 2 has a wrong quote"),
        ("file,caption,file\na,b,c\n", "line 1 has the column 'file' twice"),
        ("file;caption\na;b\n", "needs the columns file and caption, .*; line 1 has file;caption"),
        ("file,caption\n", "needs the columns file and caption, and at least one row"),
        ("file,caption\na,\0\n", "line 2 has a NUL byte"),
        (b"file,caption\na,b\nc,\xff\n", "line 3 is not UTF-8"),
        ("file,caption\n\na,b\n", "line 2 is empty; remove it"),
        ("", "is empty; write a header and rows"),
    ],
)
def test_faults_of_a_table_are_named_by_line(
    content: str | bytes, message: str, tmp_path: Path
) -> None:
    write(tmp_path, {"t.csv": content})
    with pytest.raises(UserError, match=f"t.csv: {message}"):
        read_table(tmp_path / "t.csv", ("file", "caption"))


def test_long_lines_take_linear_time(tmp_path: Path) -> None:
    """Adding each shard to the unfinished line would copy a gigabyte."""
    with gzip.open(tmp_path / "x.txt.gz", "wb", compresslevel=1) as file:
        for _ in range(40):
            file.write(b"x" * 2**20)
    begin = time.perf_counter()
    (line,) = read_lines(tmp_path / "x.txt.gz")
    assert len(line) == 40 * 2**20
    assert time.perf_counter() - begin < 5
