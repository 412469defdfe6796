"""Runs our trainer without evaluations, samples and logs, for benchmarks and recipe searches."""

from pathlib import Path

from ganctl.benchmarks import subsets
from ganctl.benchmarks.quality.recorder import Recorder
from ganctl.training.callbacks.base import Callback, Run
from ganctl.training.config.schema import Config
from ganctl.training.loop.trainer import Trainer

QUIET = (*subsets.QUIET, "log.every=1000")  # hardly a log, either


class SnapshotCallback(Callback):
    """Takes the recorder's snapshots of the EMA generator; stops the run at the end of its budget or duration."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder

    def on_step(self, run: Run) -> None:
        seconds = run.images / run.timer.images_per_second  # of training steps only
        done = run.duration.images is not None and run.images >= run.duration.images
        last = done or self._recorder.is_over(seconds)
        if last or self._recorder.is_due(seconds):
            with run.timer.pause():  # synchronizes the device, so that the time is exact
                seconds = run.images / run.timer.images_per_second
                self._recorder.take(seconds, run.images, run.generator)
        if last:
            run.request_stop("budget", evaluate=False)


def train(config: Config, recorder: Recorder, run_dir: Path) -> Trainer:
    """Trains to the end of the recorder's budget or of the duration; the last snapshot is the final generator.

    Raises:
        ConfigError, DataError, TrainingError: as `Trainer` and its `fit`.
    """
    trainer = Trainer(config, run_dir=run_dir, callbacks=[SnapshotCallback(recorder)])
    trainer.fit()
    return trainer
