"""Random folders of text: each trains on its training text alone, or is refused in one line.

A seed draws the layout, the names of splits, the kind of files, their encodings and faults, and
clutter such as hidden folders and links. Every text starts with a mark of the split it was written
for, such as `train12x`.
"""

import gzip
import itertools
import json
import os
import random
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import train
from common.errors import UserError
from datamodules.parallel.files import PairTable, ParallelFiles
from datamodules.splits import SPLIT_NAMES
from datamodules.text.files import TextFiles
from datamodules.text_files import read_table

FOLDERS = 80
FITS = range(0, FOLDERS, 13)  # folders that `train.py` itself reads
SUBSET = range(15)  # folders that `make test` tries
WORDS = ["ein", "läuft", "über", "straße", "水", "を", "飲む", "và", "ăn", "cơm", "🙂", "naïve"]
MARK = re.compile(r"(train|val|test|other|hidden)\d+x")


class Case(NamedTuple):
    """Folder that was written for a seed.

    Attributes:
        build: Function that builds the data module.
        written: Number of texts that were written for each split and for "other" and "hidden".
        trains: Whether the folder must train (True) or be refused (False).
    """

    build: Callable[[], Any]
    written: Counter[str]
    trains: bool


def spelled(draw: random.Random, split: str) -> str:
    """Return a name of a split in any case."""
    name = draw.choice(SPLIT_NAMES[split])
    return draw.choice([name, name.upper(), name.title()])


class Writer:
    """Writes files of marked texts.

    Args:
        draw: Random number generator.
        kind: Kind of files: "text", "jsonl", "json", "parquet", "tsv" or "pairs".
    """

    def __init__(self, draw: random.Random, kind: str) -> None:
        self.draw, self.kind = draw, kind
        self.written: Counter[str] = Counter()

    def texts(self, mark: str, count: int) -> list[str]:
        """Return marked texts of random words."""
        found = []
        for _ in range(count):
            words = self.draw.choices(WORDS, k=self.draw.randint(3, 12))
            found.append(f"{mark}{self.written[mark]}x {' '.join(words)}")
            self.written[mark] += 1
        return found

    def write(self, folder: Path, name: str, mark: str, count: int = 40) -> list[Path]:
        """Write a file, or the two files of a parallel corpus, and return the paths."""
        folder.mkdir(parents=True, exist_ok=True)
        texts = self.texts(mark, count)
        if self.kind == "pairs":
            paths = [folder / f"{name}.{language}" for language in ("de", "en")]
            for path in paths:
                path.write_text("".join(f"{text}\n" for text in texts), encoding="utf-8")
            return paths
        if self.kind == "tsv":
            content = "".join(f"{text}\t{text}\n" for text in texts)
            suffix = self.draw.choice([".tsv", ".TSV"])
        elif self.kind == "text":
            end = self.draw.choice(["\n", "\n", "\r\n"])
            content = end.join(texts) + self.draw.choice(["", end])
            suffix = self.draw.choice([".txt", ".TXT", ".md", ".text"])
        else:
            rows = [{"id": i, "text": text} for i, text in enumerate(texts)]
            content = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
            suffix = f".{self.kind}"
            if self.kind == "parquet":
                import pyarrow.parquet

                path = folder / f"{name}.parquet"
                pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
                return [path]
        if self.draw.random() < 0.15 and self.kind != "json":
            path = folder / f"{name}{suffix}.gz"
            path.write_bytes(gzip.compress(content.encode()))
        else:
            path = folder / f"{name}{suffix}"
            bom = self.draw.choice(["", "", "\ufeff"])
            path.write_bytes((bom + content).encode())
        return [path]


def layout(writer: Writer, folder: Path) -> tuple[list[Path], bool]:
    """Write the files of a random layout; return those of training, and whether it is clear."""
    clear = [*[named] * 6, *[folders] * 4, *[corpus] * 5]
    styles = [*clear, deep, held_out, twice, prefix]
    style = writer.draw.choice(styles + [parts] * 6 * (writer.kind == "parquet"))
    return style(writer, folder)


def splits(writer: Writer) -> list[str]:
    """Return random held-out splits."""
    return writer.draw.sample(["val", "test"], writer.draw.randint(0, 2))


def named(writer: Writer, folder: Path) -> tuple[list[Path], bool]:
    """One file per split, and notes that belong to none."""
    train = writer.write(folder, spelled(writer.draw, "train"), "train")
    for split in splits(writer):
        writer.write(folder, spelled(writer.draw, split), split)
    writer.write(folder, "notes", "other", 3)
    return train, True


def folders(writer: Writer, folder: Path) -> tuple[list[Path], bool]:
    """One folder per split."""
    train = writer.write(folder / spelled(writer.draw, "train"), "eins", "train")
    for split in splits(writer):
        writer.write(folder / spelled(writer.draw, split), "zwei", split)
    return train, True


def corpus(writer: Writer, folder: Path) -> tuple[list[Path], bool]:
    """Files without names of splits; corpora of pairs have one."""
    count = 1 if writer.kind in ("tsv", "pairs") else writer.draw.randint(1, 4)
    home = folder / writer.draw.choice(["", "книги/том 1"])
    names = writer.draw.sample(["kapitel", "水の本", "chuyện", "a.b", "contest"], count)
    return [path for name in names for path in writer.write(home, name, "train")], True


def deep(writer: Writer, folder: Path) -> tuple[list[Path], bool]:
    """Splits that are not directly in the folder."""
    train = writer.write(folder / "en", "train", "train")
    for split in splits(writer) or ["test"]:
        writer.write(folder / "en", spelled(writer.draw, split), split)
    return train, False


def held_out(writer: Writer, folder: Path) -> tuple[list[Path], bool]:
    """Validation or test data alone."""
    for split in splits(writer) or ["val"]:
        writer.write(folder, spelled(writer.draw, split), split)
    return [], False


def twice(writer: Writer, folder: Path) -> tuple[list[Path], bool]:
    """Two files that stand for the same split."""
    train = writer.write(folder, spelled(writer.draw, "train"), "train")
    split = writer.draw.choice(["train", "val", "test"])
    for name in SPLIT_NAMES[split][:2]:
        writer.write(folder, name.upper(), split)
    return train, False


def prefix(writer: Writer, folder: Path) -> tuple[list[Path], bool]:
    """Held-out data whose names are not exactly those of splits."""
    train = writer.write(folder, "ptb.train", "train")
    name = writer.draw.choice(["ptb.valid", "test2016", "dev_1", "Test-set"])
    writer.write(folder, name, "test")
    return train, False


def parts(writer: Writer, folder: Path) -> tuple[list[Path], bool]:
    """Numbered parts of a table, sometimes without one of them."""
    names = [f"train-{number:05}-of-00002" for number in range(2)]
    train = [path for name in names for path in writer.write(folder, name, "train")]
    writer.write(folder, "test-00000-of-00001", "test")
    complete = writer.draw.random() < 0.7
    if not complete:
        train.pop().unlink()
    return train, complete


FAULTS: dict[str, Callable[[bytes], bytes]] = {
    "utf-16": lambda raw: raw.decode("utf-8-sig").encode("utf-16"),
    "utf-16-le": lambda raw: raw.decode("utf-8-sig").encode("utf-16-le"),
    "latin-1": lambda raw: raw + "Größe\n".encode("latin-1"),
    "cut": lambda raw: raw + "水".encode()[:2],
    "nul": lambda raw: raw[:200] + b"\0" + raw[200:],
    "empty": lambda raw: b"",
}
ROW_FAULTS: dict[str, bytes] = {
    "jsonl": b'{"text": "unclosed\n',
    "json": b'{"id": 3, "text": null}\n',
    "tsv": b"a\tb\tc\n",
}


def damage(draw: random.Random, kind: str, path: Path) -> bool:
    """Damage a file, or leave it as it is; return whether it can be read."""
    fault = draw.choice([*FAULTS, "row", "huge", *["none"] * 16])
    if fault == "none" or path.suffix in (".gz", ".parquet"):
        return True
    raw = path.read_bytes()
    if fault == "huge":
        path.write_bytes(raw + b"x" * 300_000 if kind == "text" else raw)
        return True
    if fault == "row":
        path.write_bytes(raw + ROW_FAULTS.get(kind, b"one line more\n"))
        return kind == "text"
    path.write_bytes(FAULTS[fault](raw))
    return False


def clutter(writer: Writer, folder: Path) -> None:
    """Add hidden files, files of other kinds, links in circles and broken links."""
    draw = writer.draw
    for name in draw.sample([".git", ".cache", ".ipynb_checkpoints"], draw.randint(0, 2)):
        writer.write(folder / name, "train", "hidden", 3)
    if draw.random() < 0.3:
        (folder / "paper.pdf").write_bytes(b"%PDF\xff")
        (folder / "settings.json").write_text("{}", encoding="utf-8")
    if draw.random() < 0.3:
        (folder / "loop").symlink_to(folder, target_is_directory=True)
        (folder / "gone.txt").symlink_to(folder / "nowhere.txt")


def make(seed: int, home: Path) -> Case:
    """Write the folder of a seed."""
    draw = random.Random(seed)
    kinds = ["text", "text", "text", "jsonl", "json", "parquet", "tsv", "pairs"]
    kind = draw.choice(kinds)
    if kind == "parquet":
        pytest.importorskip("pyarrow")
    writer, folder = Writer(draw, kind), home / draw.choice(["corpus", "größe 水"])
    files, clear = layout(writer, folder)
    readable = damage(draw, kind, files[0]) if files else True
    if len(files) > 1 and kind != "pairs" and not files[0].stat().st_size:
        readable = True  # an empty file is left out, and reported
        writer.written["train"] -= 40
    clutter(writer, folder)
    if kind == "json" and files and files[0].stem.lower() not in SPLIT_NAMES["train"]:
        clear = False  # only .json files with the name of a split are text
    root = {"root": str(home / "data"), "num_workers": 0}
    if kind == "pairs":
        options: Any = {"tokenizer": draw.choice(["char", "byte"]), "batch_tokens": 4000, **root}
        build = lambda: ParallelFiles(str(folder), "de", "en", **options)  # noqa: E731
    elif kind == "tsv":
        options = {"tokenizer": draw.choice(["char", "bpe"]), "batch_tokens": 4000, **root}
        build = lambda: PairTable(str(folder), **options)  # noqa: E731
    else:
        options = {
            "tokenizer": draw.choice(["char", "byte", "bpe"]),
            "batching": draw.choice(["windows", "streams", "records"]),
            "vocab_size": 400,
            "batch_size": 4,
            **root,
        }
        options["context"] = 4_000_000 if options["batching"] == "records" else 4
        build = lambda: TextFiles(str(folder), **options)  # noqa: E731
    return Case(build, writer.written, clear and readable)


def marks(texts: list[str]) -> Counter[str]:
    """Count the marked texts of each kind."""
    return Counter(match[1] for text in texts for match in MARK.finditer(text))


def texts_of(data: Any) -> dict[str, list[str]]:
    """Return the text of each split, decoded from its token ids."""
    splits = [split for split in ("train", "val", "test") if data.split_name(split) == split]
    if isinstance(data, TextFiles):
        return {split: [data.tokenizer.decode(data.tokens(split).ids.tolist())] for split in splits}
    return {split: data.texts(split)[0] for split in splits}


def check_usage(report: str) -> None:
    """Check that used and left-out files add up to those that were found."""
    for found, used, rest in re.findall(r": ([\d,]+) \w+ found, ([\d,]+) used(.*)", report):
        left_out = sum(map(int, re.findall(r"(?:; |, )(\d+) [a-z]", rest)))
        assert int(found) == int(used) + left_out, report


def check_folder(seed: int, home: Path, report: Callable[[], str]) -> None:
    """Check the folder of a seed; `report` returns what was printed on stderr."""
    case, message = make(seed, home), None
    try:
        data = case.build()
        texts = texts_of(data)
        found = {split: marks(part) for split, part in texts.items()}
        for loader in (data.train_dataloader(), data.val_dataloader(), data.test_dataloader()):
            assert all(batch["num_targets"] > 0 for batch in itertools.islice(loader, 200))
    except UserError as error:
        message = str(error)
    if message is not None:
        assert not case.trains, f"refused: {message}"
        assert "\n" not in message
        return
    assert case.trains, f"trained on {found}"
    assert set(found["train"]) == {"train"}
    # The end of the training text is for validation if there is no validation text.
    whole = texts["train"] + ([] if case.written["val"] else texts["val"])
    assert marks(["".join(whole)])["train"] == case.written["train"]
    for split in ("val", "test"):
        if case.written[split]:
            assert found[split] == {split: case.written[split]}
    check_usage(report())


@pytest.mark.parametrize("seed", range(FOLDERS))
def test_folder(seed: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    check_folder(seed, tmp_path, lambda: capsys.readouterr().err)


@pytest.mark.parametrize("seed", FITS)
def test_fit(seed: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`train.py` itself trains, or prints one line and exits with code 2."""
    case = make(seed, tmp_path)
    folder = next(path for path in tmp_path.iterdir() if path.is_dir())
    data = case.build()
    options = {"batch_size": 4, "context": 16} if isinstance(data, TextFiles) else {}
    model = ["--model", "GPT"] if isinstance(data, TextFiles) else ["--model", "Transformer"]
    place = "folder" if isinstance(data, ParallelFiles) else "path"
    sides = ["--data.source", "de", "--data.target", "en"] if place == "folder" else []
    argv = ["fit", *model, "--model.layers", "1", "--model.width", "16", "--model.heads", "2"]
    argv += ["--data", type(data).__name__, f"--data.{place}", str(folder), *sides]
    argv += [word for name, value in options.items() for word in (f"--data.{name}", str(value))]
    argv += ["--data.root", str(tmp_path / "root"), "--trainer.max_steps", "1"]
    argv += ["--trainer.accelerator", "cpu", "--run_dir", str(tmp_path / "run")]
    if isinstance(data, TextFiles):
        argv += ["--model.context", "16"]
    code = train.main(argv)
    lines = capsys.readouterr().err.splitlines()
    assert code == (0 if case.trains else 2), lines
    if code:
        assert lines[-1].startswith("error: ")
        assert not any("Traceback" in line for line in lines)


@pytest.mark.parametrize("seed", range(20))
def test_table(seed: int, tmp_path: Path) -> None:
    check_table(seed, tmp_path)


def check_table(seed: int, home: Path) -> None:
    """A table of random captions is read as it was written; a damaged one is refused by line."""
    draw, path = random.Random(seed), home / "captions.csv"
    rows = [
        (f"{i}.png", draw.choice(['a "big" dog', "one, two", "水 を", "größe", "x"]))
        for i in range(draw.randint(1, 30))
    ]
    end = draw.choice(["\n", "\r\n", "\r"])
    lines = ["file,caption"] + [
        f"{file}," + ('"' + text.replace('"', '""') + '"' if "," in text or '"' in text else text)
        for file, text in rows
    ]
    faults = [b"a.png,one, two", b"a.png", b'a.png,"open', b'a.png,"b" c', b"a,\0", b"a,\xff", b""]
    fault = draw.choice([None, *faults])
    raw = [line.encode() for line in lines]
    number = draw.randrange(1, len(raw))
    if fault is not None:
        raw.insert(number, fault)
    path.write_bytes(draw.choice([b"", b"\xef\xbb\xbf"]) + end.encode().join(raw) + end.encode())
    if fault is None:
        table = read_table(path, ("file", "caption"))
        assert [(row["file"], row["caption"]) for row in table] == rows
    else:
        with pytest.raises(UserError, match=rf"captions.csv: line {number + 1} ") as caught:
            read_table(path, ("file", "caption"))
        assert "\n" not in str(caught.value)


def test_links_out_of_the_folder(tmp_path: Path) -> None:
    """Linked folders are read once; a file that two splits share is refused."""
    writer = Writer(random.Random(0), "text")
    writer.write(tmp_path / "elsewhere", "book", "train")
    (tmp_path / "corpus").mkdir()
    os.symlink(tmp_path / "elsewhere", tmp_path / "corpus/one")
    os.symlink(tmp_path / "elsewhere", tmp_path / "corpus/two")
    data = TextFiles(str(tmp_path / "corpus"), tokenizer="byte", root=str(tmp_path / "data"))
    found = texts_of(data)
    assert (marks(found["train"]) + marks(found["val"]))["train"] == writer.written["train"]
    os.rename(tmp_path / "corpus/one", tmp_path / "corpus/train")
    os.rename(tmp_path / "corpus/two", tmp_path / "corpus/test")
    again = TextFiles(str(tmp_path / "corpus"), tokenizer="byte", root=str(tmp_path / "data"))
    with pytest.raises(UserError, match="are the same file, in the train and the test split"):
        again.prepare_data()
