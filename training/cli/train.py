"""The command `train`: runs a training in this process or as ranks, and prints its result."""

import codecs
import os
import re
import shlex
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from ganctl.options import PathParam, json_option
from ganctl.processes import ganctl_command
from ganctl.streams import emit
from ganctl.training.cli.inspect import note, score_line

if TYPE_CHECKING:
    from ganctl.training.config.schema import Config
    from ganctl.training.loop.control import Result
    from ganctl.training.loop.session import Session
    from ganctl.training.loop.trainer import Trainer


class Duration(click.ParamType[float]):
    """Parses a duration such as 120s, 15m or 1h; returns seconds."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        match = re.fullmatch(r"(\d+(?:\.\d+)?)(s|m|h)?", str(value))
        if match is None:
            self.fail(f"found {value!r}, expected a duration such as 120s, 15m or 1h", param, ctx)
        return float(match[1]) * {"s": 1, "m": 60, "h": 3600}[match[2] or "s"]


_CLASSES_SHOWN = 12  # in one line of output

_FLAGS = {  # parameter → (flag, setting)
    "batch_size": ("--batch-size", "train.batch_size"),
    "device": ("--device", "train.device"),
    "seed": ("--seed", "train.seed"),
    "epochs": ("--epochs", "train.duration"),
    "precision": ("--precision", "train.precision"),
    "init_from": ("--init-from", "train.init_from"),
}


@click.command()
@click.option("--preset", metavar="NAME", help="Start from these settings [default: conv].")
@click.option(
    "--config", "config_file", type=PathParam(path_type=Path), metavar="FILE", help="Read settings from a TOML file."
)
@click.option("--set", "assignments", multiple=True, metavar="KEY=VALUE", help="Set one setting; repeatable.")
@click.option("--epochs", type=click.IntRange(min=1), help="Set the duration, which schedules follow.")
@click.option("--max-steps", type=click.IntRange(min=1), help="Stop after this many steps; changes no schedule.")
@click.option("--max-time", type=Duration(), help="Stop after this time, such as 120s; changes no schedule.")
@click.option("--batch-size", type=click.IntRange(min=1), help="Set the number of images per step, over all ranks.")
@click.option("--precision", type=click.Choice(["auto", "fp32", "bf16", "fp16"]), help="Set the number format.")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), help="Set the device.")
@click.option("--nproc", metavar="N|auto", help="Start this many ranks on this machine; auto: one per GPU.")
@click.option("--seed", type=click.IntRange(min=0), help="Set the seed of all random numbers.")
@click.option(
    "--run-dir", type=PathParam(file_okay=False, path_type=Path), help="Set the run folder [default: runs/…]."
)
@click.option(
    "--resume",
    type=PathParam(),
    metavar="auto|PATH",
    help="Resume the newest checkpoint of --run-dir (auto), of a run, or a checkpoint file.",
)
@click.option("--init-from", metavar="PATH", help="Start with the networks of another run or checkpoint.")
@click.option("--callback", "callbacks", multiple=True, metavar="MODULE:NAME", help="Add a callback; repeatable.")
@click.option("--allow-changes", is_flag=True, help="Resume with changed settings.")
@click.option(
    "--print-config", is_flag=True, help="Print all settings and their sources as a --config file; do not train."
)
@click.option("--dry-run", is_flag=True, help="Build everything and describe the run; do not train.")
@click.option("--restarted", is_flag=True, hidden=True, help="Resume from the last checkpoint after a killed rank.")
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
    """Train a GAN on MNIST or your own images; write a run folder with checkpoints, samples and logs."""
    from ganctl.training.distributed.ranks import Ranks

    if flags["epochs"] is not None:
        flags["epochs"] = f"{flags['epochs']} epochs"
    overrides = {setting: (flag, flags[name]) for name, (flag, setting) in _FLAGS.items() if flags[name] is not None}
    try:
        _train(
            overrides,
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
    overrides: dict[str, tuple[str, Any]],
    *,
    limits: dict[str, Any],
    callbacks: tuple[str, ...],
    nproc: str | None,
    print_config: bool,
    dry_run: bool,
    as_json: bool,
    **session_options: Any,
) -> None:
    from ganctl.training.callbacks.stopping import SignalHandler
    from ganctl.training.distributed.rank_environment import read_rank_environment
    from ganctl.training.errors import ConfigError
    from ganctl.training.loop.session import Session

    environment = read_rank_environment(os.environ)
    if environment is not None and not environment.torchrun:
        if _count_ranks(nproc) > 1:
            raise ConfigError(
                [f"--nproc {nproc}: this process is one of WORLD_SIZE = {environment.size} already. Leave --nproc out,"
                 " or start several ranks per machine with torchrun (docs/ranks.md)."]
            )  # fmt: skip
        rank = f"rank {environment.rank} of {environment.size} (RANK, WORLD_SIZE)"
        note(f"{rank}: connects to rank 0 at {environment.address}")
    session = Session(flags=overrides, announce=note, dry=dry_run or print_config, **session_options)
    first = session.ranks.first  # the rank that prints
    if print_config:
        if first:
            _print_config(session.config, session.sources, as_json)
        return
    if session.ranks.alone and (ranks := _count_ranks(nproc)) > 1:
        _train_ranks(session, ranks, callbacks, as_json)
    trainer = session.build(**limits, callbacks=callbacks)
    if dry_run:
        if first:
            _print_facts(trainer.describe() | trainer.estimate_memory(), as_json)
        return
    result = _fit(trainer, session.config.preset)
    if result.stop_reason.startswith("SIG"):
        for number in SignalHandler.SIGNALS:  # a repeated signal must not interrupt the printing of the result
            signal.signal(number, signal.SIG_IGN)
    if first:
        emit(_result_record(result)) if as_json else _print_result(result, session.config)
    if result.stop_reason.startswith("SIG"):
        if first:
            note(
                f"training was interrupted by {result.stop_reason} and saved at step {result.steps}. Continue with"
                f" 'ganctl train --run-dir {shlex.quote(str(result.run_dir))} --resume auto'"
            )
        raise SystemExit(130)  # after the JSON object


def _count_ranks(nproc: str | None) -> int:
    """Returns the number of ranks that `--nproc` starts."""
    if nproc is None:
        return 1
    from ganctl.training.loop.torchrun import count_ranks

    return count_ranks(nproc)


def _train_ranks(session: "Session", ranks: int, callbacks: tuple[str, ...], as_json: bool) -> NoReturn:
    """Runs this command as several ranks, and prints the output of the first one."""
    from ganctl.training.loop.build import check_ranks
    from ganctl.training.loop.session import load_callback
    from ganctl.training.loop.torchrun import run_ranks

    check_ranks(session.config, ranks)
    for name in callbacks:
        load_callback(name)
    with session.reserved() as run_dir:
        arguments = _train_arguments(click.get_current_context(), run_dir=run_dir)
        result = run_ranks(ganctl_command(*arguments), ranks=ranks, run_dir=run_dir, announce=note)
    click.echo(result.stdout, nl=False)
    if result.exit_code and not result.stdout.strip():
        error = "a rank failed before the first rank printed a result"
        if result.signal:
            error = f"ended by {result.signal} before the first save"
            note(f"Error: {error}")
        if as_json:
            emit({"error": error, "exit_code": result.exit_code})
    raise SystemExit(result.exit_code)


def _fit(trainer: "Trainer", preset: str) -> "Result":
    facts = trainer.describe()
    if trainer.ranks.first:
        note(
            f"{preset} on {facts['device']}: {facts['generator_parameters']:,} + "
            f"{facts['discriminator_parameters']:,} parameters, batch {facts['batch_size']}"
            + (f" over {facts['ranks']} ranks" if facts["ranks"] > 1 else "")
            + f", {trainer.config.train.duration}"
        )
        note(f"{facts['training_images']:,} training images: {_class_line(facts['classes'])}")
        note(f"precision {facts['precision']}: {facts['precision_reason']}")
        if facts["device"].startswith("cuda"):
            mode = "as one CUDA graph" if facts["cuda_graph"] else "eagerly"
            note(f"each step runs {mode}: {facts['cuda_graph_reason']}")
    return trainer.fit()


def _train_arguments(context: click.Context, *, run_dir: Path) -> list[str]:
    """Rebuilds the arguments of this command for a rank: all options but --nproc, and the run folder."""
    arguments = ["train", "--run-dir", str(run_dir)]
    for option in context.command.params:
        value = context.params[option.name or ""]
        if option.name in ("nproc", "run_dir") or value is None or value is False or value == ():
            continue
        for item in value if isinstance(value, tuple) else (value,):
            arguments += [option.opts[0]] if item is True else [option.opts[0], str(item)]
    return arguments


def _print_facts(facts: dict[str, Any], as_json: bool) -> None:
    if as_json:
        emit(facts)
    else:
        values = facts | {"classes": _class_line(facts["classes"])}
        click.echo("\n".join(f"{name:24} {value}" for name, value in values.items()))


def _class_line(classes: list[dict[str, Any]]) -> str:
    """Lists classes with their training images: "2 classes: cat (24), dog (24)"; shortens a long list."""
    from ganctl.training.data.folder_tree import printable

    listed = [f"{printable(item['name'])} ({item['images']})" for item in classes]
    if len(listed) > _CLASSES_SHOWN:
        sizes = sorted({item["images"] for item in classes})
        extremes = " to ".join(map(str, sizes[:: max(1, len(sizes) - 1)])) + " image" + "s" * (sizes != [1])
        listed = [*listed[: _CLASSES_SHOWN - 2], "…", f"{listed[-1]}, each with {extremes}"]
    return f"{len(classes)} {'class' if len(classes) == 1 else 'classes'}: {', '.join(listed)}"


def _print_config(config: "Config", sources: dict[str, str], as_json: bool) -> None:
    from ganctl.training.config.resolve import config_toml

    if as_json:
        values = {"preset": config.preset} | config.flat()
        emit({name: {"value": values[name], "source": sources[name]} for name in values})
        return
    text = config_toml(config, sources)
    if codecs.lookup(sys.stdout.encoding or "utf-8").name != "utf-8":  # TOML is UTF-8; escaped ASCII is valid UTF-8
        text = re.sub(r"[^\x00-\x7f]", lambda match: f"\\U{ord(match[0]):08x}", text)
    click.echo(text, nl=False)


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
        "stop_reason": result.stop_reason,
    }


def _print_result(result: "Result", config: "Config") -> None:
    from ganctl.training.callbacks.base import FINISHED
    from ganctl.training.checkpoint.format import read_checkpoint
    from ganctl.training.evaluation.summary import needs_more_training, summary

    run_dir = shlex.quote(str(result.run_dir))
    click.echo(
        f"{result.steps:,} steps, {result.images:,} images in {result.seconds:.0f} s "
        f"({result.images_per_second:,.0f} images/s); stopped by {result.stop_reason}"
    )
    if "fd" in result.metrics:
        click.echo(score_line(result.metrics))
        click.echo(summary(result.metrics))
    if result.best is None:
        click.echo("best checkpoint: none yet, no evaluation was done")
    else:
        best = read_checkpoint(result.best)
        fd, monitor = best.metrics.get("fd"), config.checkpoint.monitor
        scored = "" if fd is None else f", validation FD {fd:.2f}"
        if monitor in best.metrics and best.metrics[monitor] is None:
            scored += f" (the latest, since {monitor} has no meaning on these images)"
        click.echo(f"best checkpoint: step {best.step:,}{scored}; {result.best}")
        click.echo(f"next: ganctl sample {run_dir} --out digits.png")
    if result.stop_reason not in FINISHED:
        click.echo(f"continue to the end ({config.train.duration}): ganctl train --run-dir {run_dir} --resume auto")
    elif result.stop_reason == "completed" and needs_more_training(result.metrics):
        longer = config.train.duration.model_copy(update={"value": 2 * config.train.duration.value})
        arguments = f"--run-dir {run_dir} --resume auto --set train.duration='{longer}'"
        click.echo(f"train longer, to lower the distance: ganctl train {arguments}")
