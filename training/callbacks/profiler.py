"""The callback Profiler: traces training steps for TensorBoard's profiler page or Perfetto."""

from contextlib import ExitStack

from torch.profiler import profile, schedule, tensorboard_trace_handler

from ganctl.training.callbacks.base import Callback, Run
from ganctl.training.callbacks.tensorboard import utf8_alias

_WAIT, _WARM_UP = 10, 5  # steps that are not traced: the first ones differ, and the profiler itself warms up


class Profiler(Callback):
    """Traces `steps` steps, soon after the process starts, into `profile/` in the run folder."""

    def __init__(self, steps: int = 10) -> None:
        self._steps = steps
        self._cleanup = ExitStack()

    def on_start(self, run: Run) -> None:
        folder = self._cleanup.enter_context(utf8_alias(run.run_dir))
        self._profile = self._cleanup.enter_context(
            profile(
                schedule=schedule(wait=_WAIT, warmup=_WARM_UP, active=self._steps, repeat=1),
                on_trace_ready=tensorboard_trace_handler(str(folder / "profile"), use_gzip=True),
            )
        )

    def on_step(self, run: Run) -> None:
        self._profile.step()

    def close(self) -> None:
        self._cleanup.close()
