"""Servers that `ganctl bench serve` compares, and their start commands."""

import importlib.util
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import httpx
import yaml

from ganctl.benchmarks.peers import GENERATOR
from ganctl.benchmarks.serving.process import Launch
from ganctl.benchmarks.serving.torchserve import PATH, ceiling, free_ports, repack, stock
from ganctl.benchmarks.systems import INSTALL

CEILING, NATIVE_CEILING, LITSERVE = "constant", "native-constant", "litserve"  # the references of relative rates
_CONSTANT_SERVICE = Path(__file__).parents[1] / "peers" / "constant_service.py"


@dataclass(frozen=True)
class Models:
    """The files to serve."""

    onnx: Path  # archive for ONNX Runtime
    torchscript: Path | None  # archive for TorchScript; None if the export has no generator.ts
    generator: Path  # generator.onnx for the peers
    conv: Path  # archive with the generator of `conv`
    digit: bytes  # a PNG for the ceiling
    ray: Path  # folder for Ray Serve


@dataclass(frozen=True)
class Target:
    """A server to compare.

    With `variants`, the fastest of the system and its variants in a short trial is measured.
    """

    name: str
    description: str
    prepare: Callable[[Path], Launch]  # takes an empty folder to start in
    kinds: tuple[str, ...] = ("GET", "POST", "JSON", "grid", "beside")  # of requests that it supports
    unavailable: str | None = None  # why it cannot run here, and the remedy
    variants: tuple["Target", ...] = ()


def systems(models: Models) -> list[Target]:
    """Returns all systems in the order of the table."""
    servers = [_ours(f"onnx-{n}", f"ours, ONNX Runtime, {_workers(n)}", models.onnx, n) for n in (1, 2)]
    if models.torchscript is not None:
        script = models.torchscript
        servers += [_ours(f"torchscript-{n}", f"ours, TorchScript, {_workers(n)}", script, n) for n in (1, 2)]
    else:
        unavailable = "the export has no generator.ts: export again with that format"
        servers += [Target("torchscript", "ours, TorchScript", _not_started, unavailable=unavailable)]
    servers += [_ours("conv-2", "ours, ONNX Runtime, 2 workers, the larger generator of `conv`", models.conv, 2)]
    servers += [_native(f"native-{n}", f"our native host, ONNX Runtime, {_workers(n)}", models.onnx, n) for n in (1, 2)]
    description = "constant bytes from our native host, 2 workers: its ceiling"
    servers += [Target(NATIVE_CEILING, description, partial(_native_ceiling, models), kinds=("GET", "POST"))]
    servers += [_ray(models.ray)]
    servers += [Target("stock", "the same handler in TorchServe with default settings", partial(stock, models.onnx))]
    servers += [_litserve(models.generator), _fastapi(models.generator)]
    description = "constant bytes from TorchServe's own worker, our server's settings, 2 workers: the ceiling"
    prepare = partial(ceiling, models.onnx, models.digit, 2)
    return [*servers, Target(CEILING, description, prepare, kinds=("GET", "POST"))]


def _workers(number: int) -> str:
    return f"{number} worker{'s' * (number > 1)}"


def _not_started(folder: Path) -> Launch:
    raise AssertionError("an unavailable system is not started")


def _native(name: str, description: str, mar: Path, workers: int) -> Target:
    return Target(name, description, lambda _: _serve(mar, workers, "native"))


def _native_ceiling(models: Models, folder: Path) -> Launch:
    repack(
        models.onnx,
        folder / "constant.mar",
        {"ganctl_entry.py": _CONSTANT_SERVICE.read_bytes(), "digit.png": models.digit},
    )
    return _serve(folder / "constant.mar", 2, "native")


def _ray(application: Path) -> Target:
    unavailable = None
    if importlib.util.find_spec("ray") is None:
        unavailable = "it needs the package ray: install it with pip install 'ganctl[ray]'"
    description = "the same handler in Ray Serve, 2 replicas, behind Ray's proxy"
    return Target("ray", description, partial(_serve_run, application), unavailable=unavailable)


def _serve_run(application: Path, folder: Path) -> Launch:
    """Returns the command that runs the application in a Ray of its own, with two replicas."""
    config = yaml.safe_load((application / "config.yaml").read_bytes())
    port = config["http_options"]["port"] = free_ports().inference
    config["applications"][0]["deployments"][0]["autoscaling_config"] |= {"min_replicas": 2, "max_replicas": 2}
    (folder / "config.yaml").write_text(yaml.safe_dump(config), "utf-8")
    url = f"http://127.0.0.1:{port}{PATH}"

    def ready(_: Path) -> str | None:
        return url if _is_up(url) else None  # the proxy finds no application before all replicas run

    command = [sys.executable, "-m", "ray.serve.scripts", "run", "config.yaml"]
    environment = {
        "RAY_TMPDIR": str(folder),
        "RAY_AUTH_MODE": "disabled",  # else Ray leaves a token in the home folder
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_gcs_rpc_server_connect_timeout_s": "60",  # the default, 5, is too short on a busy machine
        "RAY_worker_niceness": "0",  # the default, 15, would favor the load generator on the same cores
    }
    return Launch(command, ready, environment)


def _ours(name: str, description: str, mar: Path, workers: int) -> Target:
    return Target(name, description, lambda _: _serve(mar, workers, "torchserve"))


def _serve(mar: Path, workers: int, engine: str) -> Launch:
    arguments = ["serve", str(mar), "--engine", engine, "--port", "0", "--workers", str(workers), "--json"]
    return Launch([sys.executable, "-m", "ganctl", *arguments], _printed_url)


def _printed_url(output: Path) -> str | None:
    """Returns the URL that `ganctl serve --json` prints when it is ready."""
    text = output.read_text("utf-8")
    return f"{json.loads(text)['url']}{PATH}" if text.endswith("\n") else None


def _litserve(generator: Path) -> Target:
    def system(workers: int, queue: str) -> Target:
        module = ["-m", "ganctl.benchmarks.peers.litserve_peer", "--workers", str(workers), f"--{queue}"]
        description = f"LitServe in batches, ONNX Runtime, Pillow; {_workers(workers)}, {queue}"
        prepare = partial(by_port, module, generator, "/health")
        return Target(LITSERVE, description, prepare, kinds=("POST", "grid"), unavailable=_missing_packages("litserve"))

    first, *variants = [system(workers, queue) for workers in (1, 2) for queue in ("fast-queue", "no-fast-queue")]
    return Target(first.name, first.description, first.prepare, first.kinds, first.unavailable, tuple(variants))


def _fastapi(generator: Path) -> Target:
    module = ["-m", "uvicorn", "ganctl.benchmarks.peers.fastapi_peer:app", "--workers", "2"]
    module += ["--no-access-log", "--log-level", "warning"]
    description = "FastAPI and uvicorn, one pass per request, ONNX Runtime, Pillow; 2 workers"
    prepare = partial(by_port, module, generator, "/digits")
    kinds = ("GET", "POST", "grid")
    return Target("fastapi", description, prepare, kinds, _missing_packages("fastapi", "uvicorn"))


def by_port(arguments: Sequence[str], generator: Path, health: str, folder: Path) -> Launch:
    """Returns the command of a peer server, which takes `--port` and is ready when the path `health` returns 200."""
    port = free_ports().inference
    base = f"http://127.0.0.1:{port}"

    def ready(_: Path) -> str | None:
        return f"{base}/digits" if _is_up(f"{base}{health}") else None

    # ONNX Runtime 1.32 sends usage data to its vendor by default
    environment = {GENERATOR: str(generator), "ORT_DISABLE_TELEMETRY": "1"}
    return Launch([sys.executable, *arguments, "--port", str(port)], ready, environment)


def _is_up(url: str) -> bool:
    try:
        return httpx.get(url, timeout=5, trust_env=False).status_code == 200
    except httpx.TransportError:
        return False  # not listening yet


def _missing_packages(*names: str) -> str | None:
    missing = [name for name in names if importlib.util.find_spec(name) is None]
    return f"it needs the package {' and '.join(missing)}: {INSTALL}" if missing else None
