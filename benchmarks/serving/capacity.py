"""Predicts latencies and replicas from measured rates: a model of a server that answers what waits in one batch.

`python -m ganctl.benchmarks.serving.capacity results.json NAME` takes the results of `ganctl bench serve`.

A batch of b requests takes t(b) = a + c·b seconds: a for the batch, c for each request. docs/scaling.md has the
derivations.
"""

import json
import math
import statistics
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from ganctl.benchmarks.report import markdown_table

_UTILIZATION = 0.6  # of the highest rate, so that bursts and the loss of a replica fit in
_TARGETS = (100, 10_000, 100_000)  # requests/s


class Capacity(NamedTuple):
    """The constants of a server: seconds of a batch, and of each request in it."""

    batch: float
    request: float

    @property
    def highest_rate(self) -> float:
        """Requests/s that no number of clients exceeds: 1 / c."""
        return 1 / self.request

    def closed_rate(self, clients: int) -> float:
        """Returns requests/s of clients that each send the next request after each reply: N / (a + c·N)."""
        return clients / (self.batch + self.request * clients)

    def latency(self, rate: float) -> float:
        """Returns the mean latency in seconds of requests that arrive at random (a Poisson process).

        Batches of b = rate·t requests follow each other without a pause if t = a / (1 − c·rate). A request waits for
        half a batch on average, and then for its own. At low rates it finds no batch to wait for.
        """
        load = self.request * rate
        assert load < 1, "the rate is below the highest one"
        cycle = max(self.batch / (1 - load), self.batch + self.request)
        busy = min(1.0, rate * (self.batch + self.request))
        return cycle * (1 + busy / 2)

    def replicas(self, rate: float) -> int:
        """Returns the number of servers for a rate, each loaded to `_UTILIZATION`."""
        return math.ceil(rate * self.request / _UTILIZATION)


def fit(rates: Mapping[int, float]) -> Capacity:
    """Returns the constants that fit the rates with the fewest and the most clients exactly."""
    few, many = min(rates), max(rates)
    request = (many / rates[many] - few / rates[few]) / (many - few)
    return Capacity(few / rates[few] - request * few, request)


def main() -> None:
    """Prints the tables of docs/scaling.md."""
    path, name = sys.argv[1:]
    (system,) = (each for each in json.loads(Path(path).read_bytes())["systems"] if each["name"] == name)
    rates = {
        case["connections"]: statistics.median(case["rates"]) for case in system["cases"] if case["kind"] == "POST"
    }
    capacity = fit(rates)
    print(f"a = {1e6 * capacity.batch:.0f} µs, c = {1e6 * capacity.request:.1f} µs\n")
    rows = [[str(clients), f"{rate:,.0f}", f"{capacity.closed_rate(clients):,.0f}"] for clients, rate in rates.items()]
    print("\n".join(markdown_table(["connections", "measured, /s", "model, /s"], rows)), "\n")
    rows = [
        [
            f"{target:,}",
            str(capacity.replicas(target)),
            f"{1e3 * capacity.latency(target / capacity.replicas(target)):.2f}",
        ]
        for target in _TARGETS
    ]
    print("\n".join(markdown_table(["requests/s", "servers", "mean latency, ms"], rows)))


if __name__ == "__main__":
    main()
