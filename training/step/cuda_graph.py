"""Runs the whole training step as one CUDA graph: gather, random numbers, both phases, optimizers and EMA.

The kernels of a small network take a few microseconds each, and Python takes longer to launch them. A graph launches
all of them at once. It repeats the captured operations on the same memory. So a step's inputs are copied into fixed
buffers, per-step scalars are in `StepInputs` (`device/step_inputs.py`), and nothing else may depend on the host.

The first steps run eagerly: optimizers create their state, and libraries choose their kernels. The next step is
captured, which runs no kernel. From then on each step is one replay.
"""

import logging
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ganctl.training.config.registry import DISCRIMINATORS, GENERATORS, LOSSES
from ganctl.training.config.schema import Config
from ganctl.training.data.loader import ImagesAndLabels
from ganctl.training.distributed.ranks import Ranks
from ganctl.training.errors import ConfigError
from ganctl.training.step.step import Step

WARMUP_STEPS = 3  # eager steps before a capture, for each combination of due phases
Replay = Callable[[], None]
_log = logging.getLogger(__name__)


def find_eager_reason(config: Config, device: torch.device, ranks: Ranks) -> str | None:
    """The reason why steps run eagerly; None if they are to be captured.

    Raises:
        ConfigError: `train.cuda_graph` is true, but a step cannot be captured.
    """
    setting, reason = config.train.cuda_graph, None
    if device.type != "cuda":
        reason = "CUDA graphs need a CUDA device"
    elif ranks.size > 1:
        reason = "ranks exchange gradients between the phases of a step"
    if reason is not None and setting is True:
        raise ConfigError([f"train.cuda_graph = true: {reason}. Set it to 'auto'."])
    if reason is not None or setting is False:
        return reason or "train.cuda_graph is false"
    custom = [
        registry.setting
        for registry, name in (
            (GENERATORS, config.model.generator),
            (DISCRIMINATORS, config.model.discriminator),
            (LOSSES, config.loss.name),
        )
        if not registry.is_builtin(name)
    ]
    if custom and setting == "auto":
        return f"{custom[0]} is custom and may read tensors on the host; if it does not, set train.cuda_graph=true"
    return None


def capture_on_cuda(work: Callable[[], None], rng: torch.Generator) -> Replay:
    """Captures the device operations of `work`, without running them.

    Args:
        work: the operations; those on `rng` draw new numbers at each replay.
        rng: a generator on the device.

    Raises:
        RuntimeError: `work` waits for the device or does something that a graph cannot repeat.
    """
    graph = torch.cuda.CUDAGraph()
    graph.register_generator_state(rng)
    # CUDA calls of other threads (a loader's pinning, for example) must not break the capture
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        work()
    replay: Replay = graph.replay
    return replay


class StepRunner:
    """Runs training steps from batch references, eagerly or by graph replays."""

    def __init__(
        self,
        step: Step,
        gather: Callable[..., ImagesAndLabels],
        *,
        eager_reason: str | None = None,
        capture: Callable[[Callable[[], None], torch.Generator], Replay] = capture_on_cuda,
    ) -> None:
        """Wraps a step.

        Args:
            step: must be capturable if `eager_reason` is None.
            gather: turns the tensors of a batch reference into images and labels.
            eager_reason: why steps are not captured; None to capture them.
            capture: captures a callable and returns its replay.
        """
        self._step, self._gather, self.eager_reason, self._capture = step, gather, eager_reason, capture
        self._inputs: tuple[Tensor, ...] = ()
        self._replays: dict[tuple[str, ...], Replay] = {}  # by the due phases
        self._warmup_counts: dict[tuple[str, ...], int] = {}

    def __call__(self, batch_ref: Sequence[Tensor], *, step: int, progress: float, lr_factor: float = 1.0) -> None:
        """Runs `Step` on the batch that `batch_ref` refers to; the other arguments are those of `Step`."""
        due = self._step.prepare(step=step, progress=progress, lr_factor=lr_factor)
        if self.eager_reason is not None:
            self._step.update(*self._gather(*batch_ref), due)
            return
        if due not in self._replays and self._warmup_counts.get(due, 0) < WARMUP_STEPS:
            self._warmup_counts[due] = self._warmup_counts.get(due, 0) + 1
            self._run_on_warmup_stream(batch_ref, due)
            return
        if not self._inputs:
            self._inputs = tuple(tensor.clone() for tensor in batch_ref)
        for buffer, tensor in zip(self._inputs, batch_ref, strict=True):
            buffer.copy_(tensor)
        replay = self._replays.get(due) or self._try_capture(due)
        if replay is None:
            self._step.update(*self._gather(*batch_ref), due)
        else:
            replay()

    @property
    def captured(self) -> int:
        """The number of captured graphs."""
        return len(self._replays)

    def invalidate(self) -> None:
        """Drops all graphs, after the step's state moved to other memory; the next steps warm up and capture again."""
        self._inputs = ()
        self._replays.clear()
        self._warmup_counts.clear()

    def _run_on_warmup_stream(self, batch_ref: Sequence[Tensor], due: tuple[str, ...]) -> None:
        """Runs a step eagerly on a side stream: state that autograd keeps would bind a capture to the default stream,
        which cannot be captured."""
        if self._step.device.type != "cuda":
            self._step.update(*self._gather(*batch_ref), due)
            return
        warmup_stream = torch.cuda.Stream()
        warmup_stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(warmup_stream):
            self._step.update(*self._gather(*batch_ref), due)
        torch.cuda.current_stream().wait_stream(warmup_stream)

    def _try_capture(self, due: tuple[str, ...]) -> Replay | None:
        """Captures a step; after a failure, restores the state and switches to eager steps."""
        rng_state = self._step.rng.get_state()
        try:
            replay = self._capture(lambda: self._step.update(*self._gather(*self._inputs), due), self._step.rng)
        except RuntimeError as error:  # CUDA's errors have this type
            self.eager_reason = f"the capture failed: {str(error).splitlines()[0]}"
            _log.warning("steps run eagerly: %s", self.eager_reason)
            self.invalidate()
            self._step.recover(rng_state)
            return None
        self._replays[due] = replay
        return replay
