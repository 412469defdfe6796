"""The commands `train`, `evaluate`, `sample` and `inspect`. Only here are things put together, and only here printed.

torch and the rest are imported by the command that runs, so that `ganctl --help` needs none of it.
"""

import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from ganctl import emit, json_option

if TYPE_CHECKING:
    from training.config import Config
    from training.launch import Launch
    from training.requests import Result
    from training.trainer import Trainer


class Duration(click.ParamType[float]):
    """120s, 15m or 1h; seconds as a float."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        found = re.fullmatch(r"(\d+(?:\.\d+)?)(s|m|h)?", str(value))
        if found is None:
            self.fail(f"{value!r} is no duration, expected one such as 120s, 15m or 1h", param, ctx)
        return float(found[1]) * {"s": 1, "m": 60, "h": 3600}[found[2] or "s"]


_FLAGS = {  # flag → the setting that it sets
    "batch_size": ("--batch-size", "train.batch_size"),
    "device": ("--device", "train.device"),
    "seed": ("--seed", "train.seed"),
    "epochs": ("--epochs", "train.horizon"),
    "precision": ("--precision", "train.precision"),
    "init_from": ("--init-from", "train.init_from"),
}


@click.command()
@click.option("--preset", metavar="NAME", help="Settings to start from [default: conv].")
@click.option("--config", "config_file", type=click.Path(path_type=Path), metavar="FILE", help="Settings in TOML.")
@click.option("--set", "assignments", multiple=True, metavar="KEY=VALUE", help="One setting; may be repeated.")
@click.option("--epochs", type=click.IntRange(min=1), help="Length of the run; schedules follow it.")
@click.option("--max-steps", type=click.IntRange(min=1), help="Stop after so many steps; changes no schedule.")
@click.option("--max-time", type=Duration(), help="Stop after a time such as 120s; changes no schedule.")
@click.option("--batch-size", type=click.IntRange(min=1), help="Images per step, over all ranks.")
@click.option("--precision", type=click.Choice(["auto", "fp32", "bf16", "fp16"]), help="Number format of the passes.")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), help="Where to train.")
@click.option("--nproc", metavar="N|auto", help="Ranks on this machine, through torchrun; auto: one for each GPU.")
@click.option("--seed", type=click.IntRange(min=0), help="Seed of everything random.")
@click.option("--run-dir", type=click.Path(file_okay=False, path_type=Path), help="The run's folder [default: runs/…].")
@click.option("--resume", metavar="auto|PATH", help="Continue: the newest checkpoint of --run-dir, or a file.")
@click.option("--init-from", metavar="PATH", help="Begin with the networks of another run or checkpoint.")
@click.option("--callback", "callbacks", multiple=True, metavar="MODULE:NAME", help="A callback of your own.")
@click.option("--allow-changes", is_flag=True, help="Resume although settings differ.")
@click.option("--print-config", is_flag=True, help="Show every setting and where it came from; train nothing.")
@click.option("--dry-run", is_flag=True, help="Build everything, say what would be trained; train nothing.")
@click.option("--restarted", is_flag=True, hidden=True, help="Go on from the last checkpoint: a rank was killed.")
@json_option
def train(
    preset: str | None,
    config_file: Path | None,
    assignments: tuple[str, ...],
    max_steps: int | None,
    max_time: float | None,
    run_dir: Path | None,
    resume: str | None,
    nproc: str | None,
    callbacks: tuple[str, ...],
    allow_changes: bool,
    print_config: bool,
    dry_run: bool,
    restarted: bool,
    as_json: bool,
    **flags: Any,
) -> None:
    """Train a GAN on MNIST or a data set of the same form; leaves a run folder with checkpoints, samples and logs."""
    from training.distributed import Ranks

    if flags["epochs"] is not None:
        flags["epochs"] = f"{flags['epochs']} epochs"
    given = {setting: (flag, flags[name]) for name, (flag, setting) in _FLAGS.items() if flags[name] is not None}
    try:
        _train(
            given,
            limits={"max_steps": max_steps, "max_seconds": max_time},
            callbacks=callbacks,
            nproc=nproc,
            print_config=print_config,
            dry_run=dry_run,
            as_json=as_json,
            preset=preset,
            config_file=config_file,
            assignments=assignments,
            run_dir=run_dir,
            resume=resume,
            allow_changes=allow_changes,
            restarted=restarted,
        )
    finally:
        Ranks.leave()


def _train(
    given: dict[str, tuple[str, Any]],
    *,
    limits: dict[str, Any],
    callbacks: tuple[str, ...],
    nproc: str | None,
    print_config: bool,
    dry_run: bool,
    as_json: bool,
    **start: Any,
) -> None:
    from training.launch import Launch

    launch = Launch(flags=given, announce=_note, **start)
    first = launch.ranks.first  # it speaks for all
    if print_config:
        if first:
            _print_config(launch.config, launch.sources, as_json)
        return
    if nproc is not None and launch.ranks.alone:
        from training.launch_ranks import count_ranks

        if (ranks := count_ranks(nproc)) > 1:
            _train_ranks(launch, ranks, callbacks, as_json)
    trainer = launch.build(**limits, callbacks=callbacks)
    if dry_run:
        if first:
            _print_facts(trainer.describe(), as_json)
        return
    result = _fit(trainer, launch.config.preset)
    if first:
        emit(_result_record(result)) if as_json else _print_result(result)
    if result.stopped_by.startswith("SIG"):
        if first:
            _note(
                f"training was interrupted by {result.stopped_by} and saved at step {result.steps}; continue with"
                f" 'ganctl train --run-dir {shlex.quote(str(result.run_dir))} --resume auto'"
            )
        raise SystemExit(130)  # the one object is out already


def _train_ranks(launch: "Launch", ranks: int, callbacks: tuple[str, ...], as_json: bool) -> NoReturn:
    """The same command as so many processes; what the first of them tells is what this one tells."""
    from training.assembly import check_ranks
    from training.launch import load_callback
    from training.launch_ranks import run_ranks

    check_ranks(launch.config, ranks)
    for name in callbacks:
        load_callback(name)
    arguments = _train_arguments(click.get_current_context(), run_dir=launch.run_dir)
    ended = run_ranks(arguments, ranks=ranks, run_dir=launch.run_dir, announce=_note)
    click.echo(ended.stdout, nl=False)
    if as_json and ended.exit_code and not ended.stdout.strip():
        emit({"error": "a rank failed before the first one could tell the result", "exit_code": ended.exit_code})
    raise SystemExit(ended.exit_code)


def _fit(trainer: "Trainer", preset: str) -> "Result":
    facts = trainer.describe()
    if trainer.ranks.first:
        _note(
            f"{preset} on {facts['device']}: {facts['generator_parameters']:,} + "
            f"{facts['discriminator_parameters']:,} parameters, batch {facts['batch_size']}"
            + (f" over {facts['ranks']} ranks" if facts["ranks"] > 1 else "")
            + f", {trainer.config.train.horizon}"
        )
        _note(f"precision {facts['precision']}: {facts['precision_reason']}")
    return trainer.fit()


def _train_arguments(context: click.Context, *, run_dir: Path) -> list[str]:
    """The words of this `train` again, for each rank: all options as given, but for --nproc, and with the folder."""
    arguments = ["train", "--run-dir", str(run_dir)]
    for option in context.command.params:
        value = context.params[option.name or ""]
        if option.name in ("nproc", "run_dir") or not value:
            continue
        for item in value if isinstance(value, tuple) else (value,):
            arguments += [option.opts[0]] if item is True else [option.opts[0], str(item)]
    return arguments


def _print_facts(facts: dict[str, Any], as_json: bool) -> None:
    if as_json:
        emit(facts)
    else:
        click.echo("\n".join(f"{name:24} {value}" for name, value in facts.items()))


def _note(text: str) -> None:
    click.echo(text, err=True)


def _print_config(config: "Config", sources: dict[str, str], as_json: bool) -> None:
    from training.config import setting_names

    values = {"preset": config.preset} | config.flat()
    if as_json:
        emit({name: {"value": values[name], "source": sources[name]} for name in values})
        return
    for name, meaning in (("preset", "the preset that the settings start from"), *setting_names()):
        value = "unset" if values[name] is None else values[name]
        click.echo(f"{name:26} = {value!s:18} {sources[name]:22} {meaning}")


def _result_record(result: "Result") -> dict[str, Any]:
    return {
        "run_dir": str(result.run_dir.resolve()),
        "steps": result.steps,
        "images": result.images,
        "seconds": round(result.seconds, 3),
        "images_per_second": round(result.images_per_second, 1),
        "best": str(result.best.resolve()) if result.best else None,
        "last": str(result.last.resolve()) if result.last else None,
        "metrics": result.metrics,
        "stopped_by": result.stopped_by,
    }


def _print_result(result: "Result") -> None:
    click.echo(
        f"{result.steps:,} steps, {result.images:,} images in {result.seconds:.0f} s "
        f"({result.images_per_second:,.0f} images/s); stopped by {result.stopped_by}"
    )
    if "fd" in result.metrics:
        click.echo(_score_line(result.metrics))
    click.echo(f"best checkpoint: {result.best or 'none yet'}")
    click.echo(f"next: ganctl sample {shlex.quote(str(result.run_dir))} --out digits.png")


def _score_line(scores: dict[str, Any]) -> str:
    times = scores["fd"] / scores["fd_floor"]
    line = f"on the {scores['split']} images: Fréchet distance {scores['fd']:.2f}, {times:.1f} × the floor of "
    line += f"{scores['fd_floor']:.2f} that real images have"
    if scores["label_accuracy"] is not None:
        line += f"; {scores['label_accuracy']:.1%} of the images are read as what was asked for"
    return line


@click.command()
@click.argument("source", type=click.Path(path_type=Path))
@click.option("--n", default=10_000, show_default=True, type=click.IntRange(100, 60_000), help="Images to compare.")
@click.option("--split", type=click.Choice(["test", "val", "train"]), default="test", show_default=True)
@click.option("--set", "assignments", multiple=True, metavar="data.KEY=VALUE", help="Other data than SOURCE says.")
@json_option
def evaluate(source: Path, n: int, split: str, assignments: tuple[str, ...], as_json: bool) -> None:
    """Score a generator against real images. SOURCE is a run, a checkpoint, an export, or the .npz of `sample`.

    Where the images have moved, and for an export or a .npz of one's own images, --set data.root=FOLDER says where they
    are; a .npz of other images than MNIST's needs data.name (and data.size, data.channels) as well.

    fd is the Fréchet distance in the features of a digit classifier; fd_floor is what as many real training images get.
    """
    import time
    from typing import cast

    from training.data import Split, load_split
    from training.evaluation.evaluator import Evaluator
    from training.inspection import check_fit, lay_over

    began = time.monotonic()
    opened = _open_images(source) if source.suffix == ".npz" else _open_source(source)
    data = lay_over(opened.data, assignments)
    check_fit(opened, load_split(data, cast(Split, split)), source)  # before a classifier is trained for minutes
    if opened.images is not None:
        n = min(n, len(opened.images))
    evaluator = Evaluator(data, cast(Split, split), n=n, announce=_note)
    if opened.images is not None:
        n = evaluator.n
        scores = evaluator.score_images(opened.images[:n], None if opened.labels is None else opened.labels[:n])
    else:
        scores = evaluator.score(opened.source)
    seconds = round(time.monotonic() - began, 2)
    record = {"source": str(source.resolve()), **opened.facts, "split": split, **scores, "seconds": seconds}
    if as_json:
        emit(record)
        return
    click.echo(_score_line(record))
    names = ("fd", "fd_floor", "label_accuracy", "precision", "recall", "density", "coverage")
    for name in names:
        click.echo(f"{name:16} {'–' if record[name] is None else format(record[name], '.4f')}")
    click.echo(f"{'n':16} {record['n']}\n{'seconds':16} {seconds}")


@click.command()
@click.argument("source")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="A .png, .npz, or a folder for PNG files.")
@click.option("--digit", "digits", multiple=True, metavar="D", help="Class to draw, by its name; may be repeated.")
@click.option("--text", help="A string of digits, drawn in one handwriting (a .png).")
@click.option("--count", type=click.IntRange(min=1), help="How many images (strips with --text).")
@click.option("--per-class", type=click.IntRange(min=1), help="How many images of each class.")
@click.option("--seed", type=click.IntRange(0, 2**53 - 1), help="Seed; the same one draws the same images.")
@click.option("--token", help="The key `inference` of the server's token file, where SOURCE asks for one.")
@click.option("--truncation", type=click.FloatRange(0, 1), default=1.0, show_default=True, help="Pulls z to its mean.")
@json_option
def sample(
    source: str,
    out: Path,
    digits: tuple[str, ...],
    text: str | None,
    count: int | None,
    per_class: int | None,
    seed: int | None,
    token: str | None,
    truncation: float,
    as_json: bool,
) -> None:
    """Draw images. SOURCE is a run, a checkpoint, an export, or the URL of a server."""
    from training.drawing import Order, check_name, save

    check_name(out)
    if text is not None and not text:
        raise click.UsageError("--text '': expected at least one digit.")
    if sum(option is not None for option in (text, per_class)) + bool(digits) > 1:
        raise click.UsageError("--digit, --text and --per-class exclude each other: give one of them.")
    if per_class and count:
        raise click.UsageError("--per-class and --count exclude each other: give one of them.")
    order = Order(digits=digits, text=text, count=count, per_class=per_class, seed=seed, truncation=truncation)
    if source.startswith(("http://", "https://")):
        from serving.client import Client

        with Client(source, token=token) as client:
            drawn = order.remote(client)
    else:
        from serving.handler.latents import draw_labels, latents

        opened = _open_source(Path(source))
        drawn = order.local(opened.source, latents=latents, draw_labels=draw_labels)
    save(drawn, out)
    record = {"out": str(out.resolve()), "count": len(drawn.images), "seed": drawn.seed}
    if as_json:
        emit(record)
    else:
        click.echo(f"{record['count']} images in {out} (seed {record['seed']})")


@click.command()
@click.argument("path", type=click.Path(path_type=Path))
@json_option
def inspect(path: Path, as_json: bool) -> None:
    """Say what a run, checkpoint, export or archive is: step, metrics, digests."""
    from training.errors import CheckpointError

    if not path.exists():
        raise CheckpointError(
            f"{path}: there is nothing of this name; expected a run, a checkpoint, an export or a .mar"
        )
    if path.suffix == ".mar":
        from serving.archive import describe as describe_archive

        record = describe_archive(path)
    elif (path / "manifest.json").exists():
        from exports.manifest import describe as describe_export

        record = describe_export(path)
    else:
        from training.inspection import describe as describe_training

        record = describe_training(path)
    if as_json:
        emit(record)
        return
    for name, value in record.items():
        click.echo(f"{name:20} {value}")


def _open_source(path: Path) -> Any:
    """An export where the folder has a manifest, else a run's best checkpoint or a checkpoint."""
    if (path / "manifest.json").exists():
        from exports.runtime import open_export

        return open_export(path)
    from training.inspection import open_checkpoint

    return open_checkpoint(path)


def _open_images(path: Path) -> Any:
    from training.drawing import open_images

    return open_images(path)
