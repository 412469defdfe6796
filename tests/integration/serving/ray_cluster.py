"""A Ray of a test's own, with applications of `ganctl package --for ray`."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import yaml

from ganctl.benchmarks.serving.process import Launch, process_tree, run_server
from ganctl.benchmarks.serving.torchserve import free_ports
from ganctl.serving.hosts.ray.package import package
from tests import http
from tests.waiting import wait_for

_FAST = {"upscale_delay_s": 1, "downscale_delay_s": 600, "metrics_interval_s": 1, "look_back_period_s": 2}
_ENVIRONMENT = {
    "PYTHONPATH": "",  # replicas must not need ganctl
    "RAY_AUTH_MODE": "disabled",  # else Ray leaves a token in the home folder
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_gcs_rpc_server_connect_timeout_s": "60",  # the default, 5, is too short on a busy machine
}


class Cluster:
    """A running Ray with two CPUs, and at most one application."""

    def __init__(self, pid: int, dashboard: str, folder: Path) -> None:
        self._pid, self._dashboard, self._folder = pid, dashboard, folder
        self._port = free_ports().inference
        self.url = f"http://127.0.0.1:{self._port}"

    def deploy(self, export: Path, **autoscaling: float) -> None:
        """Runs `ganctl package` and `serve deploy`; the keywords replace settings of autoscaling_config."""
        application = package(export, self._folder)
        config = yaml.safe_load((application / "config.yaml").read_bytes())
        config["http_options"]["port"] = self._port
        deployment = config["applications"][0]["deployments"][0]
        deployment["autoscaling_config"] |= _FAST | autoscaling
        deployment["health_check_period_s"] = 1
        path = self._folder / "config.yaml"
        path.write_text(yaml.safe_dump(config))
        command = [sys.executable, "-m", "ray.serve.scripts", "deploy", str(path), "--address", self._dashboard]
        done = subprocess.run(command, env=os.environ | _ENVIRONMENT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr

    def wait_until_running(self, replicas: int, other_than: int = 0) -> set[int]:
        """Waits until the application runs with this number of replicas, and returns their process ids.

        Args:
            replicas: the number.
            other_than: a process id that is not counted.
        """

        def is_running() -> bool:
            return len(self.replicas() - {other_than}) == replicas and self._states() == ["RUNNING"] * replicas

        wait_for(is_running, f"{replicas} replicas run")
        return self.replicas()

    def replicas(self) -> set[int]:
        """The process ids of the replicas."""
        found = set()
        for process in process_tree(self._pid):
            with contextlib.suppress(OSError):  # the process has ended
                if b"ray::ServeReplica" in Path(f"/proc/{process.pid}/cmdline").read_bytes():
                    found.add(process.pid)
        return found

    def _states(self) -> list[str]:
        """The states of the replicas; [] while the application does not run."""
        reply: Any = http.get(f"{self._dashboard}/api/serve/applications/").raise_for_status().json()
        application = reply["applications"].get("digits", {"status": "absent"})
        if application["status"] != "RUNNING":
            return []
        return [replica["state"] for replica in application["deployments"]["Generator"]["replicas"]]


@contextlib.contextmanager
def ray_cluster(folder: Path) -> Iterator[Cluster]:
    """Runs a cluster until the block ends; its application lies in `folder`."""
    ports = free_ports()
    dashboard = f"http://127.0.0.1:{ports.management}"

    def prepare(temporary: Path) -> Launch:
        options = {
            "port": 0,
            "dashboard-port": ports.management,
            "dashboard-agent-listen-port": 0,
            "ray-client-server-port": ports.metrics,
            "node-ip-address": "127.0.0.1",
            "num-cpus": 2,
            "object-store-memory": 100_000_000,
            "temp-dir": temporary / "ray",
        }
        arguments = [f"--{name}={value}" for name, value in options.items()]
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", *arguments]
        return Launch(command, ready, _ENVIRONMENT)

    def ready(_: Path) -> str | None:
        try:
            is_up = http.get(f"{dashboard}/api/serve/applications/").status_code == 200
        except httpx.TransportError:
            return None  # not listening yet
        return dashboard if is_up else None

    with run_server("ray", prepare) as server:
        yield Cluster(server.pid, server.url, folder)
