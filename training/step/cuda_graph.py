"""Runs the whole training step as one CUDA graph: batch, random numbers, both phases, optimizers and EMA.

The kernels of a small network take a few microseconds each, and Python takes longer to launch them. A graph launches
all of them at once. It repeats the captured operations on the same memory. So a step's inputs are copied into fixed
buffers, per-step scalars are in `StepInputs` (`device/step_inputs.py`), and nothing else may depend on the host.

The first steps run eagerly: optimizers create their state, and libraries choose their kernels. The next step is
captured, which runs no kernel. From then on each step is one replay.

A graph holds the messages between ranks, too (`distributed/ranks.py`). NCCL requires that all ranks replay a message or
none does. So all ranks capture at the same step, and compare the outcomes: if one capture fails, all run eagerly.
"""

import logging
from collections import Counter
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ganctl.training.config.registry import DISCRIMINATORS, GENERATORS, LOSSES
from ganctl.training.config.schema import Config
from ganctl.training.data.loader import ImagesAndLabels
from ganctl.training.device.streams import StreamPool
from ganctl.training.distributed.ranks import Ranks
from ganctl.training.errors import ConfigError, RankLostError
from ganctl.training.step.step import Step

WARMUP_STEPS = 3  # eager steps before a capture, for each combination of due parts
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
    elif ranks.size > 1 and ranks.gpu_backend != "nccl":
        reason = f"ranks exchange gradients through the host, by {ranks.gpu_backend}; a graph needs PyTorch with NCCL"
    if reason is not None and setting is True:
        raise ConfigError([f"train.cuda_graph = true: {reason}. Set it to 'auto'."])
    if reason is not None or setting is False:
        return reason or "train.cuda_graph is false"
    model, loss = config.model, config.loss.name
    used = ((GENERATORS, model.generator), (DISCRIMINATORS, model.discriminator), (LOSSES, loss))
    custom = [registry.setting for registry, name in used if not registry.is_builtin(name)]
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
    # CUDA calls of other threads (a loader's pinning, NCCL's watchdog) must not break the capture
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        work()
    return graph.replay


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
        self.replays: dict[tuple[str, ...], Replay] = {}  # by the due parts of a step
        self._warmup_counts = Counter[tuple[str, ...]]()
        if eager_reason is None and step.ranks.communicates:
            step.ranks.before_leave(self.invalidate)

    def __call__(self, batch_ref: Sequence[Tensor], *, step: int, progress: float, lr_factor: float = 1.0) -> None:
        """Runs `Step` on the batch that `batch_ref` refers to; the other arguments are those of `Step`."""
        due = self._step.prepare(step=step, progress=progress, lr_factor=lr_factor)
        if self.eager_reason is not None:
            self._update(batch_ref, due)
            return
        if due not in self.replays and self._warmup_counts[due] < WARMUP_STEPS:
            self._warmup_counts[due] += 1
            # state that autograd keeps would bind a capture to the default stream, which cannot be captured
            warmup = StreamPool(self._step.device, 1)
            with warmup.stream(0):
                self._update(batch_ref, due)
            warmup.join()
            return
        if not self._inputs:
            self._inputs = tuple(tensor.clone() for tensor in batch_ref)
        for buffer, tensor in zip(self._inputs, batch_ref, strict=True):
            buffer.copy_(tensor)
        replay = self.replays.get(due) or self._try_capture(due)
        if replay is None:
            self._update(batch_ref, due)
        else:
            replay()

    def invalidate(self) -> None:
        """Drops all graphs, after the step's state moved to other memory; the next steps warm up and capture again."""
        self._inputs = ()
        self.replays.clear()
        self._warmup_counts.clear()

    def _update(self, batch_ref: Sequence[Tensor], due: tuple[str, ...]) -> None:
        self._step.update(*self._gather(*batch_ref), due)

    def _try_capture(self, due: tuple[str, ...]) -> Replay | None:
        """Captures a step; after a failure on any rank, restores the state and switches to eager steps."""
        rng_state, failure = self._step.rng.get_state(), ""
        try:
            self.replays[due] = self._capture(lambda: self._update(self._inputs, due), self._step.rng)
        # CUDA's errors are RuntimeErrors, those of messages RankLostErrors
        except (RuntimeError, RankLostError) as error:
            failure = f"the capture failed: {str(error.__cause__ or error).splitlines()[0]}"
        failures = self._step.ranks.all_gather_object(failure)
        if not any(failures):
            return self.replays[due]
        rank = next(rank for rank, other in enumerate(failures) if other)
        self.eager_reason = failure or f"on rank {rank}, {failures[rank]}"
        _log.warning("steps run eagerly: %s", self.eager_reason)
        self.invalidate()
        self._step.recover(rng_state)
        return None
