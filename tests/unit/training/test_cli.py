"""The commands as a user types them: one JSON object, one clear message, the right exit code, nothing half-written."""

import ast
import os
import re
import shlex
import signal
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ganctl.training.checkpoint.format import read_checkpoint
from ganctl.training.data.mnist import EMBEDDED
from ganctl.training.loop.session import Session
from tests import held
from tests.conftest import SMALL, Ganctl, one_object
from tests.held import Hold
from tests.states import assert_same_run
from tests.waiting import PATIENCE

SETTINGS = [word for setting in SMALL for word in ("--set", setting)]


def test_help_lists_the_commands_and_imports_nothing_but_click(ganctl: Ganctl) -> None:
    done = ganctl("--help")
    assert done.returncode == 0
    for command in ("train", "evaluate", "sample", "export", "package", "serve", "inspect", "doctor", "demo"):
        assert command in done.stdout
    code = "import sys; before = set(sys.modules); sys.argv = ['ganctl', '--help']\n"
    code += "import atexit\nfrom ganctl.__main__ import main\n@atexit.register\ndef show():\n"
    code += "    print({name.split('.')[0] for name in set(sys.modules) - before} - sys.stdlib_module_names)\nmain()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert set(ast.literal_eval(done.stdout.splitlines()[-1])) == {"click", "ganctl"}


def test_help_costs_little_more_than_clicks_import() -> None:
    """CPU time, beside each other: a busy or slow machine leaves the ratio as it is. The bar in seconds is a soak's."""

    def cpu_seconds(*words: str) -> float:
        process = subprocess.Popen([sys.executable, *words], stdout=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        assert process.returncode == 0
        return usage.ru_utime + usage.ru_stime

    ratios = [cpu_seconds("-m", "ganctl", "--help") / cpu_seconds("-c", "import click") for _ in range(7)]
    assert statistics.median(ratios) < 2, ratios  # 1.3; torch alone would make it 30


@pytest.mark.parametrize("command", ["train", "evaluate", "sample", "inspect", "export", "package", "serve", "doctor"])
def test_every_command_has_help_and_json(command: str, ganctl: Ganctl) -> None:
    done = ganctl(command, "--help")
    assert done.returncode == 0
    assert "--json" in done.stdout


def test_a_misspelt_command_is_told_with_the_right_one(ganctl: Ganctl) -> None:
    done = ganctl("trian")
    assert done.returncode == 2
    assert "Did you mean 'train'?" in done.stderr


def test_train_prints_one_object_and_leaves_a_run(ganctl: Ganctl, tmp_path: Path) -> None:
    done = ganctl("train", *SETTINGS, "--max-steps", 12, "--json", "--seed", 3)
    assert done.returncode == 0, done.stderr
    record = one_object(done.stdout)
    run_dir = tmp_path / "runs/00000-conv-mnist"
    assert record["run_dir"] == str(run_dir)
    assert (record["steps"], record["images"], record["stop_reason"]) == (12, 768, "max-steps")
    assert {"seconds", "images_per_second", "best", "last", "metrics"} <= record.keys()
    assert Path(str(record["best"])).is_file()
    assert "seed = 3" in (run_dir / "config.toml").read_text()
    assert re.search(r"^precision fp32: set by train.precision", done.stderr, re.MULTILINE)
    assert "images/s" in done.stderr


def test_all_faults_of_settings_are_told_at_once_with_exit_code_3(ganctl: Ganctl, tmp_path: Path) -> None:
    done = ganctl("train", "--preset", "covn", "--set", "train.sede=1", "--set", "optimizer.lr=-1", "--json")
    assert done.returncode == 3
    for expected in ("3 faults", "Did you mean conv?", "Did you mean train.seed", "optimizer.lr = -1"):
        assert expected in done.stderr
    assert one_object(done.stdout)["exit_code"] == 3
    assert list(tmp_path.iterdir()) == []
    assert "Traceback" not in done.stderr


def test_print_config_shows_every_value_and_its_source(ganctl: Ganctl) -> None:
    record = one_object(ganctl("train", "--epochs", 3, "--print-config", "--json").stdout)
    assert record["train.duration"] == {"value": "3 epochs", "source": "--epochs"}
    assert record["log.every"] == {"value": 100, "source": "default"}
    assert "preset conv" in ganctl("train", "--print-config").stdout


def test_dry_run_says_what_would_be_trained_and_leaves_nothing(ganctl: Ganctl, tmp_path: Path) -> None:
    record = one_object(ganctl("train", "--dry-run", "--epochs", 2, "--json").stdout)
    assert (record["steps"], record["batch_size"], record["training_images"]) == (1718, 64, 55_000)
    assert list(tmp_path.iterdir()) == []


OWN_CALLBACK = """
from ganctl.training.callbacks.base import Callback

class Greeting(Callback):
    def on_start(self, run):
        print("hello from", type(self).__name__, file=__import__("sys").stderr)
"""


def test_a_callback_of_ones_own_is_one_class_and_one_flag(ganctl: Ganctl, tmp_path: Path) -> None:
    (tmp_path / "my_callbacks.py").write_text(OWN_CALLBACK)
    command = [str(Path(sys.executable).with_name("ganctl")), "train", *SETTINGS, "--max-steps", "1"]
    done = subprocess.run(
        [*command, "--callback", "my_callbacks:Greeting"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "hello from Greeting" in done.stderr


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (("--precision", "fp16", "--device", "cpu"), 3, "train.precision = 'fp16'"),
        (("--set", "checkpoint.monitor=fid"), 3, "no callback produces the score 'fid', expected one of fd, fd_floor"),
        (("--callback", "nowhere:Nothing"), 3, "no module 'nowhere'"),
        (("--nproc", "0"), 3, "--nproc 0: expected a number of ranks above 0, or auto"),
        (("--nproc", "2", "--batch-size", "63"), 3, "expected a multiple of the 2 ranks. Give 62 or 64"),
        (("--nproc", "2", "--callback", "nowhere:Nothing"), 3, "no module 'nowhere'"),
        (("--max-time", "soon"), 2, "found 'soon', expected a duration such as 120s"),
        (("--init-from", "absent"), 4, "absent: no such run or checkpoint"),
        (("--set", "data.name=folder", "--set", "data.root=absent"), 4, "absent does not exist"),
    ],
)  # fmt: skip
def test_what_cannot_be_trained_is_told_before_anything_is_written(
    words: tuple[str, ...], code: int, told: str, ganctl: Ganctl, tmp_path: Path
) -> None:
    done = ganctl("train", *SETTINGS, *words, "--json")
    assert done.returncode == code, done.stderr
    assert told in done.stderr
    assert one_object(done.stdout)["exit_code"] == code
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_training_writes_nowhere_but_into_its_folder_and_the_users_cache(ganctl: Ganctl, tmp_path: Path) -> None:
    for name in ("home", "tmp", "here"):
        (tmp_path / name).mkdir()
    places = {"HOME": str(tmp_path / "home"), "TMPDIR": str(tmp_path / "tmp"), "XDG_CACHE_HOME": ""}
    environment = {**os.environ, **places, "OMP_NUM_THREADS": "1"}
    words = ("--run-dir", tmp_path / "run", "--max-steps", 12, "--nproc", 2, "--set", "log.tensorboard=true")
    done = ganctl("train", *SETTINGS, *words, "--json", cwd=tmp_path / "here", env=environment)
    assert done.returncode == 0, done.stderr
    assert one_object(done.stdout)["steps"] == 12
    assert "\x1b" not in done.stderr
    left = [path for name in ("home", "tmp", "here") for path in (tmp_path / name).rglob("*") if not path.is_dir()]
    kept = tmp_path / "home/.cache/ganctl/datasets"  # MNIST's training images and labels, decompressed once
    assert sorted(path.name[:22] for path in left) == ["train-images-idx3-ubyt", "train-labels-idx1-ubyt"]
    assert {path.parent for path in left} == {kept}


def test_dry_run_of_many_ranks_tells_the_batch_of_each_and_leaves_nothing(ganctl: Ganctl, tmp_path: Path) -> None:
    done = ganctl("train", "--dry-run", "--nproc", 2, "--json", env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    record = one_object(done.stdout)
    assert (record["ranks"], record["batch_size"], record["batch_size_per_rank"]) == (2, 64, 32)
    sizes = {name: int(str(record[f"{name}_bytes"])) for name in ("state", "data", "activation", "memory")}
    assert sizes["data"] == 55_000 * 784
    assert sizes["memory"] == sizes["state"] + sizes["data"] + sizes["activation"]
    assert list(tmp_path.iterdir()) == []


def test_sigterm_ends_training_with_130_and_resume_goes_on(ganctl: Ganctl, tmp_path: Path) -> None:
    hold = Hold(tmp_path / "hold", 10)
    command = [sys.executable, "-m", "ganctl", "train", *SETTINGS, *held.CALLBACK, "--run-dir", "run", "--json"]
    environment = os.environ | hold.environment
    process = subprocess.Popen(
        command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    hold.wait(process)
    process.send_signal(signal.SIGTERM)
    stdout, stderr = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130
    assert "--resume auto" in stderr
    steps = one_object(stdout)["steps"]
    assert isinstance(steps, int)
    assert 10 <= steps <= 11  # the signal is noticed in this step or the next
    done = ganctl("train", "--run-dir", "run", "--resume", "auto", "--max-steps", steps + 2, "--json")
    assert done.returncode == 0, done.stderr
    assert f"from step {steps}" in done.stderr
    assert one_object(done.stdout)["steps"] == steps + 2


def test_a_run_is_not_written_over(ganctl: Ganctl, small_run: Path) -> None:
    done = ganctl("train", "--run-dir", small_run)
    assert done.returncode == 2
    assert "--resume auto" in done.stderr


def test_damaged_data_is_told_with_exit_code_4_and_leaves_no_run(ganctl: Ganctl, tmp_path: Path) -> None:
    root = tmp_path / "data"
    root.mkdir()
    for path in EMBEDDED.glob("*.gz"):
        (root / path.name).write_bytes(path.read_bytes()[:20_000])
    done = ganctl("train", "--set", f"data.root={root}", "--run-dir", tmp_path / "run")
    assert done.returncode == 4
    assert "not a complete gzip file" in done.stderr
    assert not (tmp_path / "run").exists()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 20 MB that a test may fill, or make read-only."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=40m", "tmpfs", str(folder)]
    if subprocess.run(mount, check=False, capture_output=True).returncode != 0:
        pytest.skip("needs the right to mount a small file system")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_folder_that_cannot_be_written_is_told(ganctl: Ganctl, small_disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    done = ganctl("train", *SETTINGS, "--max-steps", 1, "--run-dir", small_disk / "run")
    assert done.returncode == 1
    assert f"{small_disk}/run" in done.stderr
    assert "Read-only file system. Name a folder that can be written." in done.stderr
    assert "Traceback" not in done.stderr


def test_a_disk_that_fills_ends_training_with_a_word_and_no_half_written_checkpoint(
    ganctl: Ganctl, small_disk: Path
) -> None:
    (small_disk / "ballast").write_bytes(bytes(39_500_000))
    done = ganctl(
        "train", *SETTINGS, "--set", "model.base_channels=32", "--max-steps", 1, "--run-dir", small_disk / "run"
    )
    assert done.returncode == 1
    assert "No space left on device. Free some space" in done.stderr
    assert "Traceback" not in done.stderr
    assert list((small_disk / "run/checkpoints").iterdir()) == []


def test_a_disk_that_fills_in_a_later_save_keeps_the_one_before_from_which_the_run_goes_on_exactly(
    ganctl: Ganctl, small_disk: Path, tmp_path: Path
) -> None:
    words = ("train", *SETTINGS, "--set", "checkpoint.every=256 images", "--set", "evaluation.every=512 images")
    assert ganctl(*words, "--max-steps", 6, "--run-dir", small_disk / "run").returncode == 0
    names = sorted(path.name for path in (small_disk / "run/checkpoints").iterdir())
    with (small_disk / "ballast").open("wb", buffering=0) as ballast:
        size = os.statvfs(small_disk)
        ballast.write(bytes(size.f_bavail * size.f_bsize - 200_000))
    again = ("train", "--run-dir", small_disk / "run", "--resume", "auto", "--max-steps", 10)
    done = ganctl(*again)
    assert done.returncode == 1
    assert "No space left on device. Free some space" in done.stderr
    assert sorted(path.name for path in (small_disk / "run/checkpoints").iterdir()) == names
    for name in names:
        read_checkpoint(small_disk / "run/checkpoints" / name)  # whole
    (small_disk / "ballast").unlink()
    assert ganctl(*again).returncode == 0
    assert ganctl(*words, "--max-steps", 10, "--run-dir", tmp_path / "whole").returncode == 0
    assert_same_run(tmp_path / "whole", small_disk / "run")


def test_evaluate_scores_a_run_and_a_checkpoint_alike(ganctl: Ganctl, small_run: Path) -> None:
    by_run = one_object(ganctl("evaluate", small_run, "--num-images", 500, "--json").stdout)
    best = small_run / "checkpoints/best.safetensors"
    by_file = one_object(ganctl("evaluate", best, "--num-images", 500, "--json").stdout)
    names = {"fd", "fd_floor", "precision", "recall", "density", "coverage", "label_accuracy", "num_images"}
    assert names <= by_run.keys()
    assert {name: by_run[name] for name in names} == {name: by_file[name] for name in names}
    told = ganctl("evaluate", small_run, "--num-images", 500, "--split", "val")
    assert "on the val images: Fréchet distance" in told.stdout


def test_an_unconditional_generator_has_no_label_scores_and_draws_no_named_digit(
    ganctl: Ganctl, small_unconditional_run: Path
) -> None:
    record = one_object(ganctl("evaluate", small_unconditional_run, "--num-images", 200, "--json").stdout)
    assert record["label_accuracy"] is None
    done = ganctl("sample", small_unconditional_run, "--digit", 7, "--out", "x.png")
    assert done.returncode == 2
    assert "unconditional" in done.stderr
    assert ganctl("sample", small_unconditional_run, "--count", 3, "--out", "x.png").returncode == 0


def test_inspect_tells_step_metrics_and_digests(ganctl: Ganctl, small_run: Path) -> None:
    record = one_object(ganctl("inspect", small_run / "checkpoints/last.safetensors", "--json").stdout)
    assert (record["kind"], record["step"]) == ("checkpoint", 40)
    assert len(str(record["generator_sha256"])) == 64
    assert "fd" in dict(record["metrics"])  # type: ignore[call-overload]
    run = one_object(ganctl("inspect", small_run, "--json").stdout)
    assert run["kind"] == "run"
    assert run["checkpoints"] == ["best", "last"]


def test_absent_damaged_and_unfinished_sources_have_exit_code_4(
    ganctl: Ganctl, tmp_path: Path, small_run: Path
) -> None:
    best = (small_run / "checkpoints/best.safetensors").read_bytes()
    (tmp_path / "half.safetensors").write_bytes(best[: len(best) // 2])
    (tmp_path / "young/checkpoints").mkdir(parents=True)
    for command in (("evaluate",), ("inspect",), ("export",), ("sample", "--out", "x.png")):
        for source, told in (
            ("absent", "absent"),
            ("half.safetensors", "damaged"),
            ("young", "no best checkpoint yet"),
        ):
            if command[0] == "inspect" and source == "young":
                continue  # it says that there are none
            done = ganctl(command[0], source, *command[1:])
            assert done.returncode == 4, (command, source, done)
            assert told in done.stderr
            assert "Traceback" not in done.stderr
    assert not (tmp_path / "x.png").exists()


def test_environment_variables_set_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GANCTL_TRAIN__SEED", "77")
    launch = Session()
    assert launch.config.train.seed == 77
    assert launch.sources["train.seed"] == "GANCTL_TRAIN__SEED"


def test_a_run_ends_with_what_its_scores_mean_what_was_chosen_and_what_to_type_next(
    ganctl: Ganctl, tmp_path: Path
) -> None:
    settings = (*SETTINGS, "--set", "train.batch_size=32", "--set", "train.duration=640 images")
    limited = ganctl("train", *settings, "--set", "evaluation.every=320 images", "--max-steps", 10, "--run-dir", "run")
    assert limited.returncode == 0, limited.stderr
    on_val, meaning, best, sample, resume = limited.stdout.splitlines()[1:]
    assert on_val.startswith("on the val images: Fréchet distance")
    assert re.match(r"\d+\.\d × the floor is far: many images do not look real", meaning)
    assert re.match(r"best checkpoint: step 10, validation FD \d+\.\d\d; run/checkpoints/best", best)
    assert sample == "next: ganctl sample run --out digits.png"
    assert resume == "continue to the end (640 images): ganctl train --run-dir run --resume auto"
    complete = ganctl(*shlex.split(resume.partition(": ganctl ")[2]))
    assert complete.returncode == 0, complete.stderr
    longer = complete.stdout.splitlines()[-1]
    assert longer.endswith("ganctl train --run-dir run --resume auto --set train.duration='1280 images'")
    again = ganctl(*shlex.split(longer.partition(": ganctl ")[2]), "--max-steps", 22, "--json")
    assert again.returncode == 0, again.stderr
    assert one_object(again.stdout)["steps"] == 22
    assert "× the floor is" not in again.stdout
