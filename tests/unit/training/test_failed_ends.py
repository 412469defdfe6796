"""Errors of a start or an end cost a run neither its result nor the report of the first error."""

import json
from pathlib import Path
from typing import Any

import pytest

from ganctl.training.callbacks.base import Callback, Run
from tests.conftest import launch


class FailIn(Callback):
    """Raises an error in one hook."""

    def __init__(self, hook: str, error: Exception, key: str = "FailIn") -> None:
        self._error, self.key = error, key
        setattr(self, hook, self._fail)

    def _fail(self, *arguments: object) -> None:
        raise self._error

    def overrides(self, hook: str) -> bool:
        return hook in vars(self)


class Witness(Callback):
    """Records the errors that it gets, and whether the run ended."""

    def __init__(self) -> None:
        self.errors: list[Exception] = []
        self.ended = False

    def on_end(self, run: Run, reason: str, scores: object) -> None:
        self.ended = True

    def on_exception(self, run: Run, error: Exception) -> None:
        self.errors.append(error)


def result(run_dir: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((run_dir / "result.json").read_text())
    return content


def test_a_start_that_fails_leaves_the_result_of_the_run_before(tmp_path: Path) -> None:
    launch(tmp_path / "run").build(max_steps=2).fit()
    before = result(tmp_path / "run")
    with pytest.raises(RuntimeError, match="no tracker"):
        launch(tmp_path / "run", resume="auto").build(callbacks=[FailIn("on_start", RuntimeError("no tracker"))]).fit()
    assert result(tmp_path / "run") == before
    assert before["scores"]["fd"] > 0


def test_a_resumed_run_replaces_the_result_from_its_first_step_on(tmp_path: Path) -> None:
    launch(tmp_path / "run").build(max_steps=2).fit()
    with pytest.raises(RuntimeError, match="at a step"):
        launch(tmp_path / "run", resume="auto").build(callbacks=[FailIn("on_step", RuntimeError("at a step"))]).fit()
    assert result(tmp_path / "run")["stop_reason"] == "failed"


def test_a_start_that_fails_is_not_the_result_of_a_new_run(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="no tracker"):
        launch(tmp_path / "run").build(callbacks=[FailIn("on_start", RuntimeError("no tracker"))]).fit()
    assert not (tmp_path / "run/result.json").exists()
    assert "no tracker" in (tmp_path / "run/log.txt").read_text()


@pytest.mark.parametrize("first", [True, False])
def test_an_error_at_the_end_keeps_the_scores_and_ends_every_callback(first: bool, tmp_path: Path) -> None:
    failing, witness = FailIn("on_end", RuntimeError("at the end")), Witness()
    trainer = launch(tmp_path / "run").build(max_steps=2, callbacks=[failing, witness])
    if first:
        for hooks in trainer._overrides.values():  # noqa: SLF001  # no public way to be before the default callbacks
            hooks.sort(key=lambda callback: callback is not failing)
    with pytest.raises(RuntimeError, match="at the end"):
        trainer.fit()
    ended = result(tmp_path / "run")
    assert (ended["stop_reason"], ended["error"]) == ("max-steps", "RuntimeError: at the end")
    assert ended["scores"]["fd"] > 0
    assert witness.ended


@pytest.mark.parametrize("failure", [OSError(28, "disk full"), ValueError("wrong")])
def test_a_failing_report_of_an_error_neither_replaces_it_nor_skips_the_next_report(
    failure: Exception, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    witness = Witness()
    callbacks = [FailIn("on_exception", failure, "Reporter"), FailIn("on_step", RuntimeError("at a step")), witness]
    with pytest.raises(RuntimeError, match="at a step") as raised:
        launch(tmp_path / "run").build(max_steps=2, callbacks=callbacks).fit()
    assert witness.errors == [raised.value]
    assert f"Reporter: its report of the error failed: {type(failure).__name__}" in caplog.text
