"""Throughput timer; durations given as times, which are measured once and then are numbers of images."""

import pytest
import torch

from ganctl.training.config.duration import Duration
from ganctl.training.device.timing import ResolvedDuration, ThroughputTimer
from tests.unit.training.fake_clock import FakeClock

CPU = torch.device("cpu")


def train(timer: ThroughputTimer, clock: FakeClock, *, steps: int, seconds_each: float) -> None:
    for _ in range(steps):
        clock.now += seconds_each
        timer.count()


def test_a_pause_counts_for_the_seconds_but_not_for_the_throughput(clock: FakeClock) -> None:
    timer = ThroughputTimer(batch_size=10, device=CPU)
    assert (timer.seconds, timer.images_per_second) == (0, 0)
    timer.start()
    train(timer, clock, steps=30, seconds_each=0.1)
    with timer.pause():
        clock.now += 7
    assert timer.seconds == pytest.approx(10)
    assert timer.images_per_second == pytest.approx(100)


def test_excluded_time_counts_for_neither_the_seconds_nor_the_throughput(clock: FakeClock) -> None:
    timer = ThroughputTimer(batch_size=10, device=CPU)
    with timer.exclude():  # before the start
        clock.now += 5
    timer.start()
    train(timer, clock, steps=30, seconds_each=0.1)
    with timer.pause():
        clock.now += 2
        with timer.exclude():
            clock.now += 90
    assert timer.seconds == pytest.approx(5)
    assert timer.images_per_second == pytest.approx(100)


def test_a_time_is_converted_to_images_once_by_the_throughput_after_the_warm_up(clock: FakeClock) -> None:
    timer, duration = (
        ThroughputTimer(batch_size=10, device=CPU),
        ResolvedDuration(Duration.parse("100s")),
    )
    timer.start()
    train(timer, clock, steps=20, seconds_each=5)  # the warm-up is slow
    duration.update(timer)
    assert duration.images is None
    train(timer, clock, steps=199, seconds_each=0.1)
    duration.update(timer)
    assert (duration.images, duration.progress(500)) == (None, 0.0)
    train(timer, clock, steps=2, seconds_each=0.1)
    duration.update(timer)
    assert duration.images == pytest.approx(100 * 100, rel=1e-3)
    images = duration.images
    train(timer, clock, steps=100, seconds_each=5)
    duration.update(timer)
    assert duration.images == images


def test_progress_goes_from_0_to_1_and_stays_there() -> None:
    duration = ResolvedDuration(Duration.parse("2 epochs"))
    assert duration.progress(500) == 0
    duration.resolve(1000)
    assert [duration.progress(images) for images in (0, 500, 2000, 9000)] == [0, 0.25, 1, 1]


def test_an_interval_is_crossed_at_the_step_that_reaches_a_multiple() -> None:
    every = ResolvedDuration(Duration.parse("100 images"))
    every.resolve(1000)
    crossed = [images for images in range(32, 500, 32) if every.crossed(images, 32)]
    assert crossed == [128, 224, 320, 416]
    assert every.crossed(100, 100)


def test_a_measured_duration_is_restored_unless_the_setting_has_changed() -> None:
    first = ResolvedDuration(Duration.parse("100s"))
    first.images = 12345
    same, other = (ResolvedDuration(Duration.parse(text)) for text in ("100s", "200s"))
    for duration in (same, other):
        duration.load_state_dict(first.state_dict())
    assert (same.images, other.images) == (12345, None)


def test_the_measurement_continues_over_several_short_starts(clock: FakeClock) -> None:
    state = None
    for _ in range(4):
        timer, duration = (
            ThroughputTimer(batch_size=10, device=CPU),
            ResolvedDuration(Duration.parse("100s")),
        )
        if state is not None:
            duration.load_state_dict(state)
        assert duration.images is None
        timer.start()
        train(timer, clock, steps=20, seconds_each=5)
        for _ in range(60):  # 6 seconds: less than a fifth of the time that the measurement takes
            train(timer, clock, steps=1, seconds_each=0.1)
            duration.update(timer)
        state = duration.state_dict()
    assert duration.images == pytest.approx(100 * 100, rel=1e-3)
