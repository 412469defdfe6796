"""Adds the callbacks that every run needs, from its settings, and checks a list of callbacks."""

from collections.abc import Sequence

from ganctl.training.callbacks.base import Callback
from ganctl.training.callbacks.checkpoints import Checkpoint
from ganctl.training.callbacks.evaluation import Evaluate
from ganctl.training.callbacks.lr_scheduler import LRScheduler
from ganctl.training.callbacks.samples import SampleGrid, Timelapse
from ganctl.training.config.schema import Config
from ganctl.training.distributed.ranks import SINGLE_RANK, Ranks
from ganctl.training.errors import ConfigError


def with_defaults(callbacks: Sequence[Callback], config: Config) -> tuple[list[Callback], Checkpoint]:
    """Adds LRScheduler, Evaluate and Checkpoint from the settings where the list lacks them.

    Evaluate comes first, since other callbacks read its scores. A Timelapse gets a SampleGrid, whose images it joins.

    Returns:
        The complete list, and its Checkpoint, which the trainer calls directly.
    """
    optimizer = config.optimizer
    complete = list(callbacks)
    timelapses = [i for i, callback in enumerate(complete) if isinstance(callback, Timelapse)]
    if timelapses and not any(isinstance(callback, SampleGrid) for callback in complete):
        complete.insert(timelapses[0], SampleGrid())
    if not any(isinstance(callback, Evaluate) for callback in complete):
        every, num_images = config.evaluation.every, config.evaluation.num_images
        complete.insert(0, Evaluate(every=every, num_images=num_images, conditional=config.model.conditional))
    if not any(isinstance(callback, LRScheduler) for callback in complete):
        schedule = LRScheduler(
            optimizer.schedule,
            decay_start=optimizer.decay_start,
            decay_end=optimizer.decay_end,
            min_lr_ratio=optimizer.min_lr_ratio,
            warmup=optimizer.warmup,
        )
        complete.insert(0, schedule)
    custom = [callback for callback in complete if isinstance(callback, Checkpoint)]
    checkpoint = custom[0] if custom else Checkpoint(**dict(config.checkpoint))
    return complete if custom else [*complete, checkpoint], checkpoint


def check_callbacks(callbacks: Sequence[Callback], ranks: Ranks = SINGLE_RANK) -> None:
    """Checks a list of callbacks before the run starts.

    Raises:
        ConfigError: two callbacks share a key, or one watches a score that no other produces.
        TrainingError: ranks have different callbacks.
    """
    errors = []
    keys = [callback.key for callback in callbacks]
    if duplicates := sorted({key for key in keys if keys.count(key) > 1}):
        errors.append(
            f"callbacks: found {', '.join(keys)}, expected different keys. Give one {duplicates[0]} another `key`."
        )
    produced = list(dict.fromkeys(name for callback in callbacks for name in callback.produces))
    for callback in callbacks:
        for name in callback.watches:
            if name not in produced:
                errors.append(
                    f"{callback.key}: no callback produces the score {name!r}, expected one of"
                    f" {', '.join(produced) or 'none'}."
                )
    if errors:
        raise ConfigError(errors)
    ranks.assert_equal_across_ranks("the list of callbacks", keys)
