"""The servers that `ganctl bench serve` compares, and how each is started."""

import importlib.util
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import httpx

from ganctl.benchmarks.peers import GENERATOR
from ganctl.benchmarks.serving.process import Launch
from ganctl.benchmarks.serving.torchserve import PATH, ceiling, stock
from ganctl.benchmarks.systems import INSTALL
from ganctl.serving.hosts.torchserve.ports import free_ports

CEILING, LITSERVE = "constant", "litserve"  # what the others' rates are told in multiples of


@dataclass(frozen=True)
class Models:
    """What is served: archives of ours for each back-end (None where the export lacks its file), the generator as the
    peers take it, an archive of `conv`'s generator, and a digit as PNG."""

    onnx: Path
    torchscript: Path | None
    generator: Path
    conv: Path
    digit: bytes


@dataclass(frozen=True)
class System:
    """A server: its name, what it is in a few words, how it is started in an empty folder, and what it can be asked.

    `rivals` are other settings of it; the best in a short try is what is measured.
    """

    name: str
    what: str
    prepare: Callable[[Path], Launch]
    kinds: tuple[str, ...] = ("GET", "POST", "JSON", "grid")
    lacks: str | None = None  # why it cannot run here, and what to do about that
    rivals: tuple["System", ...] = ()


def systems(models: Models) -> list[System]:
    """All of them, in the order of the table."""
    found = [_ours(f"onnx-{n}", f"ours, ONNX Runtime, {_workers(n)}", models.onnx, n) for n in (1, 2)]
    if models.torchscript is not None:
        script = models.torchscript
        found += [_ours(f"torchscript-{n}", f"ours, TorchScript, {_workers(n)}", script, n) for n in (1, 2)]
    else:
        lacks = "the export holds no generator.ts: export again with that format"
        found += [System("torchscript", "ours, TorchScript", _not_there, lacks=lacks)]
    found += [_ours("conv-2", "ours, ONNX Runtime, 2 workers, the larger generator of `conv`", models.conv, 2)]
    found += [System("stock", "the same handler in TorchServe as it comes", partial(stock, models.onnx))]
    found += [_litserve(models.generator), _fastapi(models.generator)]
    what = "constant bytes by TorchServe's own worker, our server's settings, 2 workers: the ceiling"
    prepare = partial(ceiling, models.onnx, models.digit, 2)
    return [*found, System(CEILING, what, prepare, kinds=("GET", "POST"))]


def _workers(number: int) -> str:
    return f"{number} worker{'s' * (number > 1)}"


def _not_there(folder: Path) -> Launch:
    raise AssertionError("what is lacking is not started")


def _ours(name: str, what: str, mar: Path, workers: int) -> System:
    words = ["serve", str(mar), "--port", "0", "--workers", str(workers), "--json"]
    launch = Launch([sys.executable, "-m", "ganctl", *words], _told)
    return System(name, what, lambda _: launch)


def _told(output: Path) -> str | None:
    """The address that `ganctl serve --json` prints when it is ready."""
    text = output.read_text("utf-8")
    return f"{json.loads(text)['url']}{PATH}" if text.endswith("\n") else None


def _litserve(generator: Path) -> System:
    def system(workers: int, queue: str) -> System:
        module = ["-m", "ganctl.benchmarks.peers.litserve_peer", "--workers", str(workers), f"--{queue}"]
        what = f"LitServe in batches, ONNX Runtime, Pillow; {_workers(workers)}, {queue}"
        prepare = partial(by_port, module, generator, "/health")
        return System(LITSERVE, what, prepare, kinds=("POST", "grid"), lacks=_packages("litserve"))

    first, *others = [system(workers, queue) for workers in (1, 2) for queue in ("fast-queue", "no-fast-queue")]
    return System(first.name, first.what, first.prepare, first.kinds, first.lacks, tuple(others))


def _fastapi(generator: Path) -> System:
    module = ["-m", "uvicorn", "ganctl.benchmarks.peers.fastapi_peer:app", "--workers", "2"]
    module += ["--no-access-log", "--log-level", "warning"]
    what = "FastAPI and uvicorn, a pass for each request, ONNX Runtime, Pillow; 2 workers"
    prepare = partial(by_port, module, generator, "/digits")
    return System("fastapi", what, prepare, kinds=("GET", "POST", "grid"), lacks=_packages("fastapi", "uvicorn"))


def by_port(words: Sequence[str], generator: Path, health: str, folder: Path) -> Launch:
    """A peer's server, which takes `--port` and is ready when `health` answers 200."""
    ports = free_ports("127.0.0.1", 0)
    ports.release()
    base = f"http://127.0.0.1:{(port := ports.inference)}"

    def ready(_: Path) -> str | None:
        try:
            is_up = httpx.get(f"{base}{health}", timeout=5, trust_env=False).status_code == 200
        except httpx.TransportError:
            return None  # not listening yet
        return f"{base}/digits" if is_up else None

    # ONNX Runtime of 1.32 sends usage data to its maker unless told not to
    environment = {GENERATOR: str(generator), "ORT_DISABLE_TELEMETRY": "1"}
    return Launch([sys.executable, *words, "--port", str(port)], ready, environment)


def _packages(*names: str) -> str | None:
    missing = [name for name in names if importlib.util.find_spec(name) is None]
    return f"it needs the package {' and '.join(missing)}: {INSTALL}" if missing else None
