"""The callback Profiler: traces training steps for TensorBoard's profiler page or Perfetto."""

from contextlib import ExitStack

from torch.profiler import ProfilerActivity, profile, schedule, tensorboard_trace_handler

from ganctl.training.callbacks.base import Callback, Run
from ganctl.training.callbacks.tensorboard import utf8_alias

_WAIT, _WARM_UP = 10, 5  # unusual first steps, and warm-up steps of the profiler


class Profiler(Callback):
    """Traces `steps` steps, soon after the process starts, into `profile/` in the run folder."""

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
