"""The command `demo`: trains, evaluates, exports, packages and serves a generator of digits.

Each stage is a `ganctl` command in a child process. Its JSON object is read from stdout; its messages go to stderr.
"""

import fcntl
import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from ganctl.options import PathParam, json_option
from ganctl.processes import ganctl_command
from ganctl.serving.client.client import Client
from ganctl.streams import note, print_json

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


@click.command()
@click.option("--out", type=PathParam(file_okay=False, path_type=Path), default="demo", help="Output folder.")
@click.option("--train-seconds", type=click.IntRange(min=10), default=120, help="Training time in seconds.")
@json_option
def demo(out: Path, train_seconds: int, as_json: bool) -> None:
    """Train, evaluate, export, package and serve a generator, in less than three minutes on two cores."""
    files = {name: out / name for name in _OUTPUTS}
    with _locked_folder(out):
        records = _run_stages(files, train_seconds)
    if as_json:
        paths = {name: str(path.resolve()) for name, path in files.items()}
        print_json({"files": paths, **records})
        return
    click.echo("\n" + "\n".join(f"{name:<20} {value}" for name, value in (files | _summary(records)).items()))
    click.echo(f"\nLook at {files['digits.png']}. Next: ganctl serve {files['digits.mar']}")


@contextmanager
def _locked_folder(out: Path) -> Iterator[None]:
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
            raise DemoError(f"--out {out}: another demo uses it. Wait, or name another folder.", 2) from None
        except OSError as error:
            note(f"{out}: this file system has no locks ({error.strerror}). Run only one demo there.")
        for name in _OUTPUTS:
            shutil.rmtree(out / name, ignore_errors=True)
            (out / name).unlink(missing_ok=True)
        yield


def _run_stages(files: dict[str, Path], train_seconds: int) -> dict[str, dict[str, Any]]:
    """Runs all stages, which write `files`; returns the stages' JSON objects by name, and `seconds` by stage.

    Raises:
        DemoError: a stage failed.
    """
    seconds: dict[str, float] = {}
    records: dict[str, dict[str, Any]] = {"seconds": seconds}

    @contextmanager
    def stage(name: str, description: str) -> Iterator[None]:
        note(f"── {name}: {description}")
        start = time.monotonic()
        yield
        seconds[name] = time.monotonic() - start

    with stage("train", f"a generator of digits, for about {train_seconds} s on the embedded MNIST"):
        steps = round(train_seconds * _TRAIN_SHARE)
        lengths = ("--set", f"train.duration={steps}s", "--set", f"evaluation.every={max(1, round(steps * 0.6))}s")
        records["train"] = _run("train", "--preset", "quick", *lengths, "--run-dir", files["run"])
    with stage("evaluate", "the best checkpoint on the 10,000 test images"):
        records["evaluate"] = _run("evaluate", files["run"])
    with stage("export", "the generator as TorchScript, ONNX and PT2, each compared with the checkpoint"):
        records["export"] = _run("export", files["run"], "--out", files["export"])
    with stage("package", "an archive for TorchServe"):
        records["package"] = _run("package", files["export"], "--out", files["digits.mar"].parent)
    server = _start("serve", files["digits.mar"], "--port", 0)
    try:
        with stage("serve", "TorchServe starts"):
            assert server.stdout is not None, "it is a pipe"
            ready = json.loads(server.stdout.readline() or "{}")
            if "url" not in ready:
                raise DemoError("'ganctl serve' failed. See its error above.", server.wait() or 6)
        with stage("ask", f"{_STYLES} rows of digits over HTTP, and {10 * _PER_CLASS} digits for the classifier"):
            with Client(ready["url"]) as client:
                picture = client.picture(text="0123456789", count=_STYLES, scale=_SCALE, seed=0)
            files["digits.png"].write_bytes(picture)
            _run("sample", ready["url"], "--per-class", _PER_CLASS, "--seed", 1, "--out", files["served.npz"])
            records["served"] = _run("evaluate", files["served.npz"])
    finally:
        _stop(server)
    return records


def _start(*arguments: object) -> subprocess.Popen[str]:
    command = ganctl_command(*map(str, arguments), "--json")
    return subprocess.Popen(command, stdout=subprocess.PIPE, encoding="utf-8")


def _run(*arguments: object) -> dict[str, Any]:
    """Runs a command and returns its JSON object."""
    process = _start(*arguments)
    try:
        stdout, _ = process.communicate()
    except BaseException:  # on a signal, the stage must end cleanly as well
        _stop(process)
        raise
    if process.returncode != 0:
        raise DemoError(f"'ganctl {arguments[0]}' failed. See its error above.", process.returncode)
    record: dict[str, Any] = json.loads(stdout)
    return record


def _stop(process: subprocess.Popen[str]) -> None:
    """Terminates a stage (training saves, a server stops its workers) and waits until it has ended."""
    process.terminate()
    try:
        process.wait(timeout=60)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        raise


def _summary(records: dict[str, dict[str, Any]]) -> dict[str, str]:
    """Returns the scores and times of the printed table."""
    scores, served = records["evaluate"], records["served"]
    served_accuracy = f"of {served['num_images']} served digits {served['label_accuracy']:.3f}"
    return {
        "Fréchet distance": f"{scores['fd']:.2f} ({scores['fd_ratio']:.1f} × the floor of real images)",
        "precision, recall": f"{scores['precision']:.3f}, {scores['recall']:.3f}",
        "density, coverage": f"{scores['density']:.3f}, {scores['coverage']:.3f}",
        "label accuracy": f"{scores['label_accuracy']:.3f}; {served_accuracy}",
        "label classifier": f"reads {scores['scorer_accuracy']:.2%} of held-out images right",
        **{f"time to {name}": f"{seconds:.1f} s" for name, seconds in records["seconds"].items()},
        "time in all": f"{sum(records['seconds'].values()):.1f} s",
    }
