"""The commands as a user types them: JSON output, error messages, exit codes, and no incomplete files."""

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
from ganctl.training.data.named import EMBEDDED
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


def test_help_takes_little_more_cpu_time_than_the_import_of_click() -> None:
    """The ratio of CPU times does not depend on the machine or its load. A soak test limits the seconds."""

    def cpu_seconds(*words: str) -> float:
        process = subprocess.Popen([sys.executable, *words], stdout=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        assert process.returncode == 0
        return usage.ru_utime + usage.ru_stime

    ratios = [cpu_seconds("-m", "ganctl", "--help") / cpu_seconds("-c", "import click") for _ in range(7)]
    assert statistics.median(ratios) < 2, ratios  # 1.3; torch alone would make it 30


@pytest.mark.parametrize(
    ("typed", "completed"),
    [
        ("ev", {"evaluate"}),
        ("train --pre", {"--preset", "--precision"}),
        ("train --device c", {"cpu", "cuda"}),
        ("bench q", {"quality"}),
    ],
)
def test_a_shell_completes_commands_and_flags_without_importing_torch(
    typed: str, completed: set[str], started_ganctl: Ganctl
) -> None:
    shell = {"_GANCTL_COMPLETE": "bash_complete", "COMP_LINE": f"ganctl {typed}", "COMP_WORD": typed.split(" ")[-1]}
    done = started_ganctl(env=os.environ | shell | {"PYTHONPROFILEIMPORTTIME": "1"})
    assert done.returncode == 0, done.stderr
    assert {line.removeprefix("plain,") for line in done.stdout.splitlines()} == completed
    assert "| click" in re.sub(" +", " ", done.stderr), "the imports are listed"
    assert not re.search(r"\| +torch$", done.stderr, re.MULTILINE)


@pytest.mark.parametrize("command", ["train", "evaluate", "sample", "inspect", "export", "package", "serve", "doctor"])
def test_every_command_has_help_and_json(command: str, ganctl: Ganctl) -> None:
    done = ganctl(command, "--help")
    assert done.returncode == 0
    assert "--json" in done.stdout


def test_doctor_lists_the_precisions_that_train_accepts_on_this_machine(ganctl: Ganctl) -> None:
    findings = one_object(ganctl("doctor", "--json").stdout)["findings"]
    found = findings["torch"]["found"]  # type: ignore[index]  # the type of JSON values is unknown
    for precision in ("fp32", "bf16", "fp16"):
        accepted = ganctl("train", "--dry-run", "--precision", precision).returncode == 0
        assert (precision in found.partition("precisions ")[2].split(", ")) == accepted, found


def test_a_misspelled_command_gets_a_suggestion(ganctl: Ganctl) -> None:
    done = ganctl("trian")
    assert done.returncode == 2
    assert re.search(r"'trian'.*'train'", done.stderr)


def test_train_prints_one_object_and_writes_a_run(ganctl: Ganctl, tmp_path: Path) -> None:
    done = ganctl("train", *SETTINGS, "--max-steps", 12, "--json", "--seed", 3)
    assert done.returncode == 0, done.stderr
    record = one_object(done.stdout)
    run_dir = tmp_path / "runs/00000-auto-mnist"
    assert record["run_dir"] == str(run_dir)
    assert (record["steps"], record["images"], record["stop_reason"]) == (12, 1536, "max-steps")
    assert {"seconds", "images_per_second", "best", "last", "metrics"} <= record.keys()
    assert Path(str(record["best"])).is_file()
    assert "seed = 3" in (run_dir / "config.toml").read_text()
    assert re.search(r"^precision fp32: .*train\.precision", done.stderr, re.MULTILINE)
    assert "images/s" in done.stderr


def test_all_errors_of_the_settings_are_reported_together_with_exit_code_3(ganctl: Ganctl, tmp_path: Path) -> None:
    done = ganctl("train", "--preset", "covn", "--set", "train.sede=1", "--set", "optimizer.lr=-1", "--json")
    assert done.returncode == 3
    errors = [line for line in done.stderr.splitlines() if line.startswith("  - ")]
    assert len(errors) == 3
    for expected in (r"'covn'.*\bconv\b", r"'train\.sede'.*\btrain\.seed\b", r"optimizer\.lr = -1"):
        assert any(re.search(expected, error) for error in errors), done.stderr
    assert one_object(done.stdout)["exit_code"] == 3
    assert list(tmp_path.iterdir()) == []
    assert "Traceback" not in done.stderr


def test_print_config_shows_every_value_and_its_source(ganctl: Ganctl) -> None:
    record = one_object(ganctl("train", "--epochs", 3, "--print-config", "--json").stdout)
    assert record["train.duration"] == {"value": "3 epochs", "source": "--epochs"}
    assert record["log.every"] == {"value": 100, "source": "default"}
    assert "preset auto" in ganctl("train", "--print-config").stdout


def test_the_argument_data_sets_data_source_above_all_other_sources(ganctl: Ganctl, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    words = ("--preset", "conv", "--set", "data.source=kmnist", "--print-config", "--json")
    record = one_object(ganctl("train", "images", *words).stdout)
    assert record["data.source"] == {"value": str(tmp_path / "images"), "source": "DATA"}


def test_dry_run_reports_steps_and_images_and_writes_nothing(ganctl: Ganctl, tmp_path: Path) -> None:
    record = one_object(ganctl("train", "--dry-run", "--epochs", 2, "--json").stdout)
    assert (record["steps"], record["batch_size"], record["training_images"]) == (858, 128, 55_000)
    assert list(tmp_path.iterdir()) == []


CUSTOM_CALLBACK = """
from ganctl.training.callbacks.base import Callback

class Greeting(Callback):
    def on_start(self, run):
        print("hello from", type(self).__name__, file=__import__("sys").stderr)
"""


def test_a_custom_callback_needs_one_class_and_one_flag(ganctl: Ganctl, tmp_path: Path) -> None:
    (tmp_path / "my_callbacks.py").write_text(CUSTOM_CALLBACK)
    command = [str(Path(sys.executable).with_name("ganctl")), "train", *SETTINGS, "--max-steps", "1"]
    done = subprocess.run(
        [*command, "--callback", "my_callbacks:Greeting"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "hello from Greeting" in done.stderr


@pytest.mark.parametrize(
    ("words", "code", "reason"),
    [
        (("--precision", "fp16", "--device", "cpu"), 3, r"train\.precision = 'fp16'"),
        (("--set", "checkpoint.monitor=fid"), 3, r"'fid'.*\bfd, fd_floor\b"),
        (("--callback", "nowhere:Nothing"), 3, r"--callback nowhere:Nothing: .*'nowhere'"),
        (("--nproc", "0"), 3, r"--nproc 0: .*\bauto\b"),
        (("--nproc", "2", "--batch-size", "63"), 3, r"train\.batch_size = 63: .*\b2\b.*\b62\b.*\b64\b"),
        (("--nproc", "2", "--callback", "nowhere:Nothing"), 3, r"--callback nowhere:Nothing: .*'nowhere'"),
        (("--max-time", "soon"), 2, r"--max-time.*'soon'.*\b120s\b"),
        (("--init-from", "absent"), 4, r"\babsent: "),
        (("absent",), 3, r"DATA: data\.source = 'absent'.*\bpath\b"),
        (("--set", "data.source=absent"), 3, r"--set: data\.source = 'absent'.*\bpath\b"),
        (("./absent",), 4, r"data\.source: \S*/absent\b"),
    ],
)  # fmt: skip
def test_a_run_that_cannot_start_is_refused_before_anything_is_written(
    words: tuple[str, ...], code: int, reason: str, ganctl: Ganctl, tmp_path: Path
) -> None:
    done = ganctl("train", *SETTINGS, *words, "--json")
    assert done.returncode == code, done.stderr
    assert re.search(reason, done.stderr), done.stderr
    assert one_object(done.stdout)["exit_code"] == code
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_training_writes_only_into_its_folder_and_the_users_cache(ganctl: Ganctl, tmp_path: Path) -> None:
    for name in ("home", "tmp", "here"):
        (tmp_path / name).mkdir()
    folders = {"HOME": str(tmp_path / "home"), "TMPDIR": str(tmp_path / "tmp"), "XDG_CACHE_HOME": ""}
    environment = {**os.environ, **folders, "OMP_NUM_THREADS": "1"}
    words = ("--run-dir", tmp_path / "run", "--max-steps", 12, "--nproc", 2, "--set", "log.tensorboard=true")
    done = ganctl("train", *SETTINGS, *words, "--json", cwd=tmp_path / "here", env=environment)
    assert done.returncode == 0, done.stderr
    assert one_object(done.stdout)["steps"] == 12
    assert "\x1b" not in done.stderr
    files = [path for name in ("home", "tmp", "here") for path in (tmp_path / name).rglob("*") if not path.is_dir()]
    cache = tmp_path / "home/.cache/ganctl"
    by_folder = {
        folder: sorted(path.name[:22] for path in files if path.parent == folder) for folder in cache.iterdir()
    }
    assert sum(map(len, by_folder.values())) == len(files)
    assert {folder.name for folder in by_folder} == {"datasets", "real"}
    # MNIST's images and labels, decompressed once, and the statistics of the validation images
    mnist = ["t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte", "train-images-idx3-ubyt", "train-labels-idx1-ubyt"]
    assert by_folder[cache / "datasets"] == mnist
    assert len(by_folder[cache / "real"]) == 1


@pytest.mark.soak
def test_dry_run_of_two_ranks_reports_the_batch_and_memory_of_each_and_writes_nothing(
    ganctl: Ganctl, tmp_path: Path
) -> None:
    done = ganctl("train", "--dry-run", "--nproc", 2, "--json", env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    record = one_object(done.stdout)
    assert (record["ranks"], record["batch_size"], record["batch_size_per_rank"]) == (2, 128, 64)
    sizes = {name: int(str(record[f"{name}_bytes"])) for name in ("state", "data", "activation", "memory")}
    assert sizes["data"] == 55_000 * 784
    assert sizes["memory"] == sizes["state"] + sizes["data"] + sizes["activation"]
    assert list(tmp_path.iterdir()) == []


def test_sigterm_ends_training_with_130_and_resume_continues(ganctl: Ganctl, tmp_path: Path) -> None:
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
    assert 10 <= steps <= 11  # training stops after this step or the next
    done = ganctl("train", "--run-dir", "run", "--resume", "auto", "--max-steps", steps + 2, "--json")
    assert done.returncode == 0, done.stderr
    assert re.search(rf"/last\.safetensors .*\bstep {steps}\b", done.stderr), done.stderr
    assert one_object(done.stdout)["steps"] == steps + 2


def test_a_run_is_not_overwritten(ganctl: Ganctl, small_run: Path) -> None:
    done = ganctl("train", "--run-dir", small_run)
    assert done.returncode == 2
    assert f"--run-dir {small_run}: " in done.stderr
    assert "--resume auto" in done.stderr


def test_damaged_data_has_exit_code_4_and_leaves_no_run(ganctl: Ganctl, tmp_path: Path) -> None:
    root = tmp_path / "data"
    root.mkdir()
    for path in EMBEDDED.glob("*.gz"):
        (root / path.name).write_bytes(path.read_bytes()[:20_000])
    done = ganctl("train", "--set", f"data.source={root}", "--run-dir", tmp_path / "run")
    assert done.returncode == 4
    assert re.search(rf"{re.escape(str(root))}/\S+\.gz: .*\bgzip\b", done.stderr), done.stderr
    assert not (tmp_path / "run").exists()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 40 MB that a test may fill, or make read-only."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=40m", "tmpfs", str(folder)]
    if subprocess.run(mount, check=False, capture_output=True).returncode != 0:
        pytest.skip("needs the right to mount a small file system")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_read_only_run_folder_is_named_in_the_error(ganctl: Ganctl, small_disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    done = ganctl("train", *SETTINGS, "--max-steps", 1, "--run-dir", small_disk / "run")
    assert done.returncode == 1
    assert re.search(rf"{re.escape(str(small_disk))}/run\S*: Read-only file system", done.stderr), done.stderr
    assert "Traceback" not in done.stderr


def test_a_full_disk_ends_training_with_a_message_and_no_partial_checkpoint(ganctl: Ganctl, small_disk: Path) -> None:
    (small_disk / "ballast").write_bytes(bytes(39_500_000))
    done = ganctl(
        "train", *SETTINGS, "--set", "model.base_channels=32", "--max-steps", 1, "--run-dir", small_disk / "run"
    )
    assert done.returncode == 1
    assert re.search(rf"{re.escape(str(small_disk))}/run/\S+: No space left on device", done.stderr), done.stderr
    assert "Traceback" not in done.stderr
    assert list((small_disk / "run/checkpoints").iterdir()) == []


def test_a_disk_that_fills_in_a_later_save_keeps_the_earlier_checkpoints_for_an_exact_resume(
    ganctl: Ganctl, small_disk: Path, tmp_path: Path
) -> None:
    intervals = ("train.batch_size=64", "checkpoint.every=256 images", "evaluation.every=512 images")
    words = ("train", *SETTINGS, *(word for setting in intervals for word in ("--set", setting)))
    assert ganctl(*words, "--max-steps", 6, "--run-dir", small_disk / "run").returncode == 0
    names = sorted(path.name for path in (small_disk / "run/checkpoints").iterdir())
    with (small_disk / "ballast").open("wb", buffering=0) as ballast:
        size = os.statvfs(small_disk)
        ballast.write(bytes(size.f_bavail * size.f_bsize - 200_000))
    again = ("train", "--run-dir", small_disk / "run", "--resume", "auto", "--max-steps", 10)
    done = ganctl(*again)
    assert done.returncode == 1
    assert re.search(rf"{re.escape(str(small_disk))}/run/\S+: No space left on device", done.stderr), done.stderr
    assert sorted(path.name for path in (small_disk / "run/checkpoints").iterdir()) == names
    for name in names:
        read_checkpoint(small_disk / "run/checkpoints" / name)  # raises an error if the file is damaged
    (small_disk / "ballast").unlink()
    assert ganctl(*again).returncode == 0
    assert ganctl(*words, "--max-steps", 10, "--run-dir", tmp_path / "uninterrupted").returncode == 0
    assert_same_run(tmp_path / "uninterrupted", small_disk / "run")


def test_evaluate_scores_a_run_and_a_checkpoint_alike(ganctl: Ganctl, small_run: Path) -> None:
    by_run = one_object(ganctl("evaluate", small_run, "--num-images", 500, "--json").stdout)
    best = small_run / "checkpoints/best.safetensors"
    by_file = one_object(ganctl("evaluate", best, "--num-images", 500, "--json").stdout)
    names = {"fd", "fd_floor", "precision", "recall", "density", "coverage", "label_accuracy", "num_images"}
    assert names <= by_run.keys()
    assert {name: by_run[name] for name in names} == {name: by_file[name] for name in names}
    text = ganctl("evaluate", small_run, "--num-images", 500, "--split", "val").stdout
    assert re.search(r"\bval\b.*\bFréchet distance\b", text)


def test_an_unconditional_generator_has_no_label_scores_and_refuses_a_label(
    ganctl: Ganctl, small_unconditional_run: Path
) -> None:
    record = one_object(ganctl("evaluate", small_unconditional_run, "--num-images", 200, "--json").stdout)
    assert record["label_accuracy"] is None
    done = ganctl("sample", small_unconditional_run, "--digit", 7, "--out", "x.png")
    assert done.returncode == 2
    assert re.search(r"--label: .*\bunconditional\b", done.stderr), done.stderr
    assert ganctl("sample", small_unconditional_run, "--count", 3, "--out", "x.png").returncode == 0


def test_inspect_shows_step_metrics_and_digests(ganctl: Ganctl, small_run: Path) -> None:
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
        for source, reason in (
            ("absent", r"expected .*\. Check the path"),
            ("half.safetensors", "damaged"),
            ("young", "no best checkpoint"),
        ):
            if command[0] == "inspect" and source == "young":
                continue  # `inspect` accepts a run without checkpoints
            done = ganctl(command[0], source, *command[1:])
            assert done.returncode == 4, (command, source, done)
            assert re.search(rf"\b{source}: .*{reason}", done.stderr), done.stderr
            assert "Traceback" not in done.stderr
    assert not (tmp_path / "x.png").exists()


def test_environment_variables_set_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GANCTL_TRAIN__SEED", "77")
    session = Session()
    assert session.config.train.seed == 77
    assert session.sources["train.seed"] == "GANCTL_TRAIN__SEED"


def test_train_ends_with_scores_their_meaning_the_best_checkpoint_and_the_next_commands(
    ganctl: Ganctl, tmp_path: Path
) -> None:
    settings = (*SETTINGS, "--set", "train.batch_size=32", "--set", "train.duration=640 images")
    limited = ganctl("train", *settings, "--set", "evaluation.every=320 images", "--max-steps", 10, "--run-dir", "run")
    assert limited.returncode == 0, limited.stderr
    scores, meaning, best, sample, resume = limited.stdout.splitlines()[1:]
    assert re.search(r"\bval\b.*\bFréchet distance\b", scores)
    assert re.search(r"\bKID of \d+\.\d+\b", meaning)
    assert re.search(r"\bstep 10\b.*\bFD \d+\.\d\d\b.* run/checkpoints/best", best)
    assert sample.endswith(": ganctl sample run --out samples.png")
    assert re.search(r"\b640 images\b.*: ganctl train --run-dir run --resume auto$", resume)
    complete = ganctl(*shlex.split(resume.partition(": ganctl ")[2]))
    assert complete.returncode == 0, complete.stderr
    longer = complete.stdout.splitlines()[-1]
    assert longer.endswith(": ganctl train --run-dir run --resume auto --set train.duration='1280 images'")
    again = ganctl(*shlex.split(longer.partition(": ganctl ")[2]), "--max-steps", 22, "--json")
    assert again.returncode == 0, again.stderr
    assert one_object(again.stdout)["steps"] == 22
    assert "KID of" not in again.stdout
