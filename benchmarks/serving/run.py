"""`ganctl bench serve`: the servers in turns, each alone on the machine; medians, and ratios within repetitions.

Each repetition starts every server anew: so that the time to ready is measured as often as all else, that no idle
server holds memory or runs its own timers beside the one that is measured, and that a drift of the machine's speed
meets all. Java compiles what is hot only under load, so each start is followed by a warm-up. The load generator runs in
this process, on the same cores.
"""

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ganctl.benchmarks.errors import BenchError, BenchUsageError
from ganctl.benchmarks.quality.compare import machine
from ganctl.benchmarks.serving.cases import Case, cases
from ganctl.benchmarks.serving.load import Result, load
from ganctl.benchmarks.serving.models import prepare
from ganctl.benchmarks.serving.process import started
from ganctl.benchmarks.serving.systems import System, systems

Record = dict[str, Any]
_PAUSE = 0.5  # seconds of each case that are not counted
_WARM_UP, _WARM_UP_CONNECTIONS = ("GET", "POST"), 64  # ways through the server that share little code


def measure_all(
    *,
    source: Path | None,
    names: Sequence[str],
    seconds: float,
    repetitions: int,
    warm_up: float,
    announce: Callable[[str], None],
) -> Record:
    """Everything that `ganctl bench serve` tells, of the systems of these names (of all where there are none).

    Raises:
        BenchError: a server did not start, or did not answer, or none of them can run here.
        BenchUsageError: there is no such system, or the source is none.
    """
    serving = Serving(seconds=seconds, repetitions=repetitions, warm_up=warm_up, announce=announce)
    with tempfile.TemporaryDirectory(prefix="ganctl-bench-") as folder:
        models = prepare(source, Path(folder), announce)
        chosen = choose(systems(models), names)
        if all(system.lacks for system in chosen):
            raise BenchError("; ".join(f"{system.name}: {system.lacks}" for system in chosen))
        return serving.run(chosen, cases())


class Serving:
    """Measures servers in turns."""

    def __init__(
        self,
        *,
        seconds: float,
        repetitions: int,
        warm_up: float = 5.0,
        least: int = 1,
        announce: Callable[[str], None],
    ) -> None:
        """Each case is measured for `seconds` in each repetition, or until `least` requests were answered, after
        `warm_up` seconds of load at each start."""
        self._seconds, self._repetitions, self._warm_up, self._announce = seconds, repetitions, warm_up, announce
        self._least = least

    def run(self, systems: Sequence[System], cases: Sequence[Case]) -> Record:
        """All raw figures.

        Raises:
            BenchError: a server did not start, or did not answer.
        """
        skipped = {system.name: system.lacks for system in systems if system.lacks}
        chosen = [self._best(system) for system in systems if not system.lacks]
        found: list[Record] = [
            {"name": system.name, "what": system.what, "ready_seconds": [], "memory": [], "cases": []}
            for system in chosen
        ]
        for repetition in range(self._repetitions):
            for system, record in zip(chosen, found, strict=True):
                self._measure(system, [case for case in cases if case.kind in system.kinds], record)
                self._announce(
                    f"{repetition + 1} of {self._repetitions}: {system.name}: ready in"
                    f" {record['ready_seconds'][-1]:.1f} s; "
                    + ", ".join(f"{c['kind']} {c['connections']}: {c['rates'][-1]:,.0f}/s" for c in record["cases"])
                )
        settings = {"seconds": self._seconds, "repetitions": self._repetitions, "warm_up": self._warm_up}
        return {"machine": machine(), **settings, "systems": found, "skipped": skipped}

    def _measure(self, system: System, cases: Sequence[Case], record: Record) -> None:
        """One start of one server, all of its cases; adds what was found to its record."""
        if not record["cases"]:
            lists: Record = {"rates": [], "p50_ms": [], "p99_ms": [], "refused": []}
            record["cases"] = [
                {"kind": case.kind, "connections": case.connections, "images": case.images}
                | {name: list(empty) for name, empty in lists.items()}
                for case in cases
            ]
        with started(system.name, system.prepare) as server:
            record["ready_seconds"].append(server.seconds)
            for case in {case.kind: case for case in cases}.values():
                case.check(server.url)
            for kind in (warmed := [kind for kind in _WARM_UP if self._warm_up and kind in system.kinds]):
                _ask(server.url, Case(kind, _WARM_UP_CONNECTIONS), self._warm_up / len(warmed), self._least)
            for case, row in zip(cases, record["cases"], strict=True):
                result = _ask(server.url, case, self._seconds, self._least)
                if not result.latencies:
                    raise BenchError(f"{system.name} answered no {case.kind} over {case.connections} connections")
                summary = result.summary()
                answers = sum(result.statuses.values()) + result.failures
                row["rates"].append(summary["requests_per_second"])
                row["p50_ms"].append(summary["p50_ms"])
                row["p99_ms"].append(summary["p99_ms"])
                row["refused"].append(1 - len(result.latencies) / answers)
            record["memory"].append(server.memory())

    def _best(self, system: System) -> System:
        """Of several settings of a system the one with the highest rate in a short try."""
        if not system.rivals:
            return system
        case, rates = Case("POST", _WARM_UP_CONNECTIONS), {}
        for candidate in (system, *system.rivals):
            with started(candidate.name, candidate.prepare) as server:
                rates[candidate] = _ask(server.url, case, self._seconds, self._least).rate
            self._announce(f"a try of {candidate.what}: {rates[candidate]:,.0f}/s")
        return max(rates, key=lambda candidate: rates[candidate])


def _ask(url: str, case: Case, seconds: float, least: int) -> Result:
    parts = urlsplit(url)
    assert parts.hostname is not None
    assert parts.port is not None
    address, requests = (parts.hostname, parts.port), case.requests(parts.path)
    warm_up = min(_PAUSE, seconds)
    return load(address, requests, connections=case.connections, seconds=seconds, warm_up=warm_up, least=least)


def choose(systems: Sequence[System], names: Sequence[str]) -> list[System]:
    """Those of the names; all where none is given.

    Raises:
        BenchUsageError: there is no such system.
    """
    known = [system.name for system in systems]
    if unknown := [name for name in names if name not in known]:
        raise BenchUsageError(f"--only {unknown[0]}: there is no such system, only {', '.join(known)}")
    return [system for system in systems if not names or system.name in names]
