"""`--nproc`: its valid values, the device of each rank, and restarts of killed ranks."""

import re
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from ganctl.training.distributed.ranks import Ranks, choose_device
from ganctl.training.errors import ConfigError, TrainingError
from ganctl.training.loop.session import Session
from ganctl.training.loop.torchrun import RanksResult, count_ranks, run_ranks


@pytest.mark.parametrize(("gpus", "ranks"), [(0, 1), (1, 1), (8, 8)])
def test_nproc_auto_means_one_rank_for_each_visible_gpu(gpus: int, ranks: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    assert count_ranks("auto") == ranks
    assert count_ranks("3") == 3


@pytest.mark.parametrize("value", ["0", "-1", "two", "1.5", ""])
def test_the_error_for_an_invalid_nproc_names_the_value(value: str) -> None:
    with pytest.raises(ConfigError, match=rf"--nproc {re.escape(value)}: .*\b0\b.*\bauto\b"):
        count_ranks(value)


def test_each_rank_uses_the_gpu_of_its_local_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert choose_device("auto", Ranks(5, 8, 1)) == torch.device("cuda", 1)
    assert choose_device("cpu", Ranks(5, 8, 1)) == torch.device("cpu")
    with pytest.raises(ConfigError, match=r"--nproc: .*\b2 GPUs\b.*\blocal rank 2\b.*\b2 ranks\b.*train\.device"):
        choose_device("auto", Ranks(2, 3, 2))


def test_ranks_that_torchrun_restarts_need_run_dir(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    variables = {"RANK": "0", "WORLD_SIZE": "1", "TORCHELASTIC_RUN_ID": "a", "TORCHELASTIC_RESTART_COUNT": "1"}
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=r"--run-dir: .*restarted"):
        Session()


@pytest.mark.parametrize("kills", [0, 1, 3, 4])
def test_killed_ranks_are_restarted_at_most_3_times(kills: int, tmp_path: Path) -> None:
    starts: list[list[str]] = []

    def launch(arguments: Sequence[str], ranks: int, logs: Path) -> RanksResult | None:
        assert logs.is_dir()
        starts.append([*arguments])
        return None if len(starts) <= kills else RanksResult(0, "{}")

    messages: list[str] = []
    run_dir = tmp_path / "run"
    if kills < 4:
        result = run_ranks(["train"], ranks=2, run_dir=run_dir, announce=messages.append, launch=launch)
        assert result == RanksResult(0, "{}")
    else:
        with pytest.raises(TrainingError, match=rf"{run_dir}: .*\b4 times\b.*--resume auto"):
            run_ranks(["train"], ranks=2, run_dir=run_dir, announce=messages.append, launch=launch)
    assert starts == [["train"], *[["train", "--restarted"]] * min(kills, 3)]
    assert len(messages) == min(kills, 3)
    assert all(str(run_dir) in message for message in messages)
    assert not run_dir.exists(), "the launcher creates no run folder"
