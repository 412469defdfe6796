"""Adds the callbacks that every run needs, from its settings, and checks a list of callbacks."""

from collections.abc import Sequence

from ganctl.training.callbacks.base import Callback
from ganctl.training.callbacks.checkpoints import Checkpoint
from ganctl.training.callbacks.evaluation import Evaluate
from ganctl.training.callbacks.lr_scheduler import LRScheduler
from ganctl.training.config.schema import Config
from ganctl.training.distributed.ranks import Ranks
from ganctl.training.errors import ConfigError


def with_defaults(callbacks: Sequence[Callback], config: Config) -> tuple[list[Callback], Checkpoint]:
    """Adds LRScheduler, Evaluate and Checkpoint from the settings where the list lacks them.

    Evaluate comes first, since other callbacks read its scores.

    Returns:
        The complete list.
        Its Checkpoint, which the trainer calls directly.
    """
    complete = list(callbacks)
    if not any(isinstance(callback, Evaluate) for callback in complete):
        complete.insert(0, Evaluate(config.evaluation, conditional=config.model.conditional))
    if not any(isinstance(callback, LRScheduler) for callback in complete):
        complete.insert(0, LRScheduler(config.optimizer))
    for callback in complete:
        if isinstance(callback, Checkpoint):
            return complete, callback
    checkpoint = Checkpoint(config.checkpoint)
    return [*complete, checkpoint], checkpoint


def check_callbacks(callbacks: Sequence[Callback], ranks: Ranks) -> None:
    """Checks a list of callbacks before the run starts.

    Raises:
        ConfigError: two callbacks have the same key, or one requires a score that none provides.
        TrainingError: ranks have different callbacks.
    """
    errors = []
    keys = [callback.key for callback in callbacks]
    if duplicates := sorted({key for key in keys if keys.count(key) > 1}):
        found = f"callbacks: found {', '.join(keys)}, expected different keys"
        errors.append(f"{found}. Give one {duplicates[0]} another `key`.")
    provided = [name for callback in callbacks for name in callback.provided_scores]
    errors += [
        f"{callback.key}: found the score {name!r}, which no callback provides, expected one of {', '.join(provided)}."
        " Set checkpoint.monitor, checkpoint.filename or early_stopping.monitor to one of them."
        for callback in callbacks
        for name in callback.required_scores
        if name not in provided
    ]
    if errors:
        raise ConfigError(errors)
    ranks.assert_equal_across_ranks("the list of callbacks", keys)
