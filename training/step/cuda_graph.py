"""The whole step as one CUDA graph: gather, random numbers, both phases, penalties, optimizers and average.

A small network's kernels take a few microseconds each, Python takes longer to launch them. A graph is launched once
and runs them all. It repeats the very operations that it was captured with, on the same memory: a step's inputs are
copied to where it reads them, its numbers from the host are on `step_inputs.py`, nothing else may depend on the host.

The first steps run eagerly (optimizers make their state, libraries choose their kernels); the next is captured, which
runs nothing, and from there on each step is one replay.
"""

import logging
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ganctl.training.config.registry import DISCRIMINATORS, GENERATORS, LOSSES
from ganctl.training.config.schema import Config
from ganctl.training.data.loader import Pair
from ganctl.training.distributed.ranks import Ranks
from ganctl.training.errors import ConfigError
from ganctl.training.step.step import Step

EAGER_STEPS = 3  # of each kind, before its capture
Replay = Callable[[], None]
_log = logging.getLogger(__name__)


def why_eager(config: Config, device: torch.device, ranks: Ranks) -> str | None:
    """Why a step is not captured; None where it is.

    Raises:
        ConfigError: it is asked for where it cannot be.
    """
    asked, reason = config.train.cuda_graph, None
    if device.type != "cuda":
        reason = "graphs are for CUDA devices"
    elif ranks.size > 1:
        reason = "several ranks meet between a step's phases"
    if reason is not None and asked is True:
        raise ConfigError([f"train.cuda_graph = true: {reason}; use 'auto'."])
    if reason is not None or asked is False:
        return reason or "train.cuda_graph is false"
    own = [
        registry.setting
        for registry, name in (
            (GENERATORS, config.model.generator),
            (DISCRIMINATORS, config.model.discriminator),
            (LOSSES, config.loss.name),
        )
        if not registry.is_builtin(name)
    ]
    if own and asked == "auto":
        return f"{own[0]} is one's own, and may look at numbers on the host; if it does not, set train.cuda_graph=true"
    return None


def capture_on_cuda(work: Callable[[], None], rng: torch.Generator) -> Replay:
    """Records what `work` asks of the device, random numbers of `rng` included, without doing it.

    Raises:
        RuntimeError: something in it waits for the device, or cannot be repeated.
    """
    graph = torch.cuda.CUDAGraph()
    graph.register_generator_state(rng)
    # what other threads do (a loader's that pins memory) is no part of it, and must not end it
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        work()
    replay: Replay = graph.replay
    return replay


class StepRunner:
    """A step as the loop calls it: what names a batch goes in, both networks are updated. Eagerly, or by replays."""

    def __init__(
        self,
        step: Step,
        gather: Callable[..., Pair],
        *,
        eager: str | None = None,
        capture: Callable[[Callable[[], None], torch.Generator], Replay] = capture_on_cuda,
    ) -> None:
        """`gather` makes images and labels of what names a batch; `eager` says why nothing is to be captured (else the
        step must be capturable); `capture` records work and gives what repeats it."""
        self._step, self._gather, self.eager, self._capture = step, gather, eager, capture
        self._inputs: tuple[Tensor, ...] = ()
        self._replays: dict[tuple[str, ...], Replay] = {}  # by the phases that are due
        self._seen: dict[tuple[str, ...], int] = {}

    def __call__(self, named: Sequence[Tensor], *, step: int, progress: float, rate: float = 1.0) -> None:
        """As `Step`, with what names a batch in the place of images and labels."""
        due = self._step.prepare(step=step, progress=progress, rate=rate)
        if self.eager is not None:
            self._step.update(*self._gather(*named), due)
            return
        if due not in self._replays and self._seen.get(due, 0) < EAGER_STEPS:
            self._seen[due] = self._seen.get(due, 0) + 1
            self._on_warmup_stream(named, due)
            return
        if not self._inputs:
            self._inputs = tuple(tensor.clone() for tensor in named)
        for place, tensor in zip(self._inputs, named, strict=True):
            place.copy_(tensor)
        replay = self._replays.get(due) or self._try_to_capture(due)
        if replay is None:
            self._step.update(*self._gather(*named), due)
        else:
            replay()

    def invalidate(self) -> None:
        """Captures anew: the step's state has moved to other memory."""
        self._inputs = ()
        self._replays.clear()
        self._seen.clear()

    def _on_warmup_stream(self, named: Sequence[Tensor], due: tuple[str, ...]) -> None:
        """Eagerly, but on another stream than the default one: what autograd keeps of a step must not bind its capture
        to a stream that cannot be captured."""
        if self._step.device.type != "cuda":
            self._step.update(*self._gather(*named), due)
            return
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            self._step.update(*self._gather(*named), due)
        torch.cuda.current_stream().wait_stream(stream)

    def _try_to_capture(self, due: tuple[str, ...]) -> Replay | None:
        rng = self._step.rng.get_state()
        try:
            replay = self._capture(lambda: self._step.update(*self._gather(*self._inputs), due), self._step.rng)
        except RuntimeError as error:  # as CUDA says it
            self.eager = f"it could not be captured: {str(error).splitlines()[0]}"
            _log.warning("the step runs eagerly: %s", self.eager)
            self.invalidate()
            self._step.recover(rng)
            return None
        self._replays[due] = replay
        return replay
