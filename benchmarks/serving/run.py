"""Measures servers for `ganctl bench serve`: interleaved repetitions, one server on the machine at a time.

Each repetition restarts every server. So the start-up time is measured as often as the rest, no idle server uses memory
or CPU time during a measurement, and a drift of the machine's speed affects all servers. A warm-up follows each start,
because Java compiles hot code only under load. The load generator runs on the same cores: wrk, or where it is not
installed, one in this process.
"""

import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

from ganctl.benchmarks.errors import BenchError
from ganctl.benchmarks.report import JsonObject, choose, machine
from ganctl.benchmarks.serving import wrk
from ganctl.benchmarks.serving.cases import LARGE_GRID_CONNECTIONS, Case, cases
from ganctl.benchmarks.serving.load import Result, load, post
from ganctl.benchmarks.serving.models import prepare
from ganctl.benchmarks.serving.process import run_server
from ganctl.benchmarks.serving.systems import Target, systems

_CASE_WARM_UP = 0.5  # seconds at the start of each case that do not count
_WARM_UP, _WARM_UP_CONNECTIONS = ("GET", "POST"), 64  # kinds of requests that share little code in the server


def measure_all(
    *,
    source: Path | None,
    names: Sequence[str],
    seconds: float,
    repetitions: int,
    warm_up: float,
    announce: Callable[[str], None],
) -> JsonObject:
    """Runs all measurements of `ganctl bench serve`, of the systems with these names (default: all).

    Raises:
        BenchError: a server did not start or answer, or no selected system can run here.
        BenchUsageError: a system does not exist, or the source cannot be served.
    """
    benchmark = ServingBenchmark(seconds=seconds, repetitions=repetitions, warm_up=warm_up, announce=announce)
    with tempfile.TemporaryDirectory(prefix="ganctl-bench-") as folder:
        models = prepare(source, Path(folder), announce)
        chosen = choose({system.name: system for system in systems(models)}, names, "--only")
        if all(system.unavailable for system in chosen):
            raise BenchError("; ".join(f"{system.name}: {system.unavailable}" for system in chosen))
        return benchmark.run(chosen, cases())


class ServingBenchmark:
    """Measures servers, interleaved."""

    def __init__(
        self,
        *,
        seconds: float,
        repetitions: int,
        warm_up: float,
        min_replies: int = 1,
        announce: Callable[[str], None],
    ) -> None:
        """Sets the lengths of the measurements.

        Args:
            seconds: of each case in each repetition.
            repetitions: the number of repetitions.
            warm_up: seconds of load after each start of a server.
            min_replies: a case takes longer than `seconds` until it has this many replies with status 200.
            announce: called with progress messages.
        """
        self._seconds, self._repetitions, self._warm_up, self._announce = seconds, repetitions, warm_up, announce
        self._min_replies = min_replies

    def run(self, systems: Sequence[Target], cases: Sequence[Case]) -> JsonObject:
        """Measures all systems and returns the raw figures.

        Raises:
            BenchError: a server did not start or answer.
        """
        skipped = {system.name: system.unavailable for system in systems if system.unavailable}
        chosen = [self._best(system) for system in systems if not system.unavailable]
        results: list[JsonObject] = [
            {"name": system.name, "what": system.description, "ready_seconds": [], "memory": [], "cases": []}
            for system in chosen
        ]
        for repetition in range(self._repetitions):
            for system, record in zip(chosen, results, strict=True):
                self._measure(system, [case for case in cases if case.kind in system.kinds], record)
                self._announce(
                    f"{repetition + 1} of {self._repetitions}: {system.name}: ready in"
                    f" {record['ready_seconds'][-1]:.1f} s; "
                    + ", ".join(f"{c['kind']} {c['connections']}: {c['rates'][-1]:,.0f}/s" for c in record["cases"])
                )
        settings = {"seconds": self._seconds, "repetitions": self._repetitions, "warm_up": self._warm_up}
        generator = "wrk" if wrk.is_installed() else "ours, in Python; with wrk the rates are higher"
        return {"machine": machine(), **settings, "load_generator": generator, "systems": results, "skipped": skipped}

    def _measure(self, system: Target, cases: Sequence[Case], record: JsonObject) -> None:
        """Starts a server, measures all its cases, and appends the figures to its record."""
        if not record["cases"]:
            record["cases"] = [
                {"kind": case.kind, "connections": case.connections, "images": case.images}
                | {name: [] for name in ("rates", "p50_ms", "p99_ms", "refused")}
                for case in cases
            ]
        with run_server(system.name, system.prepare) as server:
            record["ready_seconds"].append(server.seconds)
            for case in {case.kind: case for case in cases}.values():
                case.check(server.url)
            for kind in (kinds := [kind for kind in _WARM_UP if self._warm_up and kind in system.kinds]):
                _run_load(server.url, Case(kind, _WARM_UP_CONNECTIONS), self._warm_up / len(kinds), self._min_replies)
            for case, row in zip(cases, record["cases"], strict=True):
                result = _run_load(server.url, case, self._seconds, self._min_replies)
                if not result.accepted:
                    raise BenchError(
                        f"{system.name}: found no reply with status 200 to {case.kind}, connections: {case.connections}"
                    )
                row["rates"].append(result.rate)
                row["p50_ms"].append(1e3 * result.p50)
                row["p99_ms"].append(1e3 * result.p99)
                row["refused"].append(result.refused / (result.accepted + result.refused))
            record["memory"].append(server.memory())

    def _best(self, system: Target) -> Target:
        """Returns the variant of a system with the highest rate in a short trial."""
        if not system.variants:
            return system
        case, rates = Case("POST", _WARM_UP_CONNECTIONS), {}
        for candidate in (system, *system.variants):
            with run_server(candidate.name, candidate.prepare) as server:
                rates[candidate] = _run_load(server.url, case, self._seconds, self._min_replies).rate
            self._announce(f"trial of {candidate.description}: {rates[candidate]:,.0f}/s")
        return max(rates, key=lambda candidate: rates[candidate])


def _run_load(url: str, case: Case, seconds: float, min_replies: int) -> Result:
    parts = urlsplit(url)
    assert parts.hostname is not None
    assert parts.port is not None
    address, requests = (parts.hostname, parts.port), case.requests(parts.path)
    with ThreadPoolExecutor(1) as threads:
        grids = [post(parts.path, body) for body in case.background]
        jobs = [threads.submit(_load, address, grids, LARGE_GRID_CONNECTIONS, seconds, min_replies)] if grids else []
        result = _load(address, requests, case.connections, seconds, min_replies)
        for job in jobs:
            job.result()  # raises the error of a load that failed
        return result


def _load(
    address: tuple[str, int], requests: Sequence[bytes], connections: int, seconds: float, min_replies: int
) -> Result:
    if wrk.is_installed():
        return wrk.load(address, requests, connections=connections, seconds=seconds)
    warm_up = min(_CASE_WARM_UP, seconds)
    return load(address, requests, connections=connections, seconds=seconds, warm_up=warm_up, min_replies=min_replies)
