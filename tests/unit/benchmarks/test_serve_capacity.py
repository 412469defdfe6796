"""The model of a server's capacity reproduces a simulation of batches that take all waiting requests."""

import random

import pytest

from ganctl.benchmarks.serving.capacity import Capacity, fit

SERVER = Capacity(batch=200e-6, request=50e-6)


def simulated_latency(rate: float, requests: int = 40_000) -> float:
    """Returns the mean latency of Poisson arrivals, in seconds."""
    draw = random.Random(0)
    arrivals = []
    now = 0.0
    for _ in range(requests):
        now += draw.expovariate(rate)
        arrivals.append(now)
    total, free, first = 0.0, 0.0, 0
    while first < requests:
        start = max(free, arrivals[first])
        last = first
        while last < requests and arrivals[last] <= start:
            last += 1
        free = start + SERVER.batch + SERVER.request * (last - first)
        total += sum(free - arrivals[i] for i in range(first, last))
        first = last
    return total / requests


@pytest.mark.parametrize("load", [0.05, 0.3, 0.6, 0.9])
def test_the_latency_at_a_load_is_that_of_a_simulation(load: float) -> None:
    rate = load * SERVER.highest_rate
    assert SERVER.latency(rate) == pytest.approx(simulated_latency(rate), rel=0.25)


def test_the_constants_are_found_from_the_rates_of_few_and_of_many_clients() -> None:
    found = fit({clients: SERVER.closed_rate(clients) for clients in (1, 16, 128)})
    assert found == pytest.approx(SERVER)


def test_replicas_leave_room() -> None:
    assert SERVER.replicas(100) == 1
    assert SERVER.replicas(20_000) == 2, "one server would be at its highest rate"
