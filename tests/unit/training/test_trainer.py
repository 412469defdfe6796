"""The training loop: checkpoints, evaluation, resuming, run folders, and errors before the first step."""

import json
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image

from ganctl.training.callbacks.base import Callback, Run
from ganctl.training.checkpoint.format import read_checkpoint, write_checkpoint
from ganctl.training.config.resolve import resolve
from ganctl.training.config.schema import DataSettings
from ganctl.training.data.base import ImageSet, Split, premultiply
from ganctl.training.data.datasets import load_split
from ganctl.training.errors import CheckpointError, ConfigError, FolderInUse, TrainingError
from ganctl.training.images.source import load_generator
from ganctl.training.loop.session import Session
from ganctl.training.loop.trainer import Trainer
from tests.any_images import disks, save_folder
from tests.conftest import SHORT, SMALL, launch, train_small
from tests.unit.training.conftest import RegisterData


@pytest.mark.parametrize("max_steps", [1, 13])
def test_even_a_run_of_one_step_ends_with_an_evaluation_and_a_best_checkpoint(max_steps: int, tmp_path: Path) -> None:
    only_at_the_end = ("evaluation.every=1600 images",)
    result = launch(tmp_path / "run", extra=only_at_the_end).build(max_steps=max_steps).fit()
    assert result.stop_reason == "max-steps"
    assert result.best is not None
    assert read_checkpoint(result.best).step == max_steps
    assert (result.metrics["step"], result.metrics["split"]) == (max_steps, "val")
    assert result.metrics["fd"] > result.metrics["fd_floor"] > 0


def test_a_finished_run_is_scored_on_the_test_images_and_resuming_it_trains_no_further(tmp_path: Path) -> None:
    first = launch(tmp_path / "run").build().fit()
    assert (first.stop_reason, first.metrics["split"], first.metrics["num_images"]) == ("completed", "test", 100)
    again = launch(tmp_path / "run", resume="auto").build().fit()
    assert (again.steps, again.metrics["fd"]) == (first.steps, first.metrics["fd"])


def test_best_is_the_checkpoint_with_the_least_distance_on_the_validation_images(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    result = launch(run_dir).build(max_steps=40).fit()
    rows = [json.loads(line) for line in (run_dir / "stats.jsonl").read_text().splitlines()]
    scores = {row["step"]: row["evaluation"]["fd"] for row in rows if "evaluation" in row}
    assert result.best is not None
    assert read_checkpoint(result.best).step == min(scores, key=lambda step: scores[step])


def test_a_duration_given_as_a_time_is_converted_to_images_once_and_kept(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    settings = (*SMALL, "model.base_channels=4", "train.duration=1s")
    trainer = Session(assignments=settings, run_dir=run_dir).build()
    assert trainer.fit().stop_reason == "completed"
    duration = trainer.duration.images
    assert duration is not None
    resumed = Session(run_dir=run_dir, resume="auto").build()
    assert resumed.duration.images == duration


def test_resuming_accepts_more_epochs_but_no_other_learning_rate(tmp_path: Path) -> None:
    run_dir = train_small(tmp_path / "run", max_steps=5)
    longer = Session(run_dir=run_dir, resume="auto", flags={"train.duration": ("--epochs", "20 epochs")})
    assert longer.config.train.duration.value == 20
    with pytest.raises(
        ConfigError, match=rf"optimizer\.lr = 0\.5: .*\b{longer.config.optimizer.lr}\b.*--allow-changes"
    ):
        Session(run_dir=run_dir, resume="auto", assignments=["optimizer.lr=0.5"])
    allowed = Session(run_dir=run_dir, resume="auto", assignments=["optimizer.lr=0.5"], allow_changes=True)
    assert allowed.config.optimizer.lr == 0.5


def test_resuming_keeps_the_values_that_auto_had_at_the_start_of_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    auto = ("train.batch_size=auto", "train.precision=auto")
    trainer = launch(tmp_path / "run", extra=auto).build(max_steps=1)
    trainer.fit()
    monkeypatch.setattr("ganctl.training.loop.build.BATCH_ON_CPU", 16)  # as on another kind of machine
    again = Session(preset="conv", assignments=(*SHORT, *auto), run_dir=tmp_path / "run", resume="auto")
    assert (again.config.train.batch_size, again.config.train.precision) == (64, trainer.config.train.precision)
    assert again.config.train.precision != "auto"
    assert again.build(max_steps=2).fit().images == 128


def test_a_folder_with_a_run_is_not_overwritten(small_run: Path) -> None:
    with pytest.raises(FolderInUse, match=rf"--run-dir {small_run}: .*--resume auto"):
        Session(run_dir=small_run)


def test_resume_accepts_the_path_of_a_run_folder(tmp_path: Path) -> None:
    train_small(tmp_path / "run", max_steps=3)
    assert Session(resume=str(tmp_path / "run")).build(max_steps=5).fit().steps == 5
    (tmp_path / "young/checkpoints").mkdir(parents=True)
    with pytest.raises(CheckpointError, match=rf"--resume {tmp_path / 'young'}: .*\bcheckpoint\b"):
        Session(resume=str(tmp_path / "young"))
    copy = tmp_path / "somewhere.safetensors"
    copy.write_bytes((tmp_path / "run/checkpoints/last.safetensors").read_bytes())
    with pytest.raises(ConfigError, match=rf"--resume {copy}: .*--run-dir"):
        Session(resume=str(copy))


def test_a_time_limit_and_a_profile_add_their_callbacks(tmp_path: Path) -> None:
    trainer = launch(tmp_path / "run", extra=("log.profile=true",)).build(max_seconds=0.001)
    assert {"TimeLimit", "Profiler"} <= {callback.key for callback in trainer.callbacks}
    assert trainer.fit().stop_reason == "max-time"


def test_resume_auto_starts_a_new_run_in_a_new_folder_and_needs_a_run_dir(tmp_path: Path) -> None:
    assert Session(assignments=SMALL, run_dir=tmp_path / "new", resume="auto").build(max_steps=1).fit().steps == 1
    with pytest.raises(ConfigError, match=r"--resume auto: .*--run-dir"):
        Session(resume="auto")
    with pytest.raises(CheckpointError, match=rf"{tmp_path / 'absent.safetensors'}: "):
        Session(resume=str(tmp_path / "absent.safetensors"))


def test_a_damaged_newest_checkpoint_is_skipped_and_reported(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    launch(run_dir).build(max_steps=25).fit()
    last = run_dir / "checkpoints/last.safetensors"
    last.write_bytes(last.read_bytes()[:1000])
    messages: list[str] = []
    trainer = Session(run_dir=run_dir, resume="auto", announce=messages.append).build()
    assert trainer.step == 20
    assert str(last) in messages[0]


def test_a_checkpoint_of_other_networks_is_refused(small_run: Path, tmp_path: Path) -> None:
    last, assignments = small_run / "checkpoints/last.safetensors", ["model.base_channels=16"]
    session = Session(run_dir=tmp_path / "run", resume=str(last), assignments=assignments, allow_changes=True)
    with pytest.raises(CheckpointError, match=rf"{last}: .*\bsettings\b"):
        session.build()


def test_weights_that_do_not_fit_the_generator_are_refused_with_a_remedy(small_run: Path, tmp_path: Path) -> None:
    state = read_checkpoint(small_run / "checkpoints/last.safetensors").state
    ema = state["networks"]["ema"]
    ema["net.5.weight"] = ema["net.5.weight"][:1].clone()  # as if the last convolution had one output channel
    write_checkpoint(tmp_path / "old.safetensors", state)
    with pytest.raises(CheckpointError, match=r"old\.safetensors: .*\bmodel\.generator = 'conv'.*\btrain again\b"):
        load_generator(tmp_path / "old.safetensors")


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("train.batch_size=60000", r"train\.batch_size = 60000: .*\b55,?000\b"),
        ("train.device=cuda", r"train\.device = 'cuda': .*\bCUDA\b"),
        ("checkpoint.monitor=fid", r"'fid'.*\bfd, fd_floor, fd_ratio,"),
    ],
)
def test_settings_that_do_not_fit_the_data_or_the_machine_are_refused_before_the_first_step(
    assignment: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    config, _ = resolve(assignments=[assignment], environment={})
    with pytest.raises(ConfigError, match=message):
        Trainer(config, run_dir=tmp_path)


def test_weights_with_nan_or_inf_are_never_saved(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    with pytest.raises(TrainingError, match=r": .*\bstep 5\b.*\boptimizer\.lr\b"):
        launch(run_dir, extra=("optimizer.lr=1e30",)).build(max_steps=5).fit()
    assert list((run_dir / "checkpoints").iterdir()) == []


def test_a_run_resumed_in_another_folder_has_its_checkpoints_there(tmp_path: Path) -> None:
    launch(tmp_path / "a").build(max_steps=20).fit()
    source = tmp_path / "a/checkpoints/last.safetensors"
    moved = Session(run_dir=tmp_path / "b", resume=str(source))
    result = moved.build(max_steps=20).fit()
    assert result.best is not None
    assert result.last is not None
    assert read_checkpoint(result.best).step == read_checkpoint(result.last).step == 20
    with pytest.raises(FolderInUse, match=rf"--run-dir {tmp_path / 'b'}: .*--resume auto"):
        Session(run_dir=tmp_path / "b", resume=str(source))


def test_a_folder_with_a_foreign_config_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text("mine = true")
    with pytest.raises(FolderInUse, match=rf"--run-dir {tmp_path}: .*\bconfig\.toml\b"):
        Session(run_dir=tmp_path)


def test_an_early_stopped_run_stays_stopped_when_it_is_resumed(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    extra = ("early_stopping.patience=1", "early_stopping.min_delta=1e9")
    first = launch(run_dir, extra=extra).build().fit()
    assert (first.stop_reason, first.steps) == ("early-stopping", 20)
    again = launch(run_dir, resume="auto").build().fit()
    assert (again.stop_reason, again.steps) == ("early-stopping", 20)


def test_a_new_duration_given_as_a_time_is_measured_again(tmp_path: Path) -> None:
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


def test_monitor_mode_auto_prefers_a_low_distance_and_a_high_accuracy() -> None:
    from ganctl.training.callbacks.monitor import Monitor

    cases = [("fd", "auto"), ("label_accuracy", "auto"), ("fd", "max")]
    assert [Monitor(*case).sign for case in cases] == [1, -1, -1]


def test_label_accuracy_of_an_unconditional_generator_cannot_be_monitored(tmp_path: Path) -> None:
    config, _ = resolve(preset="lightning-basic-gan", assignments=["checkpoint.monitor=label_accuracy"], environment={})
    with pytest.raises(ConfigError, match=r"'label_accuracy'.*\bfd, fd_floor\b"):
        Trainer(config, run_dir=tmp_path)


def test_resuming_with_other_images_is_refused_unless_changes_are_allowed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_dir = train_small(tmp_path / "run", max_steps=2)
    monkeypatch.setattr("ganctl.training.loop.build.load_split", lambda data, split: load_split(data, "val"))
    with pytest.raises(ConfigError, match=r"data: .*last\.safetensors .*\bdigest\b.*--allow-changes"):
        Session(run_dir=run_dir, resume="auto").build()
    assert Session(run_dir=run_dir, resume="auto", allow_changes=True).build().step == 2


def test_two_trainers_never_share_a_folder(tmp_path: Path) -> None:
    config, _ = resolve(assignments=[*SHORT, f"log.root={tmp_path}"], environment={})
    first, second = Trainer(config), Trainer(config)
    assert first.fit(max_steps=1).run_dir != second.fit(max_steps=1).run_dir
    with pytest.raises(FolderInUse, match=rf"{first.run_dir}: .*resume='auto'"):
        Trainer(config, run_dir=first.run_dir).fit()


def test_a_damaged_best_checkpoint_is_replaced_by_the_best_intact_one(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    launch(run_dir).build(max_steps=30).fit()
    damage = DamageBest()
    result = launch(run_dir, resume="auto").build(callbacks=[damage]).fit()
    assert result.stop_reason == "completed"
    assert result.metrics["split"] == "test"
    assert result.best is not None
    assert damage.step is not None
    assert read_checkpoint(result.best).step == result.metrics["step"] != damage.step


class DamageBest(Callback):
    """Damages the best checkpoint at the last step of the run, and stores its step."""

    step: int | None = None

    def on_checkpoint(self, run: Run, path: Path) -> None:
        if run.step == 50:
            names = {p.stem: p for p in path.parent.iterdir()}
            best = self.step = read_checkpoint(names["best"]).step
            for name in ("best", f"step-{best:08d}"):
                names[name].unlink()  # not written in place: `last` may be a hard link to the same file
                names[name].write_bytes(b"cut")


def test_init_from_loads_the_networks_of_another_run_and_nothing_else(small_run: Path, tmp_path: Path) -> None:
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


@pytest.mark.parametrize(
    ("other", "setting"), [("model.base_channels=32", "base_channels"), ("model.generator=mlp", "generator")]
)
def test_init_from_refuses_networks_that_hardly_fit_and_names_the_settings_that_differ(
    other: str, setting: str, small_run: Path, tmp_path: Path
) -> None:
    assignments = [*SMALL, other, f"train.init_from={small_run}"]
    if setting == "generator":
        assignments.append("model.discriminator=mlp")
    with pytest.raises(ConfigError, match=rf"--init-from {small_run}: .*\bmodel\.{setting} = .* there and .* here"):
        Session(assignments=assignments, run_dir=tmp_path / "run").build()
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("labeled", [True, False])
def test_init_from_adapts_the_networks_to_other_classes_channels_and_sizes_and_reports_it(
    labeled: bool, small_run: Path, tmp_path: Path
) -> None:
    """The networks, their EMA and the report are equal in every start from the same run."""
    data = save_folder(tmp_path / "disks", disks(30, 40), labeled=labeled)
    settings = [*SMALL, f"data.source={data}", "data.num_workers=0", "train.batch_size=8"]
    messages: list[list[str]] = [[], []]
    first, second = (
        Session(
            assignments=[*settings, f"train.init_from={small_run}"], run_dir=tmp_path / "run", announce=lines.append
        )
        for lines in messages
    )
    first_trainer, second_trainer = first.build(), second.build()
    networks = [trainer.state_dict()["networks"] for trainer in (first_trainer, second_trainer)]
    for name in ("generator", "discriminator", "ema"):
        for key, tensor in networks[0][name].items():
            assert torch.equal(networks[1][name][key], tensor), f"{name}.{key}"
    source = read_checkpoint(small_run / "checkpoints/best.safetensors").state["networks"]
    for name in ("generator", "ema"):
        assert torch.equal(networks[0][name]["net.3.weight"], source[name]["net.3.weight"])
    assert not torch.equal(networks[0]["ema"]["net.3.weight"], networks[0]["generator"]["net.3.weight"])
    assert messages[0] == messages[1]
    report = "\n".join(messages[0])
    classes = "from 10 to 3 classes (0 of the same name)" if labeled else "at the input of the label"
    for text in (f"{small_run}", classes, "from 1 to 4 channels", "from 28 × 28 to 40 × 40 pixels"):
        assert text in report, text
    facts = first_trainer.describe()["init_from"]
    assert facts["weights_share"] > 0.9
    assert "generator.net.3.weight" in facts["copied"]


def test_training_in_a_thread_does_not_change_signal_handlers(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    trainer = launch(tmp_path / "run").build(max_steps=2)
    results = []
    thread = threading.Thread(target=lambda: results.append(trainer.fit()))
    thread.start()
    thread.join()
    assert results[0].steps == 2
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_completed_run_has_only_the_checkpoints_that_its_settings_keep(tmp_path: Path) -> None:
    extra = ("checkpoint.every=96 images", "checkpoint.save_top_k=1", "checkpoint.save_last=false")
    result = launch(tmp_path / "run", extra=extra).build().fit()
    names = {path.stem for path in (tmp_path / "run/checkpoints").iterdir()}
    assert result.best is not None
    assert names == {"best", f"step-{read_checkpoint(result.best).step:08d}"}
    assert result.last is None


@pytest.fixture
def deterministic() -> Iterator[None]:
    """Makes a GPU compute sums in a fixed order."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.gpu
@pytest.mark.usefixtures("deterministic")
@pytest.mark.parametrize("on_device", ["true", "false"])
def test_a_run_on_a_gpu_resumes(on_device: str, tmp_path: Path) -> None:
    extra = ("train.device=cuda", f"data.on_device={on_device}", "train.precision=fp32", "train.tf32=false")
    launch(tmp_path / "whole", extra=extra).build(max_steps=30).fit()
    launch(tmp_path / "parts", extra=extra).build(max_steps=13).fit()
    launch(tmp_path / "parts", resume="auto").build(max_steps=30).fit()
    one, two = (read_checkpoint(tmp_path / n / "checkpoints/last.safetensors").state for n in ("whole", "parts"))
    assert "cuda" in one["torch_rng"][0]
    assert one["progress"] == two["progress"]
    for name, weight in one["networks"]["ema"].items():
        assert (two["networks"]["ema"][name] - weight).norm() <= 0.01 * weight.norm() + 1e-4, name


def test_a_run_on_unlabeled_transparent_images_is_unconditional_and_its_pictures_are_transparent(
    tmp_path: Path, register_data: RegisterData, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def load(settings: DataSettings, split: Split) -> ImageSet:
        rng = torch.Generator().manual_seed(len(split))
        images = torch.randint(256, (120, 4, 16, 16), generator=rng, dtype=torch.uint8)
        return ImageSet(premultiply(images), torch.zeros(120, dtype=torch.int64), ())

    register_data("clear", load)
    run_dir = tmp_path / "run"
    settings = ("data.source=clear", "train.batch_size=8", "train.duration=32 images", "evaluation.every=16 images")
    trainer = Session(assignments=[*SMALL, *settings, "log.tensorboard=true"], run_dir=run_dir).build()
    assert not trainer.config.model.conditional
    assert trainer.source.class_names == ()
    result = trainer.fit()
    assert (result.stop_reason, result.metrics["label_accuracy"]) == ("completed", None)
    for path in (run_dir / "samples").iterdir():
        with Image.open(path) as picture:
            assert picture.mode == "RGBA"
    with Image.open(run_dir / "timelapse.gif") as animation:
        assert animation.n_frames == 2  # type: ignore[attr-defined]  # of GifImageFile
    resumed = Session(run_dir=run_dir, resume="auto", flags={"train.duration": ("--epochs", "48 images")}).build()
    assert resumed.fit().steps == 6
