"""`--nproc`: what the number may be, and which device each rank takes."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from ganctl.training.distributed.ranks import Ranks, choose_device
from ganctl.training.errors import ConfigError, TrainingError
from ganctl.training.loop.session import Session
from ganctl.training.loop.torchrun import RanksResult, count_ranks, run_ranks


@pytest.mark.parametrize(("gpus", "ranks"), [(0, 1), (1, 1), (8, 8)])
def test_auto_means_a_rank_for_each_visible_gpu(gpus: int, ranks: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    assert count_ranks("auto") == ranks
    assert count_ranks("3") == 3


@pytest.mark.parametrize("asked", ["0", "-1", "two", "1.5", ""])
def test_what_is_no_number_of_ranks_is_refused(asked: str) -> None:
    with pytest.raises(ConfigError, match=f"--nproc {asked}: expected a number of ranks above 0, or auto"):
        count_ranks(asked)


def test_each_rank_takes_the_gpu_of_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert choose_device("auto", Ranks(5, 8, 1)) == torch.device("cuda", 1)
    assert choose_device("cpu", Ranks(5, 8, 1)) == torch.device("cpu")
    with pytest.raises(ConfigError, match=r"found 2 GPUs on this machine, .* up to local rank 2. Start 2 ranks"):
        choose_device("auto", Ranks(2, 3, 2))


def test_ranks_that_torchrun_starts_again_need_the_folder_of_what_they_had_done(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    variables = {"RANK": "0", "WORLD_SIZE": "1", "TORCHELASTIC_RUN_ID": "a", "TORCHELASTIC_RESTART_COUNT": "1"}
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match="--run-dir: found none, expected the folder of the restarted run"):
        Session()


@pytest.mark.parametrize("kills", [0, 1, 3, 4])
def test_killed_ranks_are_started_again_so_often_and_no_more(kills: int, tmp_path: Path) -> None:
    starts: list[list[str]] = []

    def launch(arguments: Sequence[str], ranks: int, logs: Path) -> RanksResult | None:
        assert logs.is_dir()
        starts.append([*arguments])
        return None if len(starts) <= kills else RanksResult(0, "{}")

    told: list[str] = []
    if kills < 4:
        assert run_ranks(
            ["train"], ranks=2, run_dir=tmp_path / "run", announce=told.append, launch=launch
        ) == RanksResult(0, "{}")
    else:
        with pytest.raises(TrainingError, match=r"ranks were killed 4 times .* Continue with --resume auto"):
            run_ranks(["train"], ranks=2, run_dir=tmp_path / "run", announce=told.append, launch=launch)
    assert starts == [["train"], *[["train", "--restarted"]] * min(kills, 3)]
    assert len(told) == min(kills, 3)
    assert not (tmp_path / "run").exists(), "nothing was put there"
