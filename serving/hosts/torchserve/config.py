"""TorchServe's settings: the options of its Java, and the config.properties, the log4j2.xml and the environment that a
server of ours runs with."""

import socket
from collections.abc import Mapping
from pathlib import Path

from ganctl.serving.archive.mar import MODEL_NAME
from ganctl.serving.errors import SettingError
from ganctl.serving.hosts.torchserve.ports import Ports
from ganctl.serving.hosts.torchserve.workers import MOST_WORKERS

# TorchServe takes no IPv6 address in its settings, but a name, which Java looks up in a file of ours.
_IPV6_NAME = "ipv6-address"

JAVA_OPTIONS = (
    "-XX:-UsePerfData",  # no /tmp/hsperfdata_USER is left behind
    # Java would take a quarter of the machine for its heap, and as much again for replies that nobody reads; and netty
    # 17 MB of it for each of the threads that write to workers, who write little and can share them.
    "-Xmx1g",
    "-XX:MaxDirectMemorySize=1g",
    "-Dio.netty.allocator.numHeapArenas=1",
    # Little lives long in that heap: the collector without threads of its own leaves the cores to the workers.
    "-XX:+UseSerialGC",
    # With fewer than three cores Java would start a thread for each batch, to send it: a pool of one is not used.
    f"-Djava.util.concurrent.ForkJoinPool.common.parallelism={MOST_WORKERS}",
)

# All that TorchServe and its workers see of the environment around them. Keys and passwords stay outside, and proxies,
# whose addresses may hold both (nothing is fetched), and what Java or TorchServe prefer to our settings: JAVA_…, TS_….
_PASSED = ("HOME", "LD_LIBRARY_PATH", "LOGNAME", "PATH", "TZ", "USER", "VIRTUAL_ENV")
_PASSED_FAMILIES = ("CUDA_", "KMP_", "MKL_", "OMP_", "ORT_", "PYTHON")
# Java decodes arguments, variables and the names of files by the locale; ours are UTF-8, as what workers print.
_UTF8 = {"LC_ALL": "C.UTF-8", "PYTHONUTF8": "1", "PYTHONIOENCODING": "utf-8"}


def config_properties(folder: Path, address: str, ports: Ports, workers: int, token: bool) -> str:
    """The text of config.properties. Each setting departs from TorchServe's own for the reason beside it."""
    return f"""\
# Only inference leaves this machine. Who reaches management can stop workers and, were the model API on, load code: it
# listens in our folder, as do metrics, and what others may know of both is passed on (management.py, metrics.py).
inference_address=http://{_IPV6_NAME if ":" in address else address}:{ports.inference}
management_address=unix:{folder / "management.sock"}
metrics_address=unix:{folder / "metrics.sock"}
grpc_inference_address=127.0.0.1
grpc_management_address=127.0.0.1
grpc_inference_port={ports.grpc}
grpc_management_port={ports.grpc_management}

# One archive, and nothing else: no registering of models, no archives by URL, no installing of packages. No URL at all
# is allowed, as TorchServe looks for ".." in a workflow's only after it has copied what is there into the store; and
# workflows, which no setting switches off, have a store of their own, which stays empty.
model_store={folder / "store"}
workflow_store={folder / "workflows"}
load_models={MODEL_NAME}={MODEL_NAME}.mar
allowed_urls=(?!)
enable_model_api=false
install_py_dep_per_model=false
disable_token_authorization={str(not token).lower()}

# One thread a worker, and as many workers as cores: several threads for one small image only wait for each other.
default_workers_per_model={workers}
number_of_gpu=0

# Requests that wait for a worker; the next one gets a 503. TorchServe's 100 are fewer than a busy proxy's connections.
job_queue_size=1024

# A request of ours is a few hundred bytes. Replies are limited by the handler, which can say so.
max_request_size=1048576
max_response_size=33554432

metrics_mode=prometheus
metrics_config={folder / "metrics.yaml"}
disable_system_metrics=true
"""


def java_options(folder: Path, address: str) -> tuple[str, ...]:
    """The options of Java for a server on an IP address: with one of IPv6, names are looked up in the file `hosts`."""
    return (*JAVA_OPTIONS, f"-Djdk.net.hosts.file={folder / 'hosts'}") if ":" in address else JAVA_OPTIONS


def hosts(address: str) -> str:
    """The text of the file `hosts`. TorchServe looks this machine's own name up, too."""
    return f"{address} {_IPV6_NAME}\n127.0.0.1 localhost {socket.gethostname()}\n"


def page_is_wanted(given: Mapping[str, str]) -> bool:
    """Whether the variable GANCTL_PAGE leaves the page on.

    Raises:
        SettingError: its value is neither `on` nor `off`.
    """
    text = given.get("GANCTL_PAGE", "").strip().lower()
    if text not in ("", "on", "off"):
        raise SettingError(f"GANCTL_PAGE: found {given['GANCTL_PAGE']!r}, expected on or off. Change it, or unset it.")
    return text != "off"


def environment(
    given: Mapping[str, str], folder: Path, *, page: bool = True, access_log: Path | None = None
) -> dict[str, str]:
    """The environment of Java, and so of its workers; everything that they write goes into `folder`, but for the access
    log."""
    passed = {name: value for name, value in given.items() if name in _PASSED or name.startswith(_PASSED_FAMILIES)}
    logs = str(folder / "logs")
    passed |= _UTF8
    passed |= {"TMPDIR": str(folder / "tmp"), "LOG_LOCATION": logs, "METRICS_LOCATION": logs}
    # Weights in large pages: a worker that has waited finds nothing in its caches, and draws its image in a fifth less.
    passed["GLIBC_TUNABLES"] = "glibc.malloc.hugetlb=1"
    passed |= {"GANCTL_STATE": str(folder / "state"), "PROMETHEUS_MULTIPROC_DIR": str(folder / "metrics")}
    if not page:
        passed["GANCTL_PAGE"] = "off"
    if access_log is not None:
        passed["GANCTL_ACCESS_LOG"] = str(access_log.absolute())
    return passed


def log4j2(folder: Path) -> str:
    """The text of log4j2.xml: warnings of the server, and what the workers print, each in a rolling file of its own."""
    return f"""\
<?xml version="1.0" encoding="UTF-8"?>
<Configuration status="ERROR">
  <Appenders>
{_rolling("server", folder)}
{_rolling("workers", folder)}
  </Appenders>
  <Loggers>
    <!-- The access log costs a line for every request, the metrics three; both have better places. -->
    <Logger name="ACCESS_LOG" level="off"/>
    <Logger name="TS_METRICS" level="off"/>
    <Logger name="MODEL_METRICS" level="off"/>
    <!-- Workers print the traceback of a failed start at INFO. Once loaded, our handler silences all below WARN. -->
    <Logger name="MODEL_LOG" level="info" additivity="false"><AppenderRef ref="workers"/></Logger>
    <Root level="warn"><AppenderRef ref="server"/></Root>
  </Loggers>
</Configuration>
"""


def _rolling(name: str, folder: Path) -> str:
    return f"""\
    <RollingFile name="{name}" fileName="{folder}/logs/{name}.log" filePattern="{folder}/logs/{name}.%i.log">
      <PatternLayout pattern="%d{{ISO8601}} %p %t - %m%n"/>
      <SizeBasedTriggeringPolicy size="10 MB"/>
      <DefaultRolloverStrategy max="3"/>
    </RollingFile>"""


METRICS = """\
dimensions:
  - &level "Level"
  - &hostname "Hostname"

ts_metrics:
  counter:
    - {name: Requests2XX, unit: Count, dimensions: [*level, *hostname]}
    - {name: Requests4XX, unit: Count, dimensions: [*level, *hostname]}
    - {name: Requests5XX, unit: Count, dimensions: [*level, *hostname]}
    - {name: ts_inference_requests_total, unit: Count, dimensions: [model_name, model_version, hostname]}
    - {name: ts_inference_latency_microseconds, unit: Microseconds, dimensions: [model_name, model_version, hostname]}
    - {name: ts_queue_latency_microseconds, unit: Microseconds, dimensions: [model_name, model_version, hostname]}
  histogram:
    - {name: QueueTime, unit: Milliseconds, dimensions: [*level, *hostname]}
"""
