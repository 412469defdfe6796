"""TorchServe with its own start script and worker, for comparison: default settings, and a constant reply."""

import json
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path

import httpx
import yaml

from ganctl.benchmarks.serving.process import Launch
from ganctl.serving.archive.integrity import DIGESTS, digest_list
from ganctl.serving.archive.mar import MODEL_NAME
from ganctl.serving.hosts.torchserve.config import JAVA_OPTIONS, METRICS, config_properties, log4j2
from ganctl.serving.hosts.torchserve.java import find_java
from ganctl.serving.hosts.torchserve.ports import Ports, reserve_ports

_CONFIG = "model-config.yaml"
_HANDLER = Path(__file__).parents[1] / "peers" / "constant_handler.py"
_MODEL = f"{MODEL_NAME}={MODEL_NAME}.mar"
PATH = f"/predictions/{MODEL_NAME}"


def free_ports() -> Ports:
    """Returns five ports of loopback that no process uses now."""
    with reserve_ports("127.0.0.1", 0) as ports:
        return ports


def stock(mar: Path, folder: Path) -> Launch:
    """Prepares our archive for a TorchServe with default settings: no batches, at least two log lines per request.

    The exceptions: its ports are free ones, its token is off, as for our server on loopback, and Java leaves no
    /tmp/hsperfdata_USER behind.
    """
    ports = free_ports()
    (folder / "store").mkdir()
    with zipfile.ZipFile(mar) as archive:
        config = yaml.safe_load(archive.read(_CONFIG))
    settings = yaml.safe_dump({"handler": config["handler"]})
    repack(mar, folder / "store" / f"{MODEL_NAME}.mar", {_CONFIG: settings.encode()})
    properties = f"""\
inference_address=http://127.0.0.1:{ports.inference}
management_address=http://127.0.0.1:{ports.management}
metrics_address=http://127.0.0.1:{ports.metrics}
grpc_inference_port={ports.grpc}
grpc_management_port={ports.grpc_management}
disable_token_authorization=true
vmargs=-XX:-UsePerfData
"""
    return _torchserve(folder, ports, properties, ["--model-store", "store", "--models", _MODEL])


def ceiling(mar: Path, digit: bytes, workers: int, folder: Path) -> Launch:
    """Prepares a TorchServe that returns constant bytes, with our server's, Java's and archive's settings.

    Its rate is the upper limit for a server without inference and encoding.
    """
    ports = free_ports()
    (folder / "store").mkdir()
    with zipfile.ZipFile(mar) as archive:
        entry = json.loads(archive.read("MAR-INF/MANIFEST.json"))["model"]["handler"]
    files = {entry: _HANDLER.read_bytes(), "digit.png": digit}
    repack(mar, folder / "store" / f"{MODEL_NAME}.mar", files)
    (folder / "workflows").mkdir()
    (folder / "log4j2.xml").write_text(log4j2(folder), "utf-8")
    # TorchServe's own worker needs this gauge
    gauge = "model_metrics:\n  gauge:\n    - {name: PredictionTime, unit: ms, dimensions: [ModelName, *level]}\n"
    (folder / "metrics.yaml").write_text(METRICS + gauge, "utf-8")
    properties = config_properties(folder, "127.0.0.1", ports, workers, token=False)
    # The readiness check needs a TCP address, as for stock. Of duplicate settings, Java uses the last.
    properties += f"management_address=http://127.0.0.1:{ports.management}\nvmargs={' '.join(JAVA_OPTIONS)}\n"
    return _torchserve(folder, ports, properties, ["--log-config", "log4j2.xml", "--ncs"])


def repack(mar: Path, to: Path, files: Mapping[str, bytes]) -> None:
    """Writes a copy of an archive in which these files are replaced or added, with a new list of digests."""
    with zipfile.ZipFile(mar) as old:
        members = {**{name: old.read(name) for name in old.namelist() if name != DIGESTS}, **files}
    with zipfile.ZipFile(to, "w") as new:
        for name, content in {**members, DIGESTS: digest_list(members)}.items():
            new.writestr(name, content)


def _torchserve(folder: Path, ports: Ports, properties: str, arguments: list[str]) -> Launch:
    (folder / "tmp").mkdir()
    (folder / "config.properties").write_text(properties, "utf-8")
    command = [sys.executable, "-m", "ts.model_server", "--start", "--foreground", "--ts-config", "config.properties"]
    # TorchServe keeps its workers' sockets and its pid file, one per machine, in the temporary folder
    environment = {"TEMP": str(folder / "tmp"), "TMPDIR": str(folder / "tmp")}
    environment["JAVA_HOME"] = str(find_java().parent.parent)  # the same as for our server
    management = f"http://127.0.0.1:{ports.management}/models/{MODEL_NAME}"
    url = f"http://127.0.0.1:{ports.inference}{PATH}"
    return Launch([*command, *arguments], lambda _: url if _is_ready(management) else None, environment)


def _is_ready(management: str) -> bool:
    """Returns whether every worker is ready."""
    try:
        reply = httpx.get(management, timeout=5, trust_env=False)
    except httpx.TransportError:
        return False  # not listening yet
    if reply.status_code != 200:
        return False
    workers = reply.json()[0]["workers"]
    return bool(workers) and all(worker["status"] == "READY" for worker in workers)
