"""Profiler: where the time of a step goes, as a trace for TensorBoard's profiler page or Perfetto."""

from contextlib import ExitStack

from torch.profiler import ProfilerActivity, profile, schedule, tensorboard_trace_handler

from ganctl.training.callbacks.base import Callback, Run
from ganctl.training.callbacks.tensorboard import utf8_alias

_WAIT, _WARM_UP = 10, 5  # steps that are not like the others, and steps in which the profiler itself warms up


class Profiler(Callback):
    """Records `steps` steps, soon after this process's first, into `profile/` in the run's folder."""

    def __init__(self, steps: int = 10) -> None:
        self._steps = steps
        self._profile: profile | None = None
        self._alias = ExitStack()

    def on_start(self, run: Run) -> None:
        activities = [ProfilerActivity.CPU]
        if run.device.type == "cuda":
            activities.append(ProfilerActivity.CUDA)
        folder = self._alias.enter_context(utf8_alias(run.run_dir))
        self._profile = profile(
            activities=activities,
            schedule=schedule(wait=_WAIT, warmup=_WARM_UP, active=self._steps, repeat=1),
            on_trace_ready=tensorboard_trace_handler(str(folder / "profile"), use_gzip=True),
        )
        self._profile.start()

    def on_step(self, run: Run) -> None:
        if self._profile is not None:
            self._profile.step()

    def close(self) -> None:
        if self._profile is not None:
            self._profile.stop()
            self._profile = None
        self._alias.close()
