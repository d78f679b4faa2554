"""Score pictures: `python evaluate.py CKPT|FOLDER [--against CONFIG] [--metrics fid,kid,...]
[--seed 0]`.

CKPT is a checkpoint of any system that draws pictures; its average weights and its live ones are
scored side by side. FOLDER holds pictures that anything made. One generation and one pass through
the feature extractor serve all metrics; the real pictures' features are computed once and kept
beside the corpora. Each value is a line of JSON on stdout, with its signature. Systems that
translate are given the split's pictures and scored per direction. Metrics: fid, kid, precision,
recall, density, coverage, is (Inception only), parzen, nn (conditional systems only), and l1, psnr,
ssim (translations whose answers are known). Systems that draw from captions are also asked by
`--ranker CKPT`, a CLIP, for ranking: how often a picture's caption fits it best among 32, beside
the same of the real pictures and of shuffled captions.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cli.data import data_module
from cli.options import OptionParser
from common.errors import UserError, run
from sample import use_device

DISTANCES = ("fid", "kid", "precision", "recall", "density", "coverage")
FIDELITIES = ("l1", "psnr", "ssim")
IN_PIXELS = ("parzen", "nn", "ranking", *FIDELITIES)
METRICS = (*DISTANCES, "is", *IN_PIXELS)


def parse(argv: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = OptionParser(prog="evaluate.py", description=__doc__, allow_abbrev=False)
    parser.add_argument("source", type=Path, help="checkpoint, or folder of pictures")
    parser.add_argument(
        "--against",
        type=Path,
        help="configuration of the real data; the run's config.yaml unless given",
    )
    parser.add_argument(
        "--split",
        default="test",
        choices=("train", "val", "test"),
        help="real pictures (default: test)",
    )
    parser.add_argument(
        "--metrics",
        default=",".join(DISTANCES),
        help=f"some of {','.join(METRICS)} (default: the first six)",
    )
    parser.add_argument(
        "--num", type=int, help="pictures to generate; as many as there are real ones unless given"
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="seed of the first picture (default: 0)"
    )
    parser.add_argument(
        "--extractor",
        default="classifier",
        choices=("classifier", "inception"),
        help="(default: classifier)",
    )
    parser.add_argument(
        "--ranker", type=Path, metavar="CKPT", help="CLIP that judges by captions, for ranking"
    )
    parser.add_argument(
        "--domain",
        default="b",
        choices=("a", "b"),
        help="of data that has two, which a folder is scored against",
    )
    parser.add_argument(
        "--batch_size", type=int, default=250, help="pictures at a time (default: 250)"
    )
    parser.add_argument(
        "--device", default="cpu", help="where to compute, such as cuda (default: cpu)"
    )
    return check(parser.parse_args(argv))


def check(options: argparse.Namespace) -> argparse.Namespace:
    """Refuse what cannot be scored, before anything is read.

    Raises:
        UserError: naming the option and the mend.
    """
    options.metrics = options.metrics.split(",")
    unknown = [name for name in options.metrics if name not in METRICS]
    if unknown:
        raise UserError(
            f"--metrics {unknown[0]}: there is no such metric; there are {', '.join(METRICS)}"
        )
    if "is" in options.metrics and options.extractor != "inception":
        raise UserError(
            "--metrics is: the Inception Score is one only with Inception's classes: use --extractor inception"
        )
    if ("ranking" in options.metrics) != (options.ranker is not None):
        raise UserError("--metrics ranking asks a CLIP: give --ranker CKPT, and only with it")
    if options.num is not None and options.num < 10:
        raise UserError(f"--num {options.num}: give at least 10")
    if options.batch_size < 1:
        raise UserError(f"--batch_size {options.batch_size}: give at least 1")
    if not options.source.exists():
        raise UserError(
            f"{options.source}: there is no such checkpoint or folder; a run keeps its checkpoints in checkpoints/"
        )
    if options.source.is_dir() and options.against is None:
        raise UserError(f"{options.source}: a folder does not know its data: give --against CONFIG")
    if options.against is None:
        options.against = options.source.resolve().parents[1] / "config.yaml"
    return options


def drawn(
    target: Any, model: Any, options: argparse.Namespace, count: int
) -> Iterator[tuple[Any, Any]]:
    """uint8 pictures with the labels they were asked to have (or None), a batch at a time; classes
    take turns.
    """
    import torch

    from metrics.features import to_bytes

    conditional = model.hparams.get("conditional", False)
    for start in range(options.seed, options.seed + count, options.batch_size):
        seeds = list(range(start, min(start + options.batch_size, options.seed + count)))
        images = target.draw(seeds)
        if not isinstance(images, torch.Tensor):
            raise UserError(
                f"{options.source}: {type(model).__name__} draws texts, and these metrics are for pictures"
            )
        yield to_bytes(images), torch.tensor(seeds) % model.classes if conditional else None


def found(
    folder: Path, image_shape: list[int], options: argparse.Namespace, count: int | None
) -> Iterator[tuple[Any, None]]:
    """uint8 pictures of a folder in the order of their names, scaled to the data's size, a batch at
    a time.
    """
    import torch

    from datamodules.images.files import decode, image_files

    paths = [path for path in image_files(folder) if path.name != "grid.png"][:count]
    if len(paths) < 10:
        raise UserError(f"{folder}: has {len(paths)} pictures, too few to score; give at least 10")
    for start in range(0, len(paths), options.batch_size):
        chunk = paths[start : start + options.batch_size]
        yield torch.stack([decode(path, image_shape[-1], image_shape[0]) for path in chunk]), None


def score(
    batches: Iterator[tuple[Any, Any]],
    data: Any,
    options: argparse.Namespace,
    note: str,
    suffix: str = "",
    paired: bool = False,
) -> Iterator[dict[str, Any]]:
    """Value and signature of every metric that is wanted, from one pass over the pictures.

    Args:
        batches: uint8 pictures with labels or None.
        data: prepared data of the real pictures.
        options: of the command line.
        note: last part of every signature.
        suffix: of every metric's name.
        paired: whether picture i of `data` is the answer to the i-th one here.
    """
    import torch

    from callbacks.fid import corpus_extractor, pictures, real_features
    from metrics import distances, parzen
    from metrics.features import FeatureSet
    from metrics.fidelity import fidelity

    wanted, split = options.metrics, options.split
    featured, in_pixels = (
        [m for m in wanted if m not in IN_PIXELS],
        [m for m in wanted if m in IN_PIXELS],
    )
    if set(FIDELITIES) & set(wanted) and not paired:
        raise UserError(
            "--metrics l1, psnr and ssim need the answers: give the checkpoint of a translation, and data that has pairs"
        )
    measured = None
    if featured:
        extractor = corpus_extractor(data, options.extractor).to(options.device)
        measured = FeatureSet(extractor).to(options.device)
    kept, given = [], []
    for images, labels in batches:
        if measured is not None:
            measured.update(images.to(options.device))
        if in_pixels:
            kept.append(images.cpu())
            given.append(labels)

    if measured is not None:
        fake, logits = measured.compute()
        real = real_features(data, split, extractor, options.device)
        fake, clouds = fake.cpu(), f"n_real={len(real.features)}|n_fake={len(fake)}"
        base = f"extractor={extractor.name}|split={split}|{clouds}|size={data.data_spec['image_shape'][-1]}"
        values: dict[str, tuple[float, str]] = {}
        if "fid" in wanted:
            values["fid"] = (distances.frechet_distance(real.moments, distances.gaussian(fake)), "")
        if "kid" in wanted:
            values["kid"] = (distances.kernel_distance(real.features, fake), "|pairs=all")
        if {"precision", "recall"} & set(wanted):
            precision, recall = distances.precision_recall(real.features, fake)
            values |= {"precision": (precision, "|k=3"), "recall": (recall, "|k=3")}
        if {"density", "coverage"} & set(wanted):
            density, coverage = distances.density_coverage(real.features, fake)
            values |= {"density": (density, "|k=5"), "coverage": (coverage, "|k=5")}
        if "is" in wanted:
            values["is"] = (distances.inception_score(logits.cpu()), "|splits=10")
        for name in featured:
            value, extra = values[name]
            signature = f"{extractor.prefix}{name}[{base}{extra}{note}]"
            yield {
                "metric": extractor.prefix + name + suffix,
                "value": value,
                "signature": signature,
            }

    if in_pixels:
        generated = torch.cat(kept)
    if set(FIDELITIES) & set(wanted):
        truth = pictures(data, split, list(range(options.seed, options.seed + len(generated))))[0]
        for name, (value, signature) in fidelity(
            generated, truth, [name for name in FIDELITIES if name in wanted]
        ).items():
            extra = f"split={split}|n={len(truth)}{note}"
            yield {
                "metric": name + suffix,
                "value": value,
                "signature": f"{signature[:-1]}|{extra}]",
            }
    if "ranking" in wanted:
        yield from ranked(generated, data, options, note)
    if {"parzen", "nn"} & set(wanted):
        everything = [list(range(len(data.split(part)))) for part in ("val", "test")]
        test, test_labels = pictures(data, "test", everything[1])
        counts = f"n_fake={len(generated)}|n_test={len(test)}"
    if "parzen" in wanted:
        if len(everything[0]) < 1000:
            raise UserError(
                f"--metrics parzen chooses its width on 1,000 validation pictures, and there are {len(everything[0])}"
            )
        mean, error, sigma = parzen.parzen(
            generated, pictures(data, "val", everything[0][:1000])[0], test
        )
        yield {
            "metric": "parzen",
            "value": mean,
            "signature": f"parzen[{counts}|sigma={sigma:.3f}|se={error:.2g}{note}]",
        }
    if "nn" in wanted:
        if test_labels is None or given[0] is None:
            raise UserError(
                "--metrics nn compares classes: give a checkpoint of a conditional system, and data with labels"
            )
        value = 100 * parzen.nearest_neighbour_error(generated, torch.cat(given), test, test_labels)
        yield {
            "metric": "nn-error",
            "value": value,
            "signature": f"nn-error[{counts}|distance=euclidean{note}]",
        }


def ranked(
    generated: Any, data: Any, options: argparse.Namespace, note: str
) -> Iterator[dict[str, Any]]:
    """Accuracy with which a CLIP finds the captions of uint8 pictures (N, C, H, W), of the split's
    own, and by wrong captions.

    Where N is several times the split, each time is a pass of its own, with other seeds: the value
    is their mean.
    """
    import torch

    from callbacks.fid import pictures
    from metrics.classifier import weights_hash
    from metrics.retrieval import NEGATIVES, WAYS, image_keys, ranking_accuracy

    captions, ranker = data.split(options.split).captions, options.ranker
    size = min(len(captions), len(generated))
    tokens = ranker.read(captions).cpu()
    texts = ranker.features(captions).cpu()
    truth = pictures(data, options.split, list(range(len(captions))))[0]
    keys = torch.cat(
        [image_keys(part.float() / 127.5 - 1) for part in truth.split(options.batch_size)]
    )

    def accuracy(images: Any, order: list[int], shift: int = 0) -> Any:
        features = torch.cat(
            [
                ranker.features(part.float() / 127.5 - 1).cpu()
                for part in images.split(options.batch_size)
            ]
        )
        return ranking_accuracy(
            features, *(part[order].roll(shift, 0) for part in (texts, tokens, keys))
        )

    order = [(options.seed + number) % len(captions) for number in range(len(generated))]
    passes = [slice(start, start + size) for start in range(0, len(generated), size)]
    found = torch.stack([accuracy(generated[one], order[one]) for one in passes])
    wrong = torch.stack([accuracy(generated[one], order[one], size // 2) for one in passes])
    real = accuracy(truth, list(range(len(captions))))
    base = f"ways={min(WAYS, size)}|{NEGATIVES}|split={options.split}|n={size}|ranker=clip:{weights_hash(ranker)}"
    drawn = f"{base}|passes={len(passes)}|std={found.std(correction=0):.3f}{note}"
    yield {"metric": "ranking", "value": found.mean().item(), "signature": f"ranking[{drawn}]"}
    yield {
        "metric": "ranking-real",
        "value": real.item(),
        "signature": f"ranking[{base}|pictures=real]",
    }
    yield {
        "metric": "ranking-shuffled",
        "value": wrong.mean().item(),
        "signature": f"ranking[{base}|captions=shuffled{note}]",
    }


def the_ranker(data: Any, options: argparse.Namespace) -> Any:
    """The CLIP of `--ranker`.

    Raises:
        UserError: if it is none, or does not go with the data or the number of pictures.
    """
    from lightning_modules import load

    ranker = load(options.ranker)
    size = len(getattr(data.split(options.split), "captions", []))
    if not hasattr(ranker, "features"):
        raise UserError(
            f"--ranker {options.ranker}: is a {type(ranker).__name__}; give the checkpoint of a CLIP"
        )
    if not size:
        raise UserError(
            "--metrics ranking goes by captions, and this data has none: give data that has"
        )
    if options.num and options.num > size and options.num % size:
        raise UserError(f"--num {options.num}: for ranking give a multiple of the {size} captions")
    return ranker.to(options.device)


def evaluate(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """All lines of the answer."""
    from callbacks.fid import targets

    data = data_module(options.against)
    if options.source.is_dir():
        data = data.domain(options.domain) if hasattr(data, "domain") else data
        if options.ranker is not None:
            raise UserError(
                f"{options.source}: nobody knows the captions of a folder's pictures: give --ranker with a checkpoint"
            )
        folder = found(options.source, data.data_spec["image_shape"], options, options.num)
        yield from score(folder, data, options, "")
        return

    from lightning_modules import load

    model = load(options.source)
    use_device(model, options.device)
    if options.ranker is not None:
        options.ranker = the_ranker(data, options)
    for target in targets(model, data, options.split):
        most = (
            target.inputs or options.num or len(data.split(options.split))
        )  # more would only repeat the pictures
        count = min(options.num or most, most)
        averages = model.has_averaged_weights
        for averaged in (True, False) if averages else (False,):
            note = f"|seed={options.seed}" + (f"|ema={int(averaged)}" if averages else "")
            with model.averaged_weights(averaged):
                batches = drawn(target, model, options, count)
                lines = score(batches, target.data, options, note, target.suffix, target.paired)
                for line in lines:
                    yield {**line, "weights": "ema" if averaged else "live"}


def program(argv: list[str]) -> None:
    """Print the answer, a line per value as soon as it is known."""
    for line in evaluate(parse(argv)):
        print(json.dumps(line), flush=True)


def main(argv: list[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    argv = sys.argv[1:] if argv is None else argv
    if argv in ([], ["-h"], ["--help"]):
        print(__doc__)
        return 0
    return run(lambda: program(argv))


if __name__ == "__main__":
    sys.exit(main())
