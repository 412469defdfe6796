"""Several ranks under torchrun compute the same updates as one process with the whole batch."""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from functools import cache

import pytest
import torch
from safetensors.torch import load_file

from tests.integration.training.processes import ENVIRONMENT
from tests.waiting import PATIENCE

CASES = {
    "relativistic with R1 and R2": ["conv", "loss.r1=0.5", "loss.r2=0.3"],
    "non-saturating with R1": ["conv", "loss.name=non-saturating", "loss.r2=0"],
    "hinge with spectral norm": ["conv", "loss.name=hinge", "loss.r1=0", "loss.r2=0", "model.spectral_norm=true"],
    "least squares, no penalty": ["conv", "loss.name=least-squares", "loss.r1=0", "loss.r2=0"],
    "wasserstein with WGAN-GP": ["conv", "loss.name=wasserstein", "loss.r1=0", "loss.r2=0", "loss.wgan_gp=10.0"],
    "adaptive augmentation": [
        "conv",
        "augment.probability=adaptive",
        "augment.ramp=20",
        "augment.target=0.001",
        "augment.flip=true",
    ],
    "batch normalization": ["lightning-basic-gan"],
    "generator first, new fakes": ["lightning-basic-gan", "train.first_update=generator", "train.reuse_fakes=false"],
    "batch normalization in the discriminator": [
        "lightning-basic-gan",
        "model.discriminator=tests.integration.training.updates:BatchNormDiscriminator",
    ],
}
PROJECTED_CASES = {
    "pretrained features": ["residual"],
    "pretrained features with R1 and augmentation": [
        "residual",
        "loss.r1=0.1",
        "augment.probability=adaptive",
        "augment.ramp=20",
        "augment.target=0.001",
    ],
}
RANK_COUNTS = (2, pytest.param(4, marks=pytest.mark.soak))


def torchrun(ranks: int, *arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}", *arguments]
    return subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=PATIENCE, **options)  # type: ignore[call-overload, no-any-return]


Updates = Callable[..., dict[str, torch.Tensor]]


@pytest.fixture(scope="module")
def updates(tmp_path_factory: pytest.TempPathFactory) -> Updates:
    """Returns a function that computes the gradients and weights with a number of ranks."""
    folder = tmp_path_factory.mktemp("updates")

    @cache
    def compute(ranks: int, device: str = "cpu") -> dict[str, torch.Tensor]:
        target, cases = folder / f"{device}-{ranks}.safetensors", json.dumps(CASES | PROJECTED_CASES)
        done = torchrun(ranks, "-m", "tests.integration.training.updates", str(target), cases, device)
        assert done.returncode == 0, done.stderr
        return load_file(target)

    return compute


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [("float64", 1e-10), ("float32", 5e-5)],  # batches of other sizes round differently: up to 1.1e-5
)
@pytest.mark.parametrize("ranks", RANK_COUNTS)
def test_gradients_of_several_ranks_equal_those_of_one_process_with_the_whole_batch(
    case: str, dtype: str, tolerance: float, ranks: int, updates: Updates
) -> None:
    one, several = updates(1), updates(ranks)
    assert one.keys() == several.keys()
    names = [name for name in one if name.startswith(f"{case}/torch.{dtype}/gradient/")]
    assert len(names) > 10
    whole = torch.stack([one[name].norm() for name in names]).norm()
    for name in names:
        # some gradients are 0 except for rounding: biases before a normalization, the last bias of a relativistic loss
        is_zero = one[name.replace(dtype, "float64")].norm() < 1e-12 * whole
        difference = (one[name] - several[name]).norm() / (whole if is_zero else one[name].norm())
        assert difference <= tolerance, f"{name}: {difference:.1e} of its norm"


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("ranks", RANK_COUNTS)
def test_weights_ema_and_batch_statistics_of_several_ranks_equal_those_of_one_process(
    case: str, ranks: int, updates: Updates
) -> None:
    one, several = updates(1), updates(ranks)
    for name in one:
        if name.startswith(f"{case}/torch.float64/after/"):
            torch.testing.assert_close(one[name], several[name], rtol=1e-6, atol=1e-9, msg=name)


@pytest.mark.parametrize("case", PROJECTED_CASES)
@pytest.mark.parametrize("ranks", RANK_COUNTS)
def test_ranks_with_pretrained_features_compute_the_updates_of_one_process(
    case: str, ranks: int, updates: Updates
) -> None:
    one, several = updates(1), updates(ranks)
    for stage in ("gradient", "after"):  # in float32, rounding moves activations over the kinks of ReLU6
        names = [name for name in one if name.startswith(f"{case}/torch.float64/{stage}/")]
        assert len(names) > 20
        whole = torch.stack([one[name].double().norm() for name in names]).norm()
        for name in names:
            difference = (one[name].double() - several[name].double()).norm() / whole
            assert difference <= 1e-9, f"{name}: {difference:.1e} of the norm of all"


@pytest.mark.gpu
@pytest.mark.parametrize("case", [*CASES, *PROJECTED_CASES])
def test_two_ranks_on_one_gpu_compute_the_updates_of_one_rank_by_gloo(case: str, updates: Updates) -> None:
    one, two = updates(1, "cuda"), updates(2, "cuda")
    for stage in ("gradient", "after"):
        names = [name for name in one if name.startswith(f"{case}/torch.float64/{stage}/")]
        assert len(names) > 10
        whole = torch.stack([one[name].double().norm() for name in names]).norm()
        for name in names:
            difference = (one[name].double() - two[name].double()).norm() / whole
            assert difference <= 1e-9, f"{name}: {difference:.1e} of the norm of all"


def run_agreements(task: str) -> subprocess.CompletedProcess[str]:
    return torchrun(2, "-m", "tests.integration.training.agreements", task)


def test_ranks_share_requests_and_batch_statistics_and_keep_their_random_states() -> None:
    done = run_agreements("check")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "passed cpu"


@pytest.mark.parametrize(
    ("task", "message"),
    [
        pytest.param("rank 0 fails", r"Error: run: a failure of rank 0", marks=pytest.mark.soak),
        ("values differ", r"Error: the weights: rank 1 of 2\b"),
        pytest.param("rank 0 ends", r"Error: another rank ended\b", marks=pytest.mark.soak),
    ],
)
def test_no_rank_waits_for_a_rank_that_fails_and_the_error_names_the_cause(task: str, message: str) -> None:
    done = run_agreements(task)
    assert done.returncode == 1, done.stderr
    assert re.search(message, done.stderr), done.stderr
    if task == "rank 0 fails":
        assert len(re.findall(message, done.stderr)) == 1
        assert "rank ended" not in done.stderr
        assert "exitcode  : 4" in done.stderr


@pytest.mark.soak
def test_both_implementations_in_the_benchmark_of_ranks_compute_the_same_updates() -> None:
    done = torchrun(2, "-m", "tests.integration.training.peers")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "equal: conv, R1 and R2; conv, no penalty"
