"""The command `train`: runs a training in this process or as ranks, and prints its result."""

import codecs
import os
import re
import shlex
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from ganctl.grouped_command import GroupedCommand
from ganctl.options import PathParam, complete_names, complete_path, complete_source, json_option
from ganctl.processes import ganctl_command
from ganctl.signals import termination_signals
from ganctl.streams import note, print_json
from ganctl.training.cli.completion import NAMED_DATA, PRESETS, complete_resumed, complete_setting
from ganctl.training.config.registry import CALLBACKS

if TYPE_CHECKING:
    from ganctl.training.config.schema import Config
    from ganctl.training.loop.control import Result
    from ganctl.training.loop.session import Session
    from ganctl.training.loop.trainer import Trainer


def duration(text: str) -> float:
    """Parses a duration such as 120s, 15m or 1h; returns seconds."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(s|m|h)?", text)
    if match is None:
        raise click.BadParameter(f"found {text!r}, expected a duration such as 120s, 15m or 1h")
    return float(match[1]) * {"s": 1, "m": 60, "h": 3600}[match[2] or "s"]


_CLASSES_SHOWN = 12  # in one line of output


_GROUPS = {
    "Settings": ("--preset", "--config", "--set", "--seed", "--batch-size", "--precision", "--print-config"),
    "Length": ("--epochs", "--max-steps", "--max-time"),
    "Start and resume": ("--resume", "--init-from", "--allow-changes"),
    "Machine": ("--device", "--nproc"),
    "Output": ("--run-dir", "--callback", "--dry-run", "--json"),
}


@click.command(cls=GroupedCommand, groups=_GROUPS)
@click.argument("data", required=False, shell_complete=complete_path(*NAMED_DATA))
@click.option(
    "--preset", metavar="NAME", shell_complete=complete_names(*PRESETS),
    help="Start from these settings [default: auto, chosen for the images].",
)  # fmt: skip
@click.option("--config", "config_file", type=PathParam(path_type=Path), metavar="FILE", help="Read a TOML file.")
@click.option(
    "--set", "assignments", multiple=True, metavar="KEY=VALUE", shell_complete=complete_setting,
    help="Set one setting; repeatable.",
)  # fmt: skip
@click.option("--epochs", "duration", type=click.IntRange(min=1), help="Set the duration, which schedules follow.")
@click.option("--max-steps", type=click.IntRange(min=1), help="Stop after this many steps; changes no schedule.")
@click.option("--max-time", type=duration, help="Stop after this time, such as 120s; changes no schedule.")
@click.option("--batch-size", type=click.IntRange(min=1), help="Set the number of images per step, over all ranks.")
@click.option("--precision", type=click.Choice(["auto", "fp32", "bf16", "fp16"]), help="Set the number format.")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), help="Set the device.")
@click.option(
    "--nproc", metavar="N|auto", shell_complete=complete_names("auto"),
    help="Start this many ranks on this machine; auto: one per GPU.",
)  # fmt: skip
@click.option("--seed", type=click.IntRange(min=0), help="Set the seed of all random numbers.")
@click.option("--run-dir", type=PathParam(file_okay=False, path_type=Path), help="Run folder [default: runs/…].")
@click.option(
    "--resume", type=PathParam(), metavar="auto|PATH", shell_complete=complete_resumed,
    help="Resume --run-dir (auto), another run, or a checkpoint.",
)  # fmt: skip
@click.option(
    "--init-from", metavar="PATH", shell_complete=complete_source,
    help="Start with the networks of another run or checkpoint, adapted.",
)  # fmt: skip
@click.option(
    "--callback", "callbacks", multiple=True, metavar="NAME", shell_complete=complete_names(*CALLBACKS),
    help=f"Add a callback: {', '.join(CALLBACKS)} or module:Name; repeatable.",
)  # fmt: skip
@click.option("--allow-changes", is_flag=True, help="Resume with changed settings.")
@click.option("--print-config", is_flag=True, help="Print all settings as a --config file; do not train.")
@click.option("--dry-run", is_flag=True, help="Build everything and describe the run; do not train.")
@click.option("--restarted", is_flag=True, hidden=True, help="Resume from the last checkpoint after a killed rank.")
@json_option
def train(
    data: str | None,
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
    **train_settings: Any,
) -> None:
    """Train a GAN; write a run folder with checkpoints, samples and logs.

    DATA is a folder, an archive or a file of images, or mnist (the default), fashion-mnist or kmnist. The format is
    recognized; `ganctl inspect DATA` shows what was found. docs/data.md lists the formats.
    """
    from ganctl.training.device.load import CoreLoad

    load = CoreLoad()  # before torch is imported, which takes seconds
    from ganctl.training.data.cache import list_once
    from ganctl.training.distributed.ranks import Ranks
    from ganctl.training.loop.session import Session

    context = click.get_current_context()
    context.call_on_close(Ranks.leave)
    context.with_resource(list_once())
    ranks = 1
    if nproc is not None:
        from ganctl.training.loop.torchrun import count_ranks

        ranks = count_ranks(nproc)
    _announce_rank(ranks)
    if train_settings["duration"] is not None:
        train_settings["duration"] = f"{train_settings['duration']} epochs"
    flags = {option.name: option.opts[0] for option in context.command.params}
    session = Session(
        preset=preset,
        config_file=config_file,
        assignments=assignments,
        flags={f"train.{key}": (flags[key], value) for key, value in train_settings.items() if value is not None}
        | ({"data.source": ("DATA", data)} if data is not None else {}),
        run_dir=run_dir,
        resume=resume,
        allow_changes=allow_changes,
        restarted=restarted,
        announce=note,
        dry_run=dry_run or print_config,
    )
    is_main = session.ranks.is_main  # only rank 0 prints
    if print_config:
        if is_main:
            for text in session.reasons:
                note(text)
            _print_config(session.config, session.sources, as_json)
        return
    if session.ranks.alone and ranks > 1:
        _train_ranks(session, ranks, callbacks, as_json)
    trainer = session.build(max_steps=max_steps, max_seconds=max_time, callbacks=callbacks)
    if is_main:
        _print_facts(trainer, session.config.preset, dry_run=dry_run, as_json=as_json)
    if dry_run:
        return
    if trainer.device.type == "cpu" and session.ranks.size == 1 and (advice := load.advice()):
        note(advice)
    result = trainer.fit()
    interrupted = result.stop_reason.startswith("SIG")
    if interrupted:
        for number in termination_signals():  # a repeated signal must not interrupt the printing of the result
            signal.signal(number, signal.SIG_IGN)
    if is_main:
        _print_result(result, session.config, as_json)
    if interrupted:
        if is_main:
            command = f"ganctl train --run-dir {shlex.quote(str(result.run_dir))} --resume auto"
            saved = f"training was interrupted by {result.stop_reason} and saved at step {result.steps}"
            note(f"{saved}. Continue with '{command}'")
        raise SystemExit(130)  # after the JSON object


def _announce_rank(ranks: int) -> None:
    """Prints the rank of a process that a launcher other than torchrun started.

    Raises:
        ConfigError: --nproc asks for `ranks` > 1.
    """
    from ganctl.training.distributed.rank_environment import read_rank_environment
    from ganctl.training.errors import ConfigError

    environment = read_rank_environment(os.environ)
    if environment is None or environment.torchrun:
        return
    if ranks > 1:
        raise ConfigError([f"--nproc {ranks}: found WORLD_SIZE = {environment.size}, expected none. Omit --nproc."])
    rank = f"rank {environment.rank} of {environment.size} (RANK, WORLD_SIZE)"
    note(f"{rank}: connects to rank 0 at {environment.address}")


def _train_ranks(session: "Session", ranks: int, callbacks: tuple[str, ...], as_json: bool) -> NoReturn:
    """Runs this command as several ranks, and prints the output of rank 0."""
    from ganctl.training.loop.build import check_ranks
    from ganctl.training.loop.session import load_callback
    from ganctl.training.loop.torchrun import run_ranks

    check_ranks(session.config, ranks)
    for name in callbacks:
        load_callback(name)
    with session.reserve_run_dir() as run_dir:
        command = ganctl_command("train", "--run-dir", str(run_dir), *sys.argv[2:])  # a --run-dir of the user wins
        result = run_ranks(command, ranks=ranks, run_dir=run_dir, announce=note)
    click.echo(result.stdout, nl=False)
    if result.exit_code and not result.stdout.strip():
        error = "a rank failed before rank 0 printed a result"
        if result.signal:
            error = f"ended by {result.signal} before the first save"
            note(f"Error: {error}")
        if as_json:
            print_json({"error": error, "exit_code": result.exit_code})
    raise SystemExit(result.exit_code)


def _print_facts(trainer: "Trainer", preset: str, *, dry_run: bool, as_json: bool) -> None:
    """Prints what is trained: for a dry run all facts on stdout, else the main ones on stderr."""
    facts = trainer.describe()
    classes = _class_line(facts["classes"])
    if dry_run:
        facts |= trainer.parts.estimate_memory()
        if as_json:
            print_json(facts)
        else:
            facts.pop("init_from", None)  # printed when the networks were loaded
            click.echo("\n".join(f"{name:24} {value}" for name, value in (facts | {"classes": classes}).items()))
        return
    note(
        f"{preset} on {facts['device']}: {facts['generator_parameters']:,} + "
        f"{facts['discriminator_parameters']:,} parameters, batch {facts['batch_size']}"
        + (f" over {facts['ranks']} ranks" if facts["ranks"] > 1 else "")
        + f", {trainer.config.train.duration}"
    )
    note(f"{facts['training_images']:,} training images: {classes}")
    note(f"precision {facts['precision']}: {facts['precision_reason']}")
    if facts["device"].startswith("cuda"):
        mode = "as one CUDA graph" if facts["cuda_graph"] else "eagerly"
        note(f"each step runs {mode}: {facts['cuda_graph_reason']}")


def _class_line(classes: list[dict[str, Any]]) -> str:
    """Lists classes with their training images: "2 classes: cat (24), dog (24)"; shortens a long list."""
    from ganctl.training.readers.tree import printable

    if not classes:
        return "no labels"
    listed = [f"{printable(item['name'])} ({item['images']})" for item in classes]
    if len(listed) > _CLASSES_SHOWN:
        smallest, largest = min(item["images"] for item in classes), max(item["images"] for item in classes)
        sizes = f"{largest}" if smallest == largest else f"{smallest} to {largest}"
        last = f"{listed[-1]}, each with {sizes} image{'' if largest == 1 else 's'}"
        listed = [*listed[: _CLASSES_SHOWN - 2], "…", last]
    return f"{len(classes)} {'class' if len(classes) == 1 else 'classes'}: {', '.join(listed)}"


def _print_config(config: "Config", sources: dict[str, str], as_json: bool) -> None:
    from ganctl.training.config.resolve import config_toml

    if as_json:
        values = {"preset": config.preset} | config.flat()
        print_json({name: {"value": values[name], "source": sources[name]} for name in values})
        return
    text = config_toml(config, sources)
    if codecs.lookup(sys.stdout.encoding or "utf-8").name != "utf-8":  # TOML is UTF-8; escaped ASCII is valid UTF-8
        text = re.sub(r"[^\x00-\x7f]", lambda match: f"\\U{ord(match[0]):08x}", text)
    click.echo(text, nl=False)


def _print_result(result: "Result", config: "Config", as_json: bool) -> None:
    from ganctl.training.callbacks.base import FINISHED
    from ganctl.training.checkpoint.format import read_checkpoint
    from ganctl.training.evaluation.summary import needs_more_training, score_line, summary

    if as_json:
        paths = {"run_dir": result.run_dir, "best": result.best, "last": result.last}
        print_json(
            vars(result)
            | {"seconds": round(result.seconds, 3), "images_per_second": round(result.images_per_second, 1)}
            | {name: path.resolve() for name, path in paths.items() if path}
        )
        return
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
        click.echo(f"next: ganctl sample {run_dir} --out samples.png")
    if result.stop_reason not in FINISHED:
        click.echo(f"continue to the end ({config.train.duration}): ganctl train --run-dir {run_dir} --resume auto")
    elif result.stop_reason == "completed" and needs_more_training(result.metrics):
        longer = replace(config.train.duration, value=2 * config.train.duration.value)
        arguments = f"--run-dir {run_dir} --resume auto --set train.duration='{longer}'"
        click.echo(f"train longer, to lower the distance: ganctl train {arguments}")
