"""Reports on run folders: whole, unfinished, damaged, of other versions, and with hostile texts."""

import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image

from ganctl.main import cli
from ganctl.training.checkpoint.run_lock import RunLock
from ganctl.training.config.schema import DataSettings
from ganctl.training.data import named
from ganctl.training.data.base import ImageSet, Split
from ganctl.training.report import samples
from ganctl.training.report.page import build_page
from ganctl.training.report.run import read_runs
from ganctl.training.sampling.inspection import open_checkpoint
from tests.conftest import launch, one_object, train_small
from tests.unit.training.conftest import RegisterData

HOSTILE = "<script>alert('x')</script>"
SCORES = {"split": "val", "fd": 9.0, "fd_floor": 0.5, "fd_ratio": 18.0, "label_accuracy": 0.9, "num_images": 2000}


def run_report(*words: object) -> Result:
    return CliRunner().invoke(cli, ["report", *map(str, words)])


def page_of(*paths: Path) -> str:
    return build_page(read_runs(paths), lambda text: None)


def write_run(folder: Path, *rows: Mapping[str, Any], settings: str = 'preset = "conv"\n') -> Path:
    """Writes the folder of a run without checkpoints."""
    folder.mkdir(parents=True)
    (folder / "config.toml").write_text(settings)
    (folder / "environment.json").write_text(json.dumps({"command": ["ganctl", "train"], "cpus": 2}))
    (folder / "stats.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def log_row(step: int, **values: object) -> dict[str, Any]:
    return {
        "step": step,
        "images": 32 * step,
        "seconds": float(step),
        "loss_d": 1 / step,
        "loss_g": 2.0,
        "lr": 1e-3,
    } | values


def evaluation(step: int, **scores: object) -> dict[str, Any]:
    return {"step": step, "images": 32 * step, "seconds": float(step), "evaluation": SCORES | scores}


def text_of(page: str) -> str:
    return re.sub(r"\s+", " ", re.sub("<[^>]*>", " ", page))


def test_a_report_shows_scores_curves_classes_images_settings_and_environment(small_run: Path, tmp_path: Path) -> None:
    done = run_report(small_run, "--out", tmp_path / "report.html", "--json")
    record = one_object(done.stdout)
    page = (tmp_path / "report.html").read_text("utf-8")
    assert record["path"] == str(tmp_path / "report.html")
    assert record["bytes"] == len(page.encode()) < 5_000_000
    assert record["runs"] == [str(small_run)]
    for heading in ("Scores", "Training", "Classes", "Settings", "Environment", "Nearest training images"):
        assert f"<h2>{heading}</h2>" in page
    text = text_of(page)
    assert "stopped at the step limit, before its end" in text
    assert "the nearest of 55,000 training images, by the Euclidean distance" in text
    assert re.search(r"evaluation\.num_images 100 --set", text), "the source of a setting"
    assert re.search(r"model\.spectral_norm false preset conv|model\.spectral_norm false default", text)
    assert re.search(r"torch \d+\.\d+", text)
    for alt in (
        "100 generated images of the run",
        "grid of fixed latents at step 40",
        "and the nearest training image of",
    ):
        assert alt in page
    assert page.count("<img") >= 14
    assert re.findall(r"<img(?![^>]* alt=)[^>]*>", page) == []


def test_the_default_file_is_in_the_run_and_for_several_runs_in_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    one, two = (write_run(tmp_path / "runs" / name, log_row(10)) for name in ("one", "two"))
    assert run_report(one).exit_code == 0
    assert (one / "report.html").exists()
    assert run_report(one, two).exit_code == 0
    assert (tmp_path / "report.html").exists()


def test_a_page_allows_no_script_and_loads_nothing(tmp_path: Path) -> None:
    page = page_of(write_run(tmp_path / "run", log_row(10)))
    assert "default-src 'none'; img-src data:; style-src 'sha256-" in page
    assert "<script" not in page
    assert not re.search(r"(src|href|srcset)=\"(?!data:)", page)


def test_several_runs_show_the_settings_that_differ_first(tmp_path: Path) -> None:
    one = write_run(tmp_path / "one", log_row(10), settings='preset = "conv"\n[optimizer]\nlr = 0.001\nbeta1 = 0.5\n')
    two = write_run(tmp_path / "two", log_row(10), settings='preset = "conv"\n[optimizer]\nlr = 0.002\nbeta1 = 0.5\n')
    text = text_of(page_of(one, two))
    differing = text[text.index("Settings that differ") : text.index("Samples of the best")]
    assert "optimizer.lr 0.001 0.002" in differing
    assert "beta1" not in differing


def test_runs_of_the_same_name_are_told_apart(tmp_path: Path) -> None:
    paths = [write_run(tmp_path / name / "run", log_row(10)) for name in ("a", "b")]
    assert [run.name for run in read_runs(paths)] == ["a/run", "b/run"]


@pytest.mark.parametrize(
    ("end", "state"),
    [
        ({"stop_reason": "completed", "scores": SCORES}, "completed"),
        ({"stop_reason": "SIGTERM", "scores": {}}, "interrupted: stopped by SIGTERM"),
        ({"stop_reason": "max-time", "scores": SCORES}, "stopped at the time limit, before its end"),
        ({"stop_reason": "diverged", "error": "loss_d: found nan", "scores": {}}, "diverged"),
        (None, "interrupted: the process ended without a final save"),
    ],
)
def test_the_state_of_a_run_follows_from_its_end(end: dict[str, Any] | None, state: str, tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", log_row(10))
    (folder / "log.txt").write_text(
        "2026-01-01 10:00:00.000 ends at step 5: max-steps\n2026-01-01 11:00:00.000 begins at step 5\n"
    )
    if end:
        (folder / "result.json").write_text(json.dumps(end))
    page = page_of(folder)
    assert f">{state}<" in page
    assert (end or {}).get("error", "") in page


def test_the_log_of_an_earlier_version_gives_the_state(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", log_row(10))
    (folder / "log.txt").write_text(
        "2026-01-01 10:00:00.000 begins at step 0\n2026-01-01 11:00:00.000 ends at step 5: completed\n"
    )
    assert read_runs([folder])[0].state == "completed"


def test_a_run_in_training_is_running(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", log_row(10))
    lock = RunLock()
    lock.acquire(folder)
    try:
        assert read_runs([folder])[0].state == "running"
    finally:
        lock.release()
    assert read_runs([folder])[0].state.startswith("interrupted")


def test_a_run_that_diverges_writes_that_to_its_folder(tmp_path: Path) -> None:
    trainer = launch(tmp_path / "run", extra=("optimizer.lr=1e30", "optimizer.grad_clip_ratio=0")).build()
    with pytest.raises(Exception, match=r"NaN or inf|found nan|found inf"):
        trainer.fit()
    (run,) = read_runs([tmp_path / "run"])
    assert run.state == "diverged"
    assert "DivergenceError" in run.end["error"]
    assert " fails at step " in (tmp_path / "run" / "log.txt").read_text()


def test_before_the_first_evaluation_the_report_says_so(tmp_path: Path) -> None:
    text = text_of(page_of(write_run(tmp_path / "run", log_row(10), log_row(20))))
    assert "There is no evaluation yet" in text
    assert "The samples are left out: the run has no best checkpoint yet." in text
    assert "The grids are left out: the run has no evaluation yet." in text
    assert "Losses" in text


def test_a_torn_last_line_is_left_out_and_a_damaged_one_before_is_reported(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", log_row(10), log_row(20))
    with (folder / "stats.jsonl").open("a") as file:
        file.write('{"step": 30, "ima')
    (run,) = read_runs([folder])
    assert (run.position, run.faults) == ((20, 640), ())
    with (folder / "stats.jsonl").open("a") as file:
        file.write("\n" + json.dumps(log_row(40)) + "\n")
    (run,) = read_runs([folder])
    assert (run.position, run.faults) == ((40, 1280), ("stats.jsonl, line 3: found no JSON object",))


def test_a_run_of_another_version_is_shown_with_what_it_has(tmp_path: Path) -> None:
    old = {"split": "val", "fd": 30.0, "fd_floor": 2.0, "label_accuracy": 0.5}  # before kid and scorer_accuracy
    rows = [log_row(10, new_statistic=3.0, note="text", nested={"a": 1}), {**evaluation(10), "evaluation": old}]
    folder = write_run(tmp_path / "run", *rows, settings='preset = "gone"\n[model]\nz_dim = 64\n[new]\nkey = [1, 2]\n')
    text = text_of(page_of(folder))
    assert "Fréchet distance 30.00, 15.0 × the floor 2.00 of real images" in text
    assert "new statistic" in text
    assert "model.z_dim 64 set (source not recorded) a setting of another version" in text
    assert "new.key [1, 2]" in text


@pytest.mark.parametrize("name", ["config.toml", "environment.json"])
@pytest.mark.parametrize("content", [None, b"\xff\x00{", b""])
def test_an_absent_or_damaged_file_is_reported_and_the_rest_is_shown(
    name: str, content: bytes | None, tmp_path: Path
) -> None:
    folder = write_run(tmp_path / "run", log_row(10), evaluation(10))
    (folder / name).unlink()
    if content is not None:
        (folder / name).write_bytes(content)
    text = text_of(page_of(folder))
    assert "Fréchet distance 9.00" in text
    assert name in text or (name, content) == ("config.toml", b"")  # an empty file is TOML


def test_statistics_that_are_no_finite_numbers_leave_gaps(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", log_row(10), log_row(20, loss_d=float("nan")), log_row(30, loss_d=None))
    (run,) = read_runs([folder])
    assert run.curve("loss_d") == [(320.0, 0.1)]
    assert ">nan" not in page_of(folder).lower()


def test_odd_numbers_and_files_leave_the_rest_of_the_report(tmp_path: Path) -> None:
    rows = [log_row(10, huge=10**400), log_row(20, loss_d=5e-324), log_row(30, loss_d=0.0, loss_g=1e308)]
    folder = write_run(tmp_path / "run", *rows, log_row(40, loss_g=-1e308), evaluation(40, fd="x", kid=0.1, kid_se="y"))
    with (folder / "stats.jsonl").open("a") as file:
        file.write("[" * 100_000 + "\n" + json.dumps(evaluation(50, fd="x", kid=0.1, kid_se="y")) + "\n")
    (folder / "samples").mkdir()
    Image.new("RGB", (1, 1)).save(folder / "samples/00000040.png")
    (folder / "result.json").mkdir()
    text = text_of(page_of(folder))
    assert "stats.jsonl, line 6: found no JSON object" in text
    assert "Losses" in text


def test_the_reason_of_a_part_that_is_left_out_keeps_its_dots(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "a..b", log_row(10))
    (folder / "samples").mkdir()
    (folder / "samples/00000040.png").write_bytes(b"torn")
    assert f"The grids are left out: {folder}/samples/00000040.png: not" in text_of(page_of(folder))


def test_the_time_of_a_resumed_run_is_the_sum_of_its_starts(tmp_path: Path) -> None:
    rows = [log_row(10, seconds=5.0), log_row(20, seconds=9.0), log_row(30, seconds=2.0), log_row(40, seconds=3.0)]
    assert read_runs([write_run(tmp_path / "run", *rows)])[0].seconds == 12.0
    rows = [log_row(10, seconds=5.0, start=0), log_row(20, seconds=5.2, start=1)]
    assert read_runs([write_run(tmp_path / "slower", *rows)])[0].seconds == pytest.approx(10.2)


def load_hostile(settings: DataSettings, split: Split) -> ImageSet:
    """100 classes of transparent images; the name of one is HTML."""
    classes = 100
    labels = torch.arange(4 * classes) % classes
    seed = {"train": 0, "val": 1, "test": 2}[split]
    patterns = torch.randint(0, 2, (classes, 4, 16, 16), generator=torch.Generator().manual_seed(3))
    flipped = torch.rand(len(labels), 4, 16, 16, generator=torch.Generator().manual_seed(seed)) < 0.1
    images = 255 * (patterns[labels] ^ flipped.long())
    return ImageSet(images.to(torch.uint8), labels, (HOSTILE, *(f"class {i}" for i in range(1, classes))))


EXTRA = ("train.batch_size=32", "evaluation.num_images=100", "evaluation.test_images=100")


def test_a_hundred_classes_transparency_and_hostile_names_are_shown(
    tmp_path: Path, register_data: RegisterData
) -> None:
    register_data("test-hostile", load_hostile)
    folder = tmp_path / f"{HOSTILE.replace('/', '')}&\n"
    page = page_of(train_small(folder, max_steps=2, extra=("data.source=test-hostile", *EXTRA)))
    assert "<script" not in page
    assert "&lt;script&gt;alert(&#x27;x&#x27;)&lt;/script&gt;</th>" in page
    assert 'class="checkered"' in page
    assert "class 99" in page
    assert "The nearest training images are left out" not in page
    assert "100 images, not selected" in page


def test_an_unconditional_run_has_no_table_of_classes(small_unconditional_run: Path) -> None:
    page = page_of(small_unconditional_run)
    assert "<h2>Classes</h2>" not in page
    assert "Nearest training images" in page
    assert "--count 100 --seed 0" in page


def test_without_the_training_images_the_report_gives_the_reason(tmp_path: Path, register_data: RegisterData) -> None:
    register_data("test-gone", load_hostile)
    run_dir = train_small(tmp_path / "run", max_steps=2, extra=("data.source=test-gone", *EXTRA))

    def load_other(settings: DataSettings, split: Split) -> ImageSet:
        data = load_hostile(settings, split)
        return ImageSet(255 - data.images, data.labels, data.class_names)

    register_data("test-gone", load_other)
    assert "the images there are no longer those of the run" in text_of(page_of(run_dir))
    shutil.rmtree(run_dir / "checkpoints")
    assert "The samples are left out: the run has no best checkpoint yet." in text_of(page_of(run_dir))


def test_a_report_downloads_no_training_images(
    small_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH_DATASETS", str(tmp_path))
    monkeypatch.setattr(named, "_download", lambda *words: pytest.fail("the report downloads"))
    checkpoint = small_run / "checkpoints/best.safetensors"
    opened = replace(open_checkpoint(checkpoint), data=DataSettings(source="kmnist"))
    monkeypatch.setattr(samples, "open_checkpoint", lambda path: opened)
    text = text_of(page_of(small_run))
    assert "the files are not on this machine, and a report downloads nothing." in text


def test_a_damaged_checkpoint_and_grid_are_reasons_too(small_run: Path, tmp_path: Path) -> None:
    run_dir = shutil.copytree(small_run, tmp_path / "run")
    (run_dir / "checkpoints/best.safetensors").write_bytes(b"torn")
    next((run_dir / "samples").iterdir()).write_bytes(b"torn")
    text = text_of(page_of(run_dir))
    assert "The samples are left out" in text
    assert "not a complete picture" in text


@pytest.mark.parametrize("kind", ["absent", "file", "folder"])
def test_a_path_that_is_no_run_exits_with_4(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "other"
    if kind == "file":
        path.write_text("text")
    elif kind == "folder":
        path.mkdir()
    done = run_report(path)
    assert done.exit_code == 4
    found = {"absent": "nothing", "file": "a file", "folder": "a folder"}[kind]
    assert f"{path}: found {found}, expected the folder of a run" in done.stderr


def test_a_resumed_run_keeps_the_sources_of_its_settings(tmp_path: Path) -> None:
    launch(tmp_path / "run").build(max_steps=10).fit()
    launch(tmp_path / "run", resume="auto").build(max_steps=20).fit()
    starts = [row.get("start") for row in read_runs([tmp_path / "run"])[0].rows]
    assert len(set(starts)) == 2
    assert starts[0] == 0
    sources = json.loads((tmp_path / "run/environment.json").read_text())["setting_sources"]
    assert sources["train.batch_size"] == "--set"
    assert sources["loss.name"] == "preset conv"
    assert "the run's checkpoint" not in sources.values()
