"""The command `demo`: trains, evaluates, exports, packages and serves a generator of digits.

Each stage is a `ganctl` command in a child process. Its JSON object is read from stdout; its messages go to stderr.
"""

import fcntl
import json
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click

from ganctl.options import PathParam, json_option
from ganctl.processes import ganctl_command
from ganctl.serving.client.client import Client
from ganctl.streams import emit

_STYLES = 8  # rows of the image, one latent each
_SCALE = 3
_TRAIN_SHARE = 0.87  # share of the training time; the rest is start-up and two evaluations
_PER_CLASS = 50  # served digits per class that the classifier reads
_MARKER = ".ganctl-demo"  # marks a folder that the next demo may replace
_OUTPUTS = ("run", "export", "digits.mar", "digits.png", "served.npz")


class DemoError(Exception):
    """A stage failed and printed its error; the demo exits with the exit code of the stage."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


@dataclass
class Report:
    """The results of a demo: files by name, seconds by stage, and the JSON objects of the stages."""

    files: dict[str, Path]
    seconds: dict[str, float] = field(default_factory=dict)
    records: dict[str, dict[str, Any]] = field(default_factory=dict)


def run_demo(out: Path, *, train_seconds: int, announce: Callable[[str], None]) -> Report:
    """Runs all stages; writes `run`, `export`, `digits.mar`, `digits.png` and `served.npz` in `out`.

    Args:
        out: the output folder; the files of an earlier demo in it are replaced.
        train_seconds: the time for training.
        announce: called with a message for the user.

    Raises:
        DemoError: a stage failed.
    """
    with _locked_folder(out, announce):
        return _run_stages(out, train_seconds, announce)


def _run_stages(out: Path, train_seconds: int, announce: Callable[[str], None]) -> Report:
    files = {name: out / name for name in _OUTPUTS}
    report = Report(files)

    @contextmanager
    def stage(name: str, description: str) -> Iterator[None]:
        announce(f"── {name}: {description}")
        start = time.monotonic()
        yield
        report.seconds[name] = time.monotonic() - start

    def command(*arguments: object) -> dict[str, Any]:
        return _run_command([str(argument) for argument in arguments])

    with stage("train", f"a generator of digits, for about {train_seconds} s on the embedded MNIST"):
        steps = round(train_seconds * _TRAIN_SHARE)
        lengths = ("--set", f"train.duration={steps}s", "--set", f"evaluation.every={max(1, round(steps * 0.6))}s")
        report.records["train"] = command("train", "--preset", "quick", *lengths, "--run-dir", files["run"])
    with stage("evaluate", "the best checkpoint on the 10,000 test images"):
        report.records["evaluate"] = command("evaluate", files["run"])
    with stage("export", "the generator as TorchScript, ONNX and PT2, each compared with the checkpoint"):
        report.records["export"] = command("export", files["run"], "--out", files["export"])
    with stage("package", "an archive for TorchServe"):
        report.records["package"] = command("package", files["export"], "--out", out)
    arguments = ["serve", str(files["digits.mar"]), "--port", "0", "--json"]
    server = subprocess.Popen(ganctl_command(*arguments), stdout=subprocess.PIPE, encoding="utf-8")
    try:
        with stage("serve", "TorchServe starts"):
            ready = _first_line(server, arguments)
        with stage("ask", f"{_STYLES} rows of digits over HTTP, and {10 * _PER_CLASS} digits for the classifier"):
            with Client(ready["url"]) as client:
                picture = client.picture(text="0123456789", count=_STYLES, scale=_SCALE, seed=0)
            files["digits.png"].write_bytes(picture)
            command("sample", ready["url"], "--per-class", _PER_CLASS, "--seed", 1, "--out", files["served.npz"])
            report.records["served"] = command("evaluate", files["served.npz"])
    finally:
        _stop(server)
    return report


@contextmanager
def _locked_folder(out: Path, announce: Callable[[str], None]) -> Iterator[None]:
    """Creates and locks the output folder, and deletes the files of an earlier demo.

    Raises:
        DemoError: the folder belongs to something else, or another demo uses it.
    """
    if out.exists() and any(out.iterdir()) and not (out / _MARKER).exists():
        raise DemoError(f"--out {out}: found files of no demo, expected an empty folder. Name another folder.", 2)
    out.mkdir(parents=True, exist_ok=True)
    with (out / _MARKER).open("a") as marker:
        try:
            fcntl.flock(marker, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DemoError(
                f"--out {out}: another demo uses it. Wait until it ends, or name another folder.", 2
            ) from None
        except OSError as error:
            announce(f"{out}: this file system has no locks ({error.strerror}). Run only one demo there.")
        for name in _OUTPUTS:
            path = out / name
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
        yield


def _run_command(arguments: list[str]) -> dict[str, Any]:
    process = subprocess.Popen(ganctl_command(*arguments, "--json"), stdout=subprocess.PIPE, encoding="utf-8")
    try:
        stdout, _ = process.communicate()
    except BaseException:  # on a signal, the stage must end cleanly as well
        _stop(process)
        raise
    if process.returncode != 0:
        raise DemoError(f"'ganctl {' '.join(arguments)}' failed. See its error above.", process.returncode)
    record: dict[str, Any] = json.loads(stdout)
    return record


def _first_line(server: subprocess.Popen[str], arguments: list[str]) -> dict[str, Any]:
    assert server.stdout is not None, "it is a pipe"
    line = server.stdout.readline()
    ready: dict[str, Any] = json.loads(line) if line.strip() else {"error": ""}
    if "error" in ready:
        raise DemoError(f"'ganctl {' '.join(arguments)}' failed. See its error above.", server.wait() or 6)
    return ready


def _stop(process: subprocess.Popen[str]) -> None:
    """Terminates a stage (training saves, a server stops its workers) and waits until it has ended."""
    process.terminate()
    try:
        process.wait(timeout=60)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        raise


@click.command()
@click.option("--out", type=PathParam(file_okay=False), default="demo", show_default=True, help="Output folder.")
@click.option(
    "--train-seconds", type=click.IntRange(min=10), default=120, show_default=True, help="Training time in seconds."
)
@json_option
def demo(out: str, train_seconds: int, as_json: bool) -> None:
    """Train, evaluate, export, package and serve a generator, in less than three minutes on two cores."""
    report = run_demo(Path(out), train_seconds=train_seconds, announce=lambda text: click.echo(text, err=True))
    if as_json:
        files = {name: str(path.resolve()) for name, path in report.files.items()}
        emit({"files": files, "seconds": report.seconds, **report.records})
        return
    click.echo("\n" + "\n".join(f"{name:<20} {value}" for name, value in _demo_table(report)))
    click.echo(f"\nLook at {report.files['digits.png']}. Next: ganctl serve {report.files['digits.mar']}")


def _demo_table(report: Report) -> list[tuple[str, str]]:
    scores, served = report.records["evaluate"], report.records["served"]
    outputs = {"run": "run", "export": "export", "archive": "digits.mar", "picture": "digits.png"}
    return [
        *((name, str(report.files[file])) for name, file in outputs.items()),
        ("Fréchet distance", f"{scores['fd']:.2f} ({scores['fd_ratio']:.1f} × the floor of real images)"),
        ("precision, recall", f"{scores['precision']:.3f}, {scores['recall']:.3f}"),
        ("density, coverage", f"{scores['density']:.3f}, {scores['coverage']:.3f}"),
        (
            "label accuracy",
            f"{scores['label_accuracy']:.3f}; of {served['num_images']} served digits {served['label_accuracy']:.3f}",
        ),
        ("scoring classifier", f"reads {scores['scorer_accuracy']:.2%} of held-out images right"),
        *((f"time to {name}", f"{seconds:.1f} s") for name, seconds in report.seconds.items()),
        ("time in all", f"{sum(report.seconds.values()):.1f} s"),
    ]
