"""Settings of a TorchServe server: Java options, config.properties, log4j2.xml, metrics.yaml and the environment."""

import socket
from collections.abc import Mapping
from pathlib import Path

from ganctl.serving.archive.mar import MODEL_NAME
from ganctl.serving.hosts.environment import worker_environment
from ganctl.serving.hosts.torchserve.ports import Ports
from ganctl.serving.hosts.workers import MAX_WORKERS

# TorchServe's settings accept no IPv6 address, only a name. Java looks this name up in our file `hosts`.
_IPV6_NAME = "ipv6-address"

JAVA_OPTIONS = (
    "-XX:-UsePerfData",  # no /tmp/hsperfdata_USER is left behind
    # By default, the heap may grow to a quarter of the machine's memory, and so may the buffers of unread replies.
    # netty reserves 17 MB for each thread that writes to a worker; these write little and can share one arena.
    "-Xmx1g",
    "-XX:MaxDirectMemorySize=1g",
    "-Dio.netty.allocator.numHeapArenas=1",
    # Few objects live long: a collector without its own threads leaves the cores to the workers.
    "-XX:+UseSerialGC",
    # With fewer than three cores, Java's common pool would not be used, and each batch would start a thread.
    f"-Djava.util.concurrent.ForkJoinPool.common.parallelism={MAX_WORKERS}",
)


def config_properties(folder: Path, address: str, ports: Ports, workers: int, token: bool) -> str:
    """Returns the text of config.properties; its comments give the reason for each departure from the defaults.

    Args:
        folder: the server's private folder.
        address: the IP address of the inference port.
        ports: the server's ports.
        workers: the number of workers.
        token: whether TorchServe demands a token.
    """
    return f"""\
# Only inference is reachable from other machines. The management API can stop workers and, with the model API enabled,
# load code. It listens in the private folder, as do the metrics; management.py and metrics.py pass on the safe part.
inference_address=http://{_IPV6_NAME if ":" in address else address}:{ports.inference}
management_address=unix:{folder / "management.sock"}
metrics_address=unix:{folder / "metrics.sock"}
grpc_inference_address=127.0.0.1
grpc_management_address=127.0.0.1
grpc_inference_port={ports.grpc}
grpc_management_port={ports.grpc_management}

# One archive: no registration of models, no archives by URL, no installation of packages. Every URL is refused, because
# TorchServe copies a workflow's file into the store before it checks the name for "..". No setting disables workflows;
# their store is a separate, empty folder.
model_store={folder / "store"}
workflow_store={folder / "workflows"}
load_models={MODEL_NAME}={MODEL_NAME}.mar
allowed_urls=(?!)
enable_model_api=false
install_py_dep_per_model=false
disable_token_authorization={str(not token).lower()}

# One thread per worker, one worker per core: threads that share one small image mostly wait for each other.
default_workers_per_model={workers}
number_of_gpu=0

# Requests that may wait for a worker; further ones get 503. TorchServe's default, 100, is too few for a busy proxy.
job_queue_size=1024

# A request has a few hundred bytes. The handler has a lower limit for replies, with a clear error.
max_request_size=1048576
max_response_size=33554432

metrics_mode=prometheus
metrics_config={folder / "metrics.yaml"}
disable_system_metrics=true
"""


def hosts(address: str) -> str:
    """Returns the text of the file `hosts`: all names that TorchServe resolves, this machine's name among them."""
    return f"{address} {_IPV6_NAME}\n127.0.0.1 localhost {socket.gethostname()}\n"


def environment(
    given: Mapping[str, str], folder: Path, *, page: bool = True, access_log: Path | None = None
) -> dict[str, str]:
    """Returns the environment of Java and its workers; see `worker_environment`."""
    logs = str(folder / "logs")
    variables = worker_environment(given, folder, page=page, access_log=access_log)
    return variables | {"GANCTL_STATE": str(folder / "state"), "LOG_LOCATION": logs, "METRICS_LOCATION": logs}


def log4j2(folder: Path) -> str:
    """Returns the text of log4j2.xml: the server's warnings and the workers' output, each in a rolling file."""
    return f"""\
<?xml version="1.0" encoding="UTF-8"?>
<Configuration status="ERROR">
  <Appenders>
{_rolling("server", folder)}
{_rolling("workers", folder)}
  </Appenders>
  <Loggers>
    <!-- One line per request for the access log and three for the metrics; ganctl writes both elsewhere. -->
    <Logger name="ACCESS_LOG" level="off"/>
    <Logger name="TS_METRICS" level="off"/>
    <Logger name="MODEL_METRICS" level="off"/>
    <!-- INFO, because workers print the traceback of a failed start. A loaded handler logs only WARN and above. -->
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


# TorchServe's own worker, which the benchmark's reference uses, ends without the section `dimensions`
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
