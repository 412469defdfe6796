"""The TorchServes beside ours, by its own `torchserve` script and with its own worker: stock, and the ceiling."""

import json
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path

import httpx
import yaml

from ganctl.benchmarks.serving.process import Launch
from ganctl.serving.archive.mar import MODEL_NAME
from ganctl.serving.hosts.torchserve.config import JAVA_OPTIONS, METRICS, config_properties, log4j2
from ganctl.serving.hosts.torchserve.java import find_java
from ganctl.serving.hosts.torchserve.ports import Ports, free_ports

_CONFIG = "model-config.yaml"
_HANDLER = Path(__file__).parents[1] / "peers" / "constant_handler.py"
_MODEL = f"{MODEL_NAME}={MODEL_NAME}.mar"
PATH = f"/predictions/{MODEL_NAME}"


def stock(mar: Path, folder: Path) -> Launch:
    """Our archive as TorchServe serves one of which it is told nothing: no batches, two log lines and more a request.

    Only its ports are chosen, so that it stands in nobody's way, its token is off, as ours is on loopback, and Java
    leaves no /tmp/hsperfdata_USER behind.
    """
    ports = free_ports("127.0.0.1", 0)
    ports.release()
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
    """Constant bytes under our server's settings, Java's too, and our archive's: what is left of the rate without any
    drawing."""
    ports = free_ports("127.0.0.1", 0)
    ports.release()
    (folder / "store").mkdir()
    with zipfile.ZipFile(mar) as archive:
        entry = json.loads(archive.read("MAR-INF/MANIFEST.json"))["model"]["handler"]
    files = {entry: _HANDLER.read_bytes(), "digit.png": digit}
    repack(mar, folder / "store" / f"{MODEL_NAME}.mar", files)
    (folder / "workflows").mkdir()
    (folder / "log4j2.xml").write_text(log4j2(folder), "utf-8")
    # TorchServe's own worker wants a gauge of its own in there
    gauge = "model_metrics:\n  gauge:\n    - {name: PredictionTime, unit: ms, dimensions: [ModelName, *level]}\n"
    (folder / "metrics.yaml").write_text(METRICS + gauge, "utf-8")
    properties = config_properties(folder, "127.0.0.1", ports, workers, token=False)
    # it is asked whether it is ready as stock is; of a setting that is given twice, Java takes the last
    properties += f"management_address=http://127.0.0.1:{ports.management}\nvmargs={' '.join(JAVA_OPTIONS)}\n"
    return _torchserve(folder, ports, properties, ["--log-config", "log4j2.xml", "--ncs"])


def repack(mar: Path, to: Path, files: Mapping[str, bytes]) -> None:
    """Writes an archive with these files in the place of its own of the same names, or beside them."""
    with zipfile.ZipFile(mar) as old, zipfile.ZipFile(to, "w") as new:
        for name in old.namelist():
            if name not in files:
                new.writestr(name, old.read(name))
        for name, content in files.items():
            new.writestr(name, content)


def _torchserve(folder: Path, ports: Ports, properties: str, words: list[str]) -> Launch:
    (folder / "tmp").mkdir()
    (folder / "config.properties").write_text(properties, "utf-8")
    command = [sys.executable, "-m", "ts.model_server", "--start", "--foreground", "--ts-config", "config.properties"]
    # the sockets of its workers and the pid of the machine's only TorchServe lie in the temporary folder
    environment = {"TEMP": str(folder / "tmp"), "TMPDIR": str(folder / "tmp")}
    environment["JAVA_HOME"] = str(find_java().parent.parent)  # the one that ours runs with
    management = f"http://127.0.0.1:{ports.management}/models/{MODEL_NAME}"
    url = f"http://127.0.0.1:{ports.inference}{PATH}"
    return Launch([*command, *words], lambda _: url if _is_ready(management) else None, environment)


def _is_ready(management: str) -> bool:
    """Whether every worker is."""
    try:
        reply = httpx.get(management, timeout=5, trust_env=False)
    except httpx.TransportError:
        return False  # not listening yet
    if reply.status_code != 200:
        return False
    workers = reply.json()[0]["workers"]
    return bool(workers) and all(worker["status"] == "READY" for worker in workers)
