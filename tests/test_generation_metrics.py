"""Metrics of sets of images, compared with independent implementations and expected changes."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import Tensor
from torchvision.utils import save_image

import evaluate
from callbacks import real_features as cached
from callbacks.real_features import corpus_classifier, corpus_extractor, real_features
from datamodules.images.openmoji import OpenMoji
from metrics.classifier import Classifier, shrink, train_classifier, weights_hash
from metrics.distances import (
    density_coverage,
    frechet_distance,
    gaussian,
    inception_score,
    kernel_distance,
    precision_recall,
)
from metrics.features import ClassifierFeatures, FeatureSet, InceptionFeatures, to_bytes
from metrics.modes import classes_covered
from metrics.parzen import nearest_neighbour_error, parzen, parzen_log_likelihood


def clouds(n: int = 400, m: int = 300, dims: int = 16) -> tuple[Tensor, Tensor]:
    """Two sets of correlated features with slightly different distributions."""
    mix = torch.randn(dims, dims)
    return torch.randn(n, dims) @ mix, torch.randn(m, dims) @ mix * 1.2 + 0.5


@pytest.mark.parametrize("n", [400, 10])  # with 10 the covariance is singular
def test_fid_equals_scipy(n: int) -> None:
    real, fake = clouds(n, n + 5)
    a, b = real.double().numpy(), fake.double().numpy()
    root = scipy.linalg.sqrtm(np.cov(a.T) @ np.cov(b.T)).real
    wanted = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(np.cov(a.T) + np.cov(b.T) - 2 * root)
    assert frechet_distance(gaussian(real), gaussian(fake)) == pytest.approx(wanted, rel=1e-6)


def test_kid_equals_the_sum_over_pairs() -> None:
    real, fake = clouds(40, 30)

    def kernel(x: np.ndarray, y: np.ndarray) -> float:
        return float((x @ y / len(x) + 1) ** 3)

    a, b = real.double().numpy(), fake.double().numpy()
    within = [
        np.mean([kernel(x, y) for i, x in enumerate(c) for j, y in enumerate(c) if i != j])
        for c in (a, b)
    ]
    wanted = sum(within) - 2 * np.mean([kernel(x, y) for x in a for y in b])
    assert kernel_distance(real, fake) == pytest.approx(wanted, rel=1e-9)


def test_neighbourhoods_equal_loops() -> None:
    """Precision, recall, density and coverage equal their definitions, computed point by point."""
    real, fake = (cloud.double() for cloud in clouds(60, 50, 4))

    def distance(x: Tensor, y: Tensor) -> float:
        return float((x - y).norm())

    def reach(cloud: Tensor, k: int) -> list[float]:
        return [sorted(distance(x, y) for y in cloud)[k] for x in cloud]

    def share(points: Tensor, cloud: Tensor) -> float:
        ball = reach(cloud, 3)
        return float(
            np.mean([any(distance(p, c) <= r for c, r in zip(cloud, ball)) for p in points])
        )

    assert precision_recall(real, fake) == pytest.approx((share(fake, real), share(real, fake)))
    inside = [[distance(f, c) <= r for f in fake] for c, r in zip(real, reach(real, 5))]
    assert density_coverage(real, fake) == pytest.approx(
        (np.sum(inside) / 5 / 50, np.mean([any(row) for row in inside]))
    )


def test_inception_score_bounds() -> None:
    """The score is 1 for equal predictions and K for certain predictions of K balanced classes."""
    assert inception_score(torch.zeros(100, 7)) == pytest.approx(1)
    assert inception_score(100 * torch.eye(5).repeat(20, 1)) == pytest.approx(5)


def figures(real: Tensor, fake: Tensor) -> dict[str, float]:
    precision, recall = precision_recall(real, fake)
    density, coverage = density_coverage(real, fake)
    distances = {
        "fid": frechet_distance(gaussian(real), gaussian(fake)),
        "kid": kernel_distance(real, fake),
    }
    return {
        **distances,
        "precision": precision,
        "recall": recall,
        "density": density,
        "coverage": coverage,
    }


def test_every_distance_moves_as_it_must() -> None:
    """Equal sets, new samples of the same distribution, and three kinds of bad generators."""
    real, unseen = torch.randn(600, 8), torch.randn(600, 8)
    same = figures(real, real)
    assert same["fid"] == pytest.approx(0, abs=1e-6)
    assert (same["precision"], same["recall"], same["coverage"]) == (1, 1, 1)
    fresh = figures(real, unseen)
    assert fresh["kid"] == pytest.approx(0, abs=0.05)  # unbiased, unlike FID
    assert fresh["fid"] > 0.05
    assert min(fresh["precision"], fresh["recall"], fresh["coverage"]) > 0.75

    collapsed = figures(real, 0.05 * torch.randn(600, 8))
    assert collapsed["precision"] > 0.95
    assert collapsed["recall"] < 0.05
    assert collapsed["coverage"] < 0.3
    assert collapsed["fid"] > 10 * fresh["fid"]
    assert collapsed["kid"] > 0.1

    noisy = figures(real, 3 * torch.randn(600, 8))
    assert noisy["precision"] < 0.3
    assert noisy["recall"] > 0.9
    assert noisy["density"] < 0.3

    memorised = figures(real, real[:100].repeat(6, 1))
    assert memorised["precision"] == 1
    assert memorised["recall"] < 0.3, "copies span no neighbourhood"
    assert memorised["coverage"] > 2 * memorised["recall"], (
        "coverage does not detect copies; `novelty` in health.csv does"
    )
    assert memorised["fid"] < collapsed["fid"] / 10, "FID does not detect copies either"


def test_order_changes_nothing() -> None:
    real, fake = clouds()
    shuffled = figures(real[torch.randperm(len(real))], fake[torch.randperm(len(fake))])
    assert shuffled == pytest.approx(figures(real, fake), rel=1e-9)


@pytest.mark.parametrize("size", [1, 3])
def test_batches_change_nothing(size: int) -> None:
    torch.manual_seed(1)
    extractor, images = (
        ClassifierFeatures(Classifier(3, 4)),
        torch.randint(0, 256, (40, 3, 16, 16), dtype=torch.uint8),
    )
    whole, parts = FeatureSet(extractor), FeatureSet(extractor)
    whole.update(images)
    for part in images.split(size):
        parts.update(part)
    other = torch.randn(50, 128)
    one, two = (figures(other, measured.compute()[0]) for measured in (whole, parts))
    assert two == pytest.approx(one, rel=1e-5)


def test_classes_covered() -> None:
    real = torch.arange(4).repeat(25)
    assert classes_covered(real, real, 5) == (4, pytest.approx(1))
    assert classes_covered(torch.zeros(100, dtype=torch.int64), real, 5) == (1, 0.0)


def test_bytes_come_back() -> None:
    images = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    assert torch.equal(to_bytes((images.float() / 255).mul_(2).sub_(1)), images)


# Parzen window and nearest neighbour


def test_parzen_equals_the_density() -> None:
    samples, x = torch.rand(30, 5), torch.rand(7, 5)
    kernel = (
        torch.distributions.Normal(samples[None].double(), 0.3).log_prob(x[:, None].double()).sum(2)
    )
    wanted = kernel.exp().mean(1).log()
    torch.testing.assert_close(
        parzen_log_likelihood(samples, x, 0.3).double(), wanted, atol=1e-4, rtol=1e-5
    )


def test_parzen_chooses_its_width_on_validation_pictures() -> None:
    """For a deviation of 0.2 in 20 dimensions, neither very narrow nor very wide kernels win."""
    samples, val, test = (0.5 + 0.2 * torch.randn(n, 20) for n in (2000, 100, 300))
    mean, error, sigma = parzen(samples, val, test)
    assert 0.1 < sigma < 0.3
    assert mean == pytest.approx(parzen_log_likelihood(samples, test, sigma).mean().item())
    assert error == pytest.approx(
        parzen_log_likelihood(samples, test, sigma).std().item() / 300**0.5
    )
    assert parzen(samples[:1].repeat(2000, 1), val, test)[0] < mean - 3, (
        "a collapsed generator scores worse"
    )


def test_nearest_neighbour_error() -> None:
    pool = torch.tensor([0, 100, 200], dtype=torch.uint8).view(3, 1, 1, 1)
    test = torch.tensor([10, 90, 240, 20], dtype=torch.uint8).view(4, 1, 1, 1)
    assert (
        nearest_neighbour_error(pool, torch.tensor([0, 1, 2]), test, torch.tensor([0, 1, 2, 2]))
        == 0.25
    )


# Inception with random weights, because the published weights are a download


@pytest.fixture(scope="module")
def inception(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """File of random weights in torch-fidelity's format, scaled to keep activations stable."""
    import hashlib

    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    torch.manual_seed(0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "torch_fidelity.feature_extractor_inceptionv3.load_state_dict_from_url",
            lambda *a, **k: {},
        )
        patch.setattr(FeatureExtractorInceptionV3, "load_state_dict", lambda self, state: None)
        network = FeatureExtractorInceptionV3("inception-v3-compat", ["2048", "logits_unbiased"])
    for part in network.modules():
        if isinstance(part, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(part.weight)
    path = tmp_path_factory.mktemp("weights") / "random.pth"
    torch.save(network.state_dict(), path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:8]
    return path.rename(path.with_name(f"{digest}.pth"))


def test_fid_on_inception_equals_torch_fidelity(inception: Path, tmp_path: Path) -> None:
    """The value equals torch-fidelity's, computed from PNG files with the same network."""
    from torch_fidelity import calculate_metrics

    extractor = InceptionFeatures(inception, digest=inception.stem)
    means = {}
    for name, shift in (("real", 0), ("fake", 40)):
        images = (torch.randint(0, 200, (6, 3, 24, 24)) + shift).byte()
        (tmp_path / name).mkdir()
        for i, image in enumerate(images):
            save_image(image.float() / 255, tmp_path / name / f"{i:02d}.png")
        measured = FeatureSet(extractor)
        measured.update(images)
        means[name] = measured.compute()
    theirs = calculate_metrics(
        input1=str(tmp_path / "fake"), input2=str(tmp_path / "real"), fid=True, isc=True,
        isc_splits=3, samples_shuffle=False, batch_size=6, cuda=False, verbose=False, cache=False,
        save_cpu_ram=True, feature_extractor_weights_path=str(inception),
    )  # fmt: skip
    ours = frechet_distance(gaussian(means["real"][0]), gaussian(means["fake"][0]))
    assert ours == pytest.approx(theirs["frechet_inception_distance"], rel=1e-4)
    assert inception_score(means["fake"][1], 3) == pytest.approx(
        theirs["inception_score_mean"], rel=1e-4
    )


def test_other_inception_weights_are_refused(inception: Path, capsys: Any) -> None:
    from common.errors import UserError

    with pytest.raises(UserError, match="SHA-256 starts with"):
        InceptionFeatures(inception)
    with pytest.raises(UserError, match=r"download http.* to .*missing.pth"):
        InceptionFeatures(inception.with_name("missing.pth"))


# With a corpus


@pytest.fixture
def emoji(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> OpenMoji:
    """A hundred emoji at 16 pixels with a cache of the test's own."""
    data = OpenMoji(size=16, max_samples=100)
    data.prepare_data()
    for split in ("train", "val"):
        data.split(split)
    data.root = tmp_path
    return data


def test_real_pictures_are_measured_once(emoji: OpenMoji, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second call reads classifier and features from the cache; other data has its own."""
    first = real_features(emoji, "val", corpus_extractor(emoji, "classifier"))
    monkeypatch.setattr(cached, "train_classifier", None)
    monkeypatch.setattr(FeatureSet, "update", None)
    monkeypatch.setattr(cached, "gaussian", None)
    again = real_features(emoji, "val", corpus_extractor(emoji, "classifier"))
    assert torch.equal(first.features, again.features)
    assert torch.equal(first.moments.covariance, again.moments.covariance)
    assert len(again.features) == len(emoji.split("val"))
    with pytest.raises(TypeError):  # not in the cache
        real_features(emoji, "train", corpus_extractor(emoji, "classifier"))
    emoji.split("train").images[0] += 1  # type: ignore[attr-defined]
    with pytest.raises(TypeError):
        corpus_classifier(emoji)


def test_classifier_is_the_same_each_time(emoji: OpenMoji) -> None:
    one = corpus_classifier(emoji)
    for path in (emoji.root / "metrics").iterdir():
        path.unlink()
    with torch.inference_mode():  # as in callbacks
        assert weights_hash(corpus_classifier(emoji)) == weights_hash(one)


def test_large_images_are_classified_at_the_size_of_training() -> None:
    """Resizing them first, as GanHealth does, changes nothing."""
    images = torch.randint(0, 256, (6, 3, 128, 128), dtype=torch.uint8)
    assert shrink(images).shape == (6, 3, 64, 64)
    assert shrink(images).dtype == torch.uint8
    model, floats = Classifier(3, 2), images.float() / 127.5 - 1
    assert torch.equal(model(floats), model(shrink(floats)))
    features = ClassifierFeatures(model)
    assert torch.equal(features(images)[1], model(floats))


def test_training_the_classifier_leaves_the_generator_alone() -> None:
    state = torch.get_rng_state()
    train_classifier(torch.zeros(8, 1, 8, 8, dtype=torch.uint8), torch.arange(8) % 2, 2)
    assert torch.equal(torch.get_rng_state(), state)


def lines(capsys: Any) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_evaluate_scores_a_folder(tmp_path: Path, capsys: Any) -> None:
    """Real images have distance 0 from themselves; each metric is printed with its signature."""
    config = tmp_path / "data.yaml"
    config.write_text(
        "data:\n  class_path: datamodules.images.openmoji.OpenMoji\n"
        "  init_args: {size: 16, max_samples: 60}\n",
        encoding="utf-8",
    )
    data = OpenMoji(size=16, max_samples=60)
    data.prepare_data()
    for i, image in enumerate(data.split("train").images):  # type: ignore[attr-defined]
        save_image(image.float() / 255, tmp_path / f"{i:03d}.png")
    argv = [str(tmp_path), "--against", str(config), "--split", "train", "--batch_size", "7"]
    assert evaluate.main(argv) == 0
    found = {line["metric"]: line for line in lines(capsys)}
    assert list(found) == [
        f"classifier-{name}"
        for name in ("fid", "kid", "precision", "recall", "density", "coverage")
    ]
    assert found["classifier-fid"]["value"] == pytest.approx(0, abs=1e-5)
    assert found["classifier-recall"]["value"] == 1
    assert "|n_real=60|n_fake=60|size=16" in found["classifier-fid"]["signature"]
