"""The loop: a best checkpoint in every run, and callbacks in their order."""

import json
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from ganctl.training.callbacks.base import Callback, Run
from ganctl.training.checkpoint.format import read_checkpoint, write_checkpoint
from ganctl.training.config.resolve import resolve
from ganctl.training.data.datasets import load_split
from ganctl.training.errors import CheckpointError, ConfigError, FolderInUse, TrainingError
from ganctl.training.images.source import load_generator
from ganctl.training.loop.session import Session
from ganctl.training.loop.trainer import Trainer
from tests.conftest import SHORT, SMALL, launch, train_small


@pytest.mark.parametrize("max_steps", [1, 13])
def test_a_run_however_short_ends_with_an_evaluation_and_a_best_checkpoint(max_steps: int, tmp_path: Path) -> None:
    alone = ("evaluation.every=1600 images",)  # only the end is evaluated
    result = launch(tmp_path / "run", extra=alone).build(max_steps=max_steps).fit()
    assert result.stop_reason == "max-steps"
    assert result.best is not None
    assert read_checkpoint(result.best).step == max_steps
    assert (result.metrics["step"], result.metrics["split"]) == (max_steps, "val")
    assert result.metrics["fd"] > result.metrics["fd_floor"] > 0


def test_a_finished_run_is_scored_on_the_test_images_and_resuming_it_trains_no_further(tmp_path: Path) -> None:
    first = launch(tmp_path / "run").build().fit()
    assert (first.stop_reason, first.metrics["split"], first.metrics["num_images"]) == ("completed", "test", 10_000)
    again = launch(tmp_path / "run", resume="auto").build().fit()
    assert (again.steps, again.metrics["fd"]) == (first.steps, first.metrics["fd"])


def test_best_is_the_checkpoint_with_the_least_distance_on_the_validation_images(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    result = launch(run_dir).build(max_steps=40).fit()
    rows = [json.loads(line) for line in (run_dir / "stats.jsonl").read_text().splitlines()]
    scores = {row["step"]: row["evaluation"]["fd"] for row in rows if "evaluation" in row}
    assert result.best is not None
    assert read_checkpoint(result.best).step == min(scores, key=lambda step: scores[step])


@pytest.mark.usefixtures("few_test_images")
def test_a_horizon_given_as_a_time_becomes_images_once_and_is_kept(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    settings = (*SMALL, "model.base_channels=4", "train.duration=1s")
    trainer = Session(assignments=settings, run_dir=run_dir).build()
    assert trainer.fit().stop_reason == "completed"
    duration = trainer.duration.images
    assert duration is not None
    resumed = Session(run_dir=run_dir, resume="auto").build()
    assert resumed.duration.images == duration


def test_more_epochs_may_be_asked_for_when_resuming_but_no_other_experiment(tmp_path: Path) -> None:
    run_dir = train_small(tmp_path / "run", max_steps=5)
    longer = Session(run_dir=run_dir, resume="auto", flags={"train.duration": ("--epochs", "20 epochs")})
    assert longer.config.train.duration.value == 20
    with pytest.raises(ConfigError, match=f"optimizer.lr = 0.5: the run has {longer.config.optimizer.lr}"):
        Session(run_dir=run_dir, resume="auto", assignments=["optimizer.lr=0.5"])
    allowed = Session(run_dir=run_dir, resume="auto", assignments=["optimizer.lr=0.5"], allow_changes=True)
    assert allowed.config.optimizer.lr == 0.5


def test_the_same_words_again_go_on_with_what_auto_meant_when_the_run_began(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("train.batch_size=auto", "train.precision=auto")
    trainer = launch(tmp_path / "run", extra=words).build(max_steps=1)
    trainer.fit()
    monkeypatch.setattr("ganctl.training.loop.build.BATCH_ON_CPU", 16)  # as on another kind of machine
    again = Session(preset="conv", assignments=(*SHORT, *words), run_dir=tmp_path / "run", resume="auto")
    assert (again.config.train.batch_size, again.config.train.precision) == (64, trainer.config.train.precision)
    assert again.config.train.precision != "auto"
    assert again.build(max_steps=2).fit().images == 128


def test_a_folder_with_a_run_is_not_written_over(small_run: Path) -> None:
    with pytest.raises(FolderInUse, match="--resume auto"):
        Session(run_dir=small_run)


def test_a_run_is_continued_by_its_folders_name_too(tmp_path: Path) -> None:
    train_small(tmp_path / "run", max_steps=3)
    assert Session(resume=str(tmp_path / "run")).build(max_steps=5).fit().steps == 5
    (tmp_path / "young/checkpoints").mkdir(parents=True)
    with pytest.raises(CheckpointError, match="young: this run has no checkpoint yet"):
        Session(resume=str(tmp_path / "young"))
    copy = tmp_path / "somewhere.safetensors"
    copy.write_bytes((tmp_path / "run/checkpoints/last.safetensors").read_bytes())
    with pytest.raises(ConfigError, match="this checkpoint is in no run folder"):
        Session(resume=str(copy))


def test_a_time_limit_and_a_profile_are_callbacks_of_the_command(tmp_path: Path) -> None:
    trainer = launch(tmp_path / "run", extra=("log.profile=true",)).build(max_seconds=0.001)
    assert {"TimeLimit", "Profiler"} <= {callback.key for callback in trainer.callbacks}
    assert trainer.fit().stop_reason == "max-time"


def test_resume_starts_fresh_where_there_is_nothing_and_needs_a_folder(tmp_path: Path) -> None:
    assert Session(assignments=SMALL, run_dir=tmp_path / "new", resume="auto").build(max_steps=1).fit().steps == 1
    with pytest.raises(ConfigError, match="--run-dir"):
        Session(resume="auto")
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        Session(resume=str(tmp_path / "absent.safetensors"))


def test_the_damaged_newest_checkpoint_is_passed_over_with_a_word(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    launch(run_dir).build(max_steps=25).fit()
    last = run_dir / "checkpoints/last.safetensors"
    last.write_bytes(last.read_bytes()[:1000])
    told: list[str] = []
    trainer = Session(run_dir=run_dir, resume="auto", announce=told.append).build()
    assert trainer.step == 20
    assert "skipped" in told[0]


def test_a_checkpoint_of_other_networks_is_refused_with_a_reason(small_run: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="does not fit these settings"):
        Session(
            run_dir=tmp_path / "run",
            resume=str(small_run / "checkpoints/last.safetensors"),
            assignments=["model.base_channels=16"],
            allow_changes=True,
        ).build()


def test_a_generator_of_another_version_is_refused_with_what_to_do(small_run: Path, tmp_path: Path) -> None:
    state = read_checkpoint(small_run / "checkpoints/last.safetensors").state
    ema = state["networks"]["ema"]
    ema["net.5.weight"] = ema["net.5.weight"][:1].clone()  # as where the last convolution led to one channel
    write_checkpoint(tmp_path / "old.safetensors", state)
    with pytest.raises(CheckpointError, match=r"old\.safetensors: its weights do not fit .*or train again"):
        load_generator(tmp_path / "old.safetensors")


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("train.batch_size=60000", "only 55000 training images"),
        ("train.device=cuda", "found no CUDA device"),
        ("checkpoint.monitor=fid", "no callback produces the score 'fid', expected one of fd, fd_floor, fd_ratio,"),
    ],
)
def test_settings_that_do_not_fit_data_or_machine_are_refused_before_a_step(
    assignment: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    config, _ = resolve(assignments=[assignment], environment={})
    with pytest.raises(ConfigError, match=message):
        Trainer(config, run_dir=tmp_path)


def test_weights_that_are_no_numbers_are_never_saved(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    with pytest.raises(TrainingError, match=r"found NaN or inf at step 5\. The checkpoint before stays the last one"):
        launch(run_dir, extra=("optimizer.lr=1e30",)).build(max_steps=5).fit()
    assert list((run_dir / "checkpoints").iterdir()) == []


def test_a_run_that_goes_on_in_another_folder_has_its_checkpoints_there(tmp_path: Path) -> None:
    launch(tmp_path / "a").build(max_steps=20).fit()
    source = tmp_path / "a/checkpoints/last.safetensors"
    moved = Session(run_dir=tmp_path / "b", resume=str(source))
    result = moved.build(max_steps=20).fit()
    assert result.best is not None
    assert result.last is not None
    assert read_checkpoint(result.best).step == read_checkpoint(result.last).step == 20
    with pytest.raises(FolderInUse, match="already holds a run"):
        Session(run_dir=tmp_path / "b", resume=str(source))


def test_a_folder_with_other_peoples_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text("mine = true")
    with pytest.raises(FolderInUse, match="expected an empty folder or a run"):
        Session(run_dir=tmp_path)


@pytest.mark.usefixtures("few_test_images")
def test_an_early_stopped_run_stays_stopped_when_it_is_resumed(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    extra = ("early_stopping.patience=1", "early_stopping.min_delta=1e9")
    first = launch(run_dir, extra=extra).build().fit()
    assert (first.stop_reason, first.steps) == ("early-stopping", 20)
    again = launch(run_dir, resume="auto").build().fit()
    assert (again.stop_reason, again.steps) == ("early-stopping", 20)


@pytest.mark.usefixtures("few_test_images")
def test_a_new_time_horizon_is_measured_anew(tmp_path: Path) -> None:
    settings = (*SMALL, "model.base_channels=4", "train.duration=1s")
    first = Session(assignments=settings, run_dir=tmp_path / "run").build()
    first.fit()
    assert first.duration.images is not None
    longer = Session(assignments=["train.duration=60s"], run_dir=tmp_path / "run", resume="auto").build()
    assert longer.duration.images is None


def test_allowed_changes_reach_the_optimizer(tmp_path: Path) -> None:
    run_dir = train_small(tmp_path / "run", max_steps=3)
    changed = Session(assignments=["optimizer.beta1=0.5"], run_dir=run_dir, resume="auto", allow_changes=True).build()
    assert changed.parts.step.phases[0].optimizer.param_groups[0]["betas"] == (0.5, 0.99)


def test_more_label_accuracy_is_better_without_saying_so() -> None:
    from ganctl.training.callbacks.monitor import Monitor

    cases = [("fd", "auto"), ("label_accuracy", "auto"), ("fd", "max")]
    assert [Monitor(*case).sign for case in cases] == [1, -1, -1]


def test_an_unconditional_generator_cannot_be_watched_by_label_accuracy(tmp_path: Path) -> None:
    config, _ = resolve(preset="lightning-basic-gan", assignments=["checkpoint.monitor=label_accuracy"], environment={})
    with pytest.raises(
        ConfigError, match="no callback produces the score 'label_accuracy', expected one of fd, fd_floor"
    ):
        Trainer(config, run_dir=tmp_path)


def test_a_run_is_not_continued_with_other_images_unless_that_is_wanted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_dir = train_small(tmp_path / "run", max_steps=2)
    monkeypatch.setattr("ganctl.training.loop.build.load_split", lambda data, split: load_split(data, "val"))
    with pytest.raises(ConfigError, match=r"the training images are not those of .*last.safetensors \(changed: digest"):
        Session(run_dir=run_dir, resume="auto").build()
    assert Session(run_dir=run_dir, resume="auto", allow_changes=True).build().step == 2


def test_two_trainers_never_share_a_folder(tmp_path: Path) -> None:
    config, _ = resolve(assignments=[*SHORT, f"log.root={tmp_path}"], environment={})
    first, second = Trainer(config), Trainer(config)
    assert first.fit(max_steps=1).run_dir != second.fit(max_steps=1).run_dir
    with pytest.raises(FolderInUse, match="already holds a run"):
        Trainer(config, run_dir=first.run_dir).fit()


def test_a_damaged_best_checkpoint_gives_way_to_the_next_sound_one(tmp_path: Path, few_test_images: None) -> None:
    run_dir = tmp_path / "run"
    launch(run_dir).build(max_steps=30).fit()
    damage = Damage()
    result = launch(run_dir, resume="auto").build(callbacks=[damage]).fit()
    assert result.stop_reason == "completed"
    assert result.metrics["split"] == "test"
    assert result.best is not None
    assert damage.step is not None
    assert read_checkpoint(result.best).step == result.metrics["step"] != damage.step


class Damage(Callback):
    """Cuts the best checkpoint short at the end of the run, and keeps its step."""

    step: int | None = None

    def on_checkpoint(self, run: Run, path: Path) -> None:
        if run.step == 50:
            names = {p.stem: p for p in path.parent.iterdir()}
            best = self.step = read_checkpoint(names["best"]).step
            for name in ("best", f"step-{best:08d}"):
                names[name].unlink()  # `last` may be another name of the same file
                names[name].write_bytes(b"cut")


def test_a_run_may_begin_with_the_networks_of_another_and_nothing_else_of_it(small_run: Path, tmp_path: Path) -> None:
    config, _ = resolve(assignments=[*SMALL, f"train.init_from={small_run}"], environment={})
    trainer = Session(assignments=[*SMALL, f"train.init_from={small_run}"], run_dir=tmp_path / "run").build(max_steps=1)
    best = read_checkpoint(small_run / "checkpoints/best.safetensors").state["networks"]
    for name, weight in trainer.generator.state_dict().items():
        assert torch.equal(weight, best["ema"][name])
    assert (trainer.step, trainer.metrics) == (0, {})
    assert trainer.parts.step.phases[0].optimizer.state_dict()["state"] == {}
    trainer.fit()
    resumed = Session(run_dir=tmp_path / "run", resume="auto").build()
    assert resumed.step == 1
    assert config.train.init_from == small_run


def test_networks_of_another_shape_cannot_be_begun_with(small_run: Path, tmp_path: Path) -> None:
    assignments = [*SMALL, "model.base_channels=16", f"train.init_from={small_run}"]
    with pytest.raises(CheckpointError, match="does not fit these settings"):
        Session(assignments=assignments, run_dir=tmp_path / "run").build()
    assert not (tmp_path / "run").exists()


def test_training_in_a_thread_leaves_signals_to_the_main_one(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    trainer = launch(tmp_path / "run").build(max_steps=2)
    results = []
    thread = threading.Thread(target=lambda: results.append(trainer.fit()))
    thread.start()
    thread.join()
    assert results[0].steps == 2
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.usefixtures("few_test_images")
def test_a_run_holds_no_more_than_its_settings_say(tmp_path: Path) -> None:
    extra = ("checkpoint.every=96 images", "checkpoint.save_top_k=1", "checkpoint.save_last=false")
    result = launch(tmp_path / "run", extra=extra).build().fit()
    names = {path.stem for path in (tmp_path / "run/checkpoints").iterdir()}
    assert result.best is not None
    assert names == {"best", f"step-{read_checkpoint(result.best).step:08d}"}
    assert result.last is None


@pytest.fixture
def deterministic() -> Iterator[None]:
    """A GPU's sums come in one order."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.gpu
@pytest.mark.usefixtures("deterministic")
@pytest.mark.parametrize("resident", ["true", "false"])
def test_a_gpu_trains_stops_and_goes_on(resident: str, tmp_path: Path) -> None:
    extra = ("train.device=cuda", f"data.on_device={resident}", "train.precision=fp32", "train.tf32=false")
    launch(tmp_path / "whole", extra=extra).build(max_steps=30).fit()
    launch(tmp_path / "parts", extra=extra).build(max_steps=13).fit()
    launch(tmp_path / "parts", resume="auto").build(max_steps=30).fit()
    one, two = (read_checkpoint(tmp_path / n / "checkpoints/last.safetensors").state for n in ("whole", "parts"))
    assert "cuda" in one["torch_rng"][0]
    assert one["progress"] == two["progress"]
    for name, weight in one["networks"]["ema"].items():
        assert (two["networks"]["ema"][name] - weight).norm() <= 0.01 * weight.norm() + 1e-4, name
