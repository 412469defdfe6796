"""The whole way in one go: train, evaluate, export, package, serve, ask; each stage is a command as a user types it.

The stages run as processes of their own and speak by `--json`; what they say to a person goes through to stderr.
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
from ganctl.processes import program
from ganctl.serving.client.client import Client
from ganctl.streams import emit

_STYLES = 8  # rows of the picture, each in one handwriting
_SCALE = 3
_SHARE_OF_STEPS = 0.87  # of the time for training; the rest is for the start and two evaluations
_PER_CLASS = 50  # served digits that the classifier reads
_MARK = ".ganctl-demo"  # says that a folder is a demo's, to be replaced by the next
_MADE = ("run", "export", "digits.mar", "digits.png", "served.npz")


class DemoError(Exception):
    """A stage failed; it has told why, and its exit code is ours."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


@dataclass
class Report:
    """What a demo made: files by name, seconds by stage, and the records of its stages."""

    files: dict[str, Path]
    seconds: dict[str, float] = field(default_factory=dict)
    records: dict[str, dict[str, Any]] = field(default_factory=dict)


def run_demo(out: Path, *, train_seconds: int, announce: Callable[[str], None]) -> Report:
    """Makes `run`, `export`, `digits.mar`, `digits.png` and `served.npz` in `out`, replacing those of an earlier demo.

    Raises:
        DemoError: a stage failed.
    """
    with _claimed(out, announce):
        return _run_stages(out, train_seconds, announce)


def _run_stages(out: Path, train_seconds: int, announce: Callable[[str], None]) -> Report:
    files = {name: out / name for name in _MADE}
    report = Report(files)

    @contextmanager
    def stage(name: str, what: str) -> Iterator[None]:
        announce(f"── {name}: {what}")
        began = time.monotonic()
        yield
        report.seconds[name] = time.monotonic() - began

    def command(*words: object) -> dict[str, Any]:
        return _ganctl([str(word) for word in words])

    with stage("train", f"a generator of digits, for about {train_seconds} s on the embedded MNIST"):
        steps = round(train_seconds * _SHARE_OF_STEPS)
        lengths = ("--set", f"train.duration={steps}s", "--set", f"evaluation.every={max(1, round(steps * 0.6))}s")
        report.records["train"] = command("train", "--preset", "quick", *lengths, "--run-dir", files["run"])
    with stage("evaluate", "its best checkpoint against the 10,000 test images"):
        report.records["evaluate"] = command("evaluate", files["run"])
    with stage("export", "the generator as TorchScript, ONNX and PT2, each compared with the checkpoint"):
        report.records["export"] = command("export", files["run"], "--out", files["export"])
    with stage("package", "an archive for TorchServe"):
        report.records["package"] = command("package", files["export"], "--out", out)
    words = ["serve", str(files["digits.mar"]), "--port", "0", "--json"]
    server = subprocess.Popen(program(*words), stdout=subprocess.PIPE, encoding="utf-8")
    try:
        with stage("serve", "TorchServe starts"):
            ready = _first_line(server, words)
        with stage("ask", f"{_STYLES} handwritings over HTTP, and {10 * _PER_CLASS} digits for the classifier to read"):
            with Client(ready["url"]) as client:
                picture = client.picture(text="0123456789", count=_STYLES, scale=_SCALE, seed=0)
            files["digits.png"].write_bytes(picture)
            command("sample", ready["url"], "--per-class", _PER_CLASS, "--seed", 1, "--out", files["served.npz"])
            report.records["served"] = command("evaluate", files["served.npz"])
    finally:
        _stop(server)
    return report


@contextmanager
def _claimed(out: Path, announce: Callable[[str], None]) -> Iterator[None]:
    """Makes the folder, locks it for this process and deletes what an earlier demo left; a folder of somebody else's is
    not touched."""
    if out.exists() and any(out.iterdir()) and not (out / _MARK).exists():
        raise DemoError(f"--out {out}: it is not empty and no demo made it; name another folder", 2)
    out.mkdir(parents=True, exist_ok=True)
    with (out / _MARK).open("a") as mark:
        try:
            fcntl.flock(mark, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DemoError(f"--out {out}: another demo works there; wait for its end, or name another", 2) from None
        except OSError as error:
            announce(f"{out}: this file system cannot lock ({error.strerror}); start no second demo there meanwhile")
        for name in _MADE:
            path = out / name
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
        yield


def _ganctl(words: list[str]) -> dict[str, Any]:
    process = subprocess.Popen(program(*words, "--json"), stdout=subprocess.PIPE, encoding="utf-8")
    try:
        told, _ = process.communicate()
    except BaseException:  # a signal asks us to stop: the stage gets the same chance to end well
        _stop(process)
        raise
    if process.returncode != 0:
        raise DemoError(f"the demo ends here: 'ganctl {' '.join(words)}' failed, see above", process.returncode)
    record: dict[str, Any] = json.loads(told)
    return record


def _first_line(server: subprocess.Popen[str], words: list[str]) -> dict[str, Any]:
    assert server.stdout is not None, "it is a pipe"
    line = server.stdout.readline()
    ready: dict[str, Any] = json.loads(line) if line.strip() else {"error": ""}
    if "error" in ready:
        raise DemoError(f"the demo ends here: 'ganctl {' '.join(words)}' failed, see above", server.wait() or 6)
    return ready


def _stop(process: subprocess.Popen[str]) -> None:
    """Asks a stage to end (a training saves, a server stops its workers) and waits until it has."""
    process.terminate()
    try:
        process.wait(timeout=60)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        raise


@click.command()
@click.option("--out", type=PathParam(file_okay=False), default="demo", show_default=True, help="Folder for it all.")
@click.option("--train-seconds", type=click.IntRange(min=10), default=120, show_default=True, help="Time to train for.")
@json_option
def demo(out: str, train_seconds: int, as_json: bool) -> None:
    """Train, evaluate, export, package, serve and ask for digits, in one go: less than three minutes on two cores."""
    report = run_demo(Path(out), train_seconds=train_seconds, announce=lambda text: click.echo(text, err=True))
    if as_json:
        files = {name: str(path.resolve()) for name, path in report.files.items()}
        emit({"files": files, "seconds": report.seconds, **report.records})
        return
    click.echo("\n" + "\n".join(f"{name:<20} {value}" for name, value in _demo_table(report)))
    click.echo(f"\nLook at {report.files['digits.png']}. Next: ganctl serve {report.files['digits.mar']}")


def _demo_table(report: Report) -> list[tuple[str, str]]:
    scores, served = report.records["evaluate"], report.records["served"]
    made = {"run": "run", "export": "export", "archive": "digits.mar", "picture": "digits.png"}
    return [
        *((name, str(report.files[file])) for name, file in made.items()),
        ("Fréchet distance", f"{scores['fd']:.2f} ({scores['fd_ratio']:.1f} × the floor of real images)"),
        ("precision, recall", f"{scores['precision']:.3f}, {scores['recall']:.3f}"),
        ("density, coverage", f"{scores['density']:.3f}, {scores['coverage']:.3f}"),
        (
            "label accuracy",
            f"{scores['label_accuracy']:.3f}; of {served['n']} served digits {served['label_accuracy']:.3f}",
        ),
        ("scoring classifier", f"reads {scores['scorer_accuracy']:.2%} of held-out images right"),
        *((f"time to {name}", f"{seconds:.1f} s") for name, seconds in report.seconds.items()),
        ("time in all", f"{sum(report.seconds.values()):.1f} s"),
    ]
