"""A run's folder holds what its settings say: numbered folders, last, best, the top k."""

from pathlib import Path
from typing import Any

import pytest

from training.checkpoint import read_checkpoint
from training.config import CheckpointSettings
from training.errors import CheckpointError
from training.runs import CheckpointStore, find_checkpoint, next_run_folder
from training.settings import resolve


def state(step: int) -> dict[str, Any]:
    return {"progress": {"step": step}, "metrics": {}}


def save(store: CheckpointStore, step: int, score: float | None) -> None:
    best = store.is_best(score)
    if score is not None:
        store.rank(step, score)
    store.keep_recent(step)
    store.save(state(step), step, best=best)


def steps(run_dir: Path) -> dict[str, int]:
    return {path.stem: read_checkpoint(path).step for path in (run_dir / "checkpoints").iterdir()}


def store_in(run_dir: Path, **settings: object) -> CheckpointStore:
    return CheckpointStore(run_dir, CheckpointSettings.model_validate(settings))


def test_run_folders_are_numbered_on(tmp_path: Path) -> None:
    config, _ = resolve(environment={})
    (tmp_path / "00011-other").mkdir()
    folder = next_run_folder(config, tmp_path)
    assert folder.name == "00012-conv-mnist"
    folder.mkdir()
    assert next_run_folder(config, tmp_path).name == "00013-conv-mnist"


def test_last_best_and_the_top_k_stay_and_nothing_else(tmp_path: Path) -> None:
    store = store_in(tmp_path, save_top_k=2)
    for step, score in enumerate([5.0, 3.0, 4.0, 9.0, 8.0, 7.0], start=1):
        save(store, step, score)
    assert steps(tmp_path) == {
        "last": 6, "best": 2, "step-00000002": 2, "step-00000003": 3, "step-00000005": 5, "step-00000006": 6,
    }  # fmt: skip


def test_more_may_be_better(tmp_path: Path) -> None:
    store = store_in(tmp_path, mode="max", monitor="label_accuracy")
    for step, score in enumerate([0.5, 0.9, 0.7], start=1):
        save(store, step, score)
    assert steps(tmp_path)["best"] == 2


def test_a_checkpoint_without_a_score_is_last_but_never_best(tmp_path: Path) -> None:
    store = store_in(tmp_path)
    save(store, 1, None)
    assert "best" not in steps(tmp_path)
    with pytest.raises(CheckpointError, match="no best checkpoint yet") as raised:
        find_checkpoint(tmp_path)
    assert raised.value.exit_code == 4


def test_the_newest_sound_checkpoint_is_found_and_damaged_ones_are_told(tmp_path: Path) -> None:
    store = store_in(tmp_path)
    save(store, 1, 2.0)
    save(store, 2, 3.0)
    for name in ("last", "step-00000002"):
        (tmp_path / "checkpoints" / f"{name}.safetensors").write_bytes(b"cut")
    told: list[str] = []
    found = CheckpointStore.newest(tmp_path, told.append)
    assert found is not None
    assert found.step == 1
    assert len(told) == 2


def test_a_folder_with_nothing_but_damaged_checkpoints_is_an_error_and_an_empty_one_is_not(tmp_path: Path) -> None:
    assert CheckpointStore.newest(tmp_path, print) is None
    save(store_in(tmp_path), 1, None)
    for path in (tmp_path / "checkpoints").iterdir():
        path.write_bytes(b"cut")
    with pytest.raises(CheckpointError, match="all 2 checkpoints are damaged"):
        CheckpointStore.newest(tmp_path, lambda text: None)


def test_best_of_a_stop_off_the_schedule_is_forgotten_when_the_run_goes_on(tmp_path: Path) -> None:
    store = store_in(tmp_path)
    save(store, 1, 5.0)
    kept = store.state_dict()
    store.save(state(2), 2, best=True)  # a limit stopped the run here, and the look at it was good
    resumed = store_in(tmp_path)
    resumed.load_state_dict(kept)
    assert steps(tmp_path)["best"] == 1


@pytest.mark.parametrize(("made", "message"), [(False, "no such run"), (True, "no run's folder")])
def test_what_is_no_run_is_told(made: bool, message: str, tmp_path: Path) -> None:
    source = tmp_path / "x"
    if made:
        source.mkdir()
    with pytest.raises(CheckpointError, match=message):
        find_checkpoint(source)
