"""Scores equal the definitions of their papers, and the classifier of measure 1 has its stated accuracy."""

import math
from pathlib import Path

import pytest
import torch

from ganctl.training.config.schema import DataSettings
from ganctl.training.data.base import ImageSet, Split, fixed_permutation
from ganctl.training.data.datasets import load_split
from ganctl.training.errors import DataError
from ganctl.training.evaluation.aggregate import mean_and_deviation
from ganctl.training.evaluation.classifier import load_classifier, read_classifier
from ganctl.training.evaluation.evaluator import Evaluator
from ganctl.training.evaluation.measure import MEASURE
from ganctl.training.evaluation.metrics import (
    Gaussian,
    NeighborRadii,
    class_balance,
    frechet_distance,
    inception_score,
    kernel_distance,
    manifold_scores,
)
from ganctl.training.evaluation.network import MNIST_CLASSIFIER, classify
from ganctl.training.evaluation.scorer import load_scorer
from ganctl.training.evaluation.train_classifier import train_classifier
from tests.unit.training.conftest import RegisterData
from tests.unit.training.digits import digits_scorer

MNIST = DataSettings()


def test_the_included_classifier_is_small_and_has_its_stated_test_accuracy() -> None:
    test = load_split(MNIST, "test")
    accuracy = (classify(load_classifier(MNIST), test.images).predictions == test.labels).float().mean().item()
    assert MNIST_CLASSIFIER.stat().st_size <= 2_000_000
    assert accuracy >= 0.993
    assert load_classifier(MNIST).metadata["test_accuracy"] == f"{accuracy:.4f}"


@pytest.mark.soak
def test_the_training_script_of_the_classifier_exceeds_80_percent_accuracy(monkeypatch: pytest.MonkeyPatch) -> None:
    # 100 steps instead of thousands
    monkeypatch.setattr("ganctl.training.evaluation.train_classifier.MAX_EMA_DECAY", 0.9)
    monkeypatch.setattr("ganctl.training.evaluation.train_classifier.MIN_STEPS", 100)
    data = load_split(MNIST, "val")
    classifier = train_classifier(data, lambda text: None, epochs=3)
    correct = classify(classifier, data.images[:500]).predictions == data.labels[:500]
    assert correct.float().mean() > 0.8


def test_the_error_for_damaged_classifier_weights_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "c.safetensors"
    path.write_bytes(MNIST_CLASSIFIER.read_bytes()[:1000])
    with pytest.raises(DataError, match=r"c\.safetensors"):
        read_classifier(path)


def test_loading_the_classifier_uses_no_random_numbers() -> None:
    before = torch.get_rng_state()
    load_classifier(MNIST)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_frechet_distance_of_known_gaussians_equals_the_closed_form() -> None:
    covariance = torch.diag(torch.tensor([4.0, 9.0], dtype=torch.float64))
    a = Gaussian(torch.zeros(2, dtype=torch.float64), covariance)
    b = Gaussian(torch.tensor([3.0, 4.0], dtype=torch.float64), torch.eye(2, dtype=torch.float64))
    assert frechet_distance(a, b) == pytest.approx(25 + (2 - 1) ** 2 + (3 - 1) ** 2)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-9)


def test_the_frechet_distance_agrees_with_a_general_matrix_square_root() -> None:
    torch.manual_seed(0)
    first, second = torch.randn(500, 6) @ torch.randn(6, 6), torch.randn(500, 6) + 1
    a, b = Gaussian.fit(first), Gaussian.fit(second)
    values, vectors = torch.linalg.eig(a.covariance @ b.covariance)
    root = (vectors @ torch.diag(values.sqrt()) @ torch.linalg.inv(vectors)).real
    expected = (a.mean - b.mean).square().sum() + (a.covariance + b.covariance - 2 * root).trace()
    assert frechet_distance(a, b) == pytest.approx(expected.item(), rel=1e-9)


def brute_force(real: torch.Tensor, fake: torch.Tensor) -> dict[str, float]:
    """Computes the definitions of the papers with loops over single samples."""

    def radius(points: torch.Tensor, i: int, k: int) -> float:
        return sorted(math.dist(points[i], other) for j, other in enumerate(points) if j != i)[k - 1]

    n, m = len(real), len(fake)
    real3, real5 = [radius(real, i, 3) for i in range(n)], [radius(real, i, 5) for i in range(n)]
    fake3 = [radius(fake, j, 3) for j in range(m)]
    distances = [[math.dist(real[i], fake[j]) for j in range(m)] for i in range(n)]
    return {
        "precision": sum(any(distances[i][j] <= real3[i] for i in range(n)) for j in range(m)) / m,
        "recall": sum(any(distances[i][j] <= fake3[j] for j in range(m)) for i in range(n)) / n,
        "density": sum(distances[i][j] <= real5[i] for i in range(n) for j in range(m)) / (5 * m),
        "coverage": sum(min(distances[i]) <= real5[i] for i in range(n)) / n,
    }


def test_precision_recall_density_and_coverage_equal_the_definitions_of_their_papers() -> None:
    rng = torch.Generator().manual_seed(0)
    real, fake = torch.randn(60, 3, generator=rng), torch.randn(40, 3, generator=rng) * 1.3 + 0.4
    scores = manifold_scores(real, NeighborRadii.of(real), fake)
    assert scores == pytest.approx(brute_force(real, fake), abs=1e-6)


def kid_of_all_pairs(generated: torch.Tensor, real: torch.Tensor) -> float:
    """The unbiased estimate of Bińkowski et al. 2018 (eq. 4, with the kernel of section 4), with loops over pairs."""

    def kernel(a: torch.Tensor, b: torch.Tensor) -> float:
        return float((sum(x * y for x, y in zip(a.tolist(), b.tolist(), strict=True)) / len(a) + 1) ** 3)

    m, n = len(generated), len(real)
    within_generated = sum(kernel(generated[i], generated[j]) for i in range(m) for j in range(m) if i != j)
    within_real = sum(kernel(real[i], real[j]) for i in range(n) for j in range(n) if i != j)
    between = sum(kernel(a, b) for a in generated for b in real)
    return within_generated / (m * (m - 1)) + within_real / (n * (n - 1)) - 2 * between / (m * n)


@pytest.mark.parametrize(("m", "n"), [(40, 31), (5, 4), (23, 40)])
def test_kid_equals_the_definition_of_its_paper(m: int, n: int) -> None:
    rng = torch.Generator().manual_seed(m)
    generated, real = torch.randn(m, 6, generator=rng) * 1.2 + 0.3, torch.randn(n, 6, generator=rng)
    kid, error = kernel_distance(generated, real)
    assert kid == pytest.approx(kid_of_all_pairs(generated, real), rel=1e-5)
    assert 0 < error < math.inf


@pytest.mark.parametrize(("shift", "tolerance"), [(0.0, 0.5), (0.5, 0.25)], ids=["equal", "shifted"])
def test_the_mean_of_kid_is_0_for_equal_distributions_and_its_standard_error_is_the_spread_of_its_values(
    shift: float, tolerance: float
) -> None:
    rng = torch.Generator().manual_seed(0)
    draws = [
        kernel_distance(torch.randn(80, 8, generator=rng) + shift, torch.randn(100, 8, generator=rng))
        for _ in range(120)
    ]
    values, errors = torch.tensor(draws).T
    error_of_mean = values.std().item() / math.sqrt(len(draws))
    if shift:
        assert values.min() > 0
    else:
        assert abs(values.mean()) < 3 * error_of_mean
        assert values.min() < 0, "it is unbiased, so that half of the values are below 0"
    assert errors.mean().item() == pytest.approx(values.std().item(), rel=tolerance)


@pytest.mark.parametrize("order", ["classes in turn", "one class after another"])
def test_the_order_of_the_classes_changes_neither_kid_nor_its_standard_error(order: str) -> None:
    rng = torch.Generator().manual_seed(0)
    labels = torch.arange(200) % 10
    centers = 2 * torch.randn(10, 8, generator=rng)
    real, generated = (centers[labels] + 0.5 * torch.randn(200, 8, generator=rng) for _ in range(2))
    generated, real = generated + 0.3, real[torch.randperm(200, generator=rng)]
    kid, error = kernel_distance(generated[torch.randperm(200, generator=rng)], real)
    rows = torch.arange(200) if order == "classes in turn" else labels.argsort(stable=True)
    other_kid, other_error = kernel_distance(generated[rows], real)
    assert other_kid == pytest.approx(kid, rel=1e-9)
    assert 0.5 * error < other_error < 2 * error


def test_class_balance_is_0_for_one_class_and_1_for_equal_frequencies() -> None:
    assert class_balance(torch.arange(1000) % 10, 10) == pytest.approx(1)
    assert class_balance(torch.full((1000,), 7), 10) == 0
    assert class_balance(torch.arange(1000) % 5, 10) == pytest.approx(math.log(5) / math.log(10))
    assert class_balance(torch.zeros(5, dtype=torch.int64), 1) == 1


def test_the_inception_score_ranges_from_1_to_the_number_of_classes() -> None:
    certain = torch.eye(10).repeat(20, 1) * 100
    assert inception_score(certain) == pytest.approx(10)
    assert inception_score(certain[:1].repeat(200, 1)) == pytest.approx(1)
    assert inception_score(torch.zeros(200, 10)) == pytest.approx(1)


def test_several_draws_are_summarized_by_mean_and_sample_standard_deviation() -> None:
    draws = [{"fd": fd, "label": None, "by": {"a": fd / 2}, "flag": fd == 3, "n": 9} for fd in (1.0, 2.0, 3.0)]
    mean, deviation = mean_and_deviation(draws)
    assert mean == {"fd": 2.0, "label": None, "by": {"a": 1.0}, "flag": True, "n": 9}
    assert deviation == {"fd": 1.0, "by": {"a": 0.5}}


N = 300


@pytest.fixture(scope="module")
def evaluator() -> Evaluator:
    return Evaluator(MNIST, "test", num_images=N, scorer=digits_scorer())


def test_real_images_score_at_the_floor_and_noise_far_above_it(evaluator: Evaluator) -> None:
    train = load_split(MNIST, "train")
    chosen = fixed_permutation(len(train))[-N:]  # the floor uses the first images of this order
    real = evaluator.score_images(train.images[chosen], train.labels[chosen])
    assert real["fd"] < 1.5 * real["fd_floor"]
    assert real["fd_ratio"] == real["fd"] / real["fd_floor"]
    assert abs(real["kid"]) < 3 * real["kid_se"]
    assert real["label_accuracy"] > 0.85
    assert real["precision"] > 0.7
    assert real["recall"] > 0.7
    assert real["coverage"] > 0.9
    noise = torch.randint(256, (N, 1, 28, 28), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    scores = evaluator.score_images(noise, torch.arange(N) % 10)
    assert scores["fd"] > 50 * scores["fd_floor"]
    assert scores["kid"] > 20
    assert scores["kid"] > 20 * scores["kid_se"]
    assert scores["label_accuracy"] < 0.3
    assert scores["coverage"] < 0.1


def test_images_are_generated_with_the_labels_of_the_real_images(evaluator: Evaluator) -> None:
    class Blank:
        latent_dim, conditional, class_names = 2, True, tuple("0123456789")

        def generate(self, z: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
            return torch.zeros(len(z), 1, 28, 28, dtype=torch.uint8)

    test = load_split(MNIST, "test")
    labels = evaluator.generate(Blank())[1]
    assert labels is not None
    assert labels.tolist() == test.labels[fixed_permutation(len(test))[:N]].tolist()


def test_images_without_labels_have_no_label_scores(evaluator: Evaluator) -> None:
    images = load_split(MNIST, "val").images[:100]
    scores = evaluator.score_images(images, None, full=False)
    assert scores["label_accuracy"] is None
    assert scores["class_accuracy"] is None


def test_an_evaluation_during_training_computes_only_the_scores_that_training_uses(evaluator: Evaluator) -> None:
    val = load_split(MNIST, "val")
    scores = evaluator.score_images(val.images[:100], val.labels[:100], full=False)
    names = {"fd", "fd_floor", "fd_ratio", "kid", "kid_se", "label_accuracy", "class_accuracy", "num_images", "measure"}
    assert scores.keys() == names | {"scorer_accuracy", "scorer_weak", "scorer_fault", "no_summary"}
    assert scores["measure"] == MEASURE


def test_class_balance_and_inception_score_are_also_reported_for_the_real_images(evaluator: Evaluator) -> None:
    val = load_split(MNIST, "val")
    scores = evaluator.score_images(val.images[:N], None)
    assert 0.97 < scores["class_balance_real"] < 1
    assert 7.5 < scores["inception_score_real"] < 10
    assert scores["inception_score"] == pytest.approx(scores["inception_score_real"], rel=0.1)
    ones = evaluator.score_images(val.images[val.labels == 1][:150], None)
    assert ones["class_balance"] < 0.1
    assert ones["inception_score"] < 1.3


@pytest.fixture
def odd_data(monkeypatch: pytest.MonkeyPatch, register_data: RegisterData) -> DataSettings:
    """Registers a custom data set: 30 × 26 pixels, and only four test images."""
    monkeypatch.setattr("ganctl.training.evaluation.train_classifier.MIN_STEPS", 5)

    def odd(settings: DataSettings, split: str) -> ImageSet:
        n = {"train": 40, "val": 38, "test": 4}[split]
        rng = torch.Generator().manual_seed(n)
        return ImageSet(
            torch.randint(256, (n, 3, 30, 26), generator=rng, dtype=torch.uint8), torch.arange(n) % 2, ("a", "b")
        )

    register_data("odd", odd)
    return DataSettings(source="odd")


@pytest.mark.parametrize(("measure", "folder"), [(1, "classifiers"), (2, "label-classifiers")])
def test_the_classifier_of_a_custom_data_set_is_cached(
    measure: int, folder: str, odd_data: DataSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    messages: list[str] = []

    def evaluator() -> Evaluator:
        scorer = load_scorer(odd_data, announce=messages.append, measure=measure)
        assert scorer.measure == measure
        return Evaluator(odd_data, "val", num_images=100, scorer=scorer)

    first = evaluator()
    (cached,) = tmp_path.rglob("*/*.safetensors")
    assert cached.parent.name == folder
    assert str(cached) in messages[0]
    images = load_split(odd_data, "train").images
    scores = first.score_images(images, None)
    messages.clear()
    second = evaluator()
    assert messages == []
    assert second.score_images(images, None) == pytest.approx(scores)
    assert second.real.floor == pytest.approx(first.real.floor, rel=1e-3)


def test_a_damaged_classifier_in_the_cache_is_reported_and_trained_again(
    odd_data: DataSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    load_classifier(odd_data)
    (cached,) = tmp_path.rglob("classifiers/*.safetensors")
    flipped = bytearray(cached.read_bytes())
    flipped[-3] ^= 1
    for content in (bytes(flipped), b"", flipped[:1000]):
        cached.write_bytes(content)
        messages: list[str] = []
        load_classifier(odd_data, messages.append)
        assert str(cached) in messages[0]
        assert "damaged" in messages[0]
        assert str(cached) in messages[1], "the message about the training"
        messages.clear()
        assert load_classifier(odd_data, messages.append).metadata.get("test_accuracy")
        assert messages == [], "the new file is intact"


def test_a_classifier_that_cannot_be_cached_is_used_and_reported(
    odd_data: DataSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cache").write_text("a file where a folder should be")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    messages: list[str] = []
    assert Evaluator(odd_data, "val", num_images=100, announce=messages.append).real.floor > 0
    assert str(tmp_path / "cache") in messages[-1]
    assert "Not a directory" in messages[-1]


def test_the_floor_uses_as_many_real_images_as_the_evaluation_in_each_split(
    odd_data: DataSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    sizes: list[int] = []
    fit = Gaussian.fit

    def spy(features: torch.Tensor) -> Gaussian:
        sizes.append(len(features))
        return fit(features)

    monkeypatch.setattr(Gaussian, "fit", spy)
    expected: dict[Split, int] = {"train": 38, "val": 38, "test": 4}
    for split, n in expected.items():
        sizes.clear()
        assert Evaluator(odd_data, split, num_images=100).num_images == n
        assert sizes == [n, n]


def test_equal_images_in_two_splits_are_an_error_that_names_data_set_and_splits(
    odd_data: DataSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, register_data: RegisterData
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    same = load_split(odd_data, "val")
    register_data("odd", lambda settings, split: same)
    with pytest.raises(DataError, match=r"data\.source = 'odd': .*\bval and train\b"):
        Evaluator(odd_data, "val", num_images=100)
