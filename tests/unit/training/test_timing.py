"""The timer of a run, and lengths given as times: measured once, then a number of images like any other."""

import pytest
import torch

from ganctl.training.config.schema import Duration
from ganctl.training.device.timing import ResolvedDuration, ThroughputTimer

CPU = torch.device("cpu")


class Time:
    """A timer on the wall that a test moves."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr("ganctl.training.device.timing.time.monotonic", lambda: self.now)


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> Time:
    return Time(monkeypatch)


def train(timer: ThroughputTimer, time: Time, *, steps: int, seconds_each: float) -> None:
    for _ in range(steps):
        time.now += seconds_each
        timer.count()


def test_seconds_count_everything_and_the_rate_training_alone(time: Time) -> None:
    timer = ThroughputTimer(batch_size=10, device=CPU)
    assert (timer.seconds, timer.images_per_second) == (0, 0)
    timer.start()
    train(timer, time, steps=30, seconds_each=0.1)
    with timer.pause():
        time.now += 7
    assert timer.seconds == pytest.approx(10)
    assert timer.images_per_second == pytest.approx(100)


def test_a_time_becomes_images_by_the_rate_after_the_warm_up_once(time: Time) -> None:
    timer, duration = (
        ThroughputTimer(batch_size=10, device=CPU),
        ResolvedDuration(Duration.parse("100s")),
    )
    timer.start()
    train(timer, time, steps=20, seconds_each=5)  # slow at first, as everything is
    duration.update(timer)
    assert duration.images is None
    train(timer, time, steps=199, seconds_each=0.1)
    duration.update(timer)
    assert (duration.images, duration.progress(500)) == (None, 0.0)
    train(timer, time, steps=2, seconds_each=0.1)
    duration.update(timer)
    assert duration.images == pytest.approx(100 * 100, rel=1e-3)
    kept = duration.images
    train(timer, time, steps=100, seconds_each=5)
    duration.update(timer)
    assert duration.images == kept


def test_progress_goes_from_0_to_1_and_stays_there() -> None:
    duration = ResolvedDuration(Duration.parse("2 epochs"))
    assert duration.progress(500) == 0
    duration.resolve(1000)
    assert [duration.progress(images) for images in (0, 500, 2000, 9000)] == [0, 0.25, 1, 1]


def test_multiples_are_crossed_by_the_step_that_reaches_them() -> None:
    every = ResolvedDuration(Duration.parse("100 images"))
    every.resolve(1000)
    crossed = [images for images in range(32, 500, 32) if every.crossed(images, 32)]
    assert crossed == [128, 224, 320, 416]
    assert every.crossed(100, 100)


def test_what_was_measured_is_kept_unless_another_length_is_asked_for() -> None:
    first = ResolvedDuration(Duration.parse("100s"))
    first.images = 12345
    same, other = (ResolvedDuration(Duration.parse(text)) for text in ("100s", "200s"))
    for span in (same, other):
        span.load_state_dict(first.state_dict())
    assert (same.images, other.images) == (12345, None)


def test_a_run_that_is_stopped_again_and_again_measures_on(time: Time) -> None:
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
        train(timer, time, steps=20, seconds_each=5)
        for _ in range(60):  # 6 seconds: less than a fifth
            train(timer, time, steps=1, seconds_each=0.1)
            duration.update(timer)
        state = duration.state_dict()
    assert duration.images == pytest.approx(100 * 100, rel=1e-3)
