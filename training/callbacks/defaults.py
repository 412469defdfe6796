"""The callbacks that a run cannot be without, as its settings describe them, and the checks of a list of callbacks."""

from collections.abc import Sequence

from ganctl.training.callbacks.base import Callback
from ganctl.training.callbacks.checkpoints import Checkpoint
from ganctl.training.callbacks.evaluation import Evaluate
from ganctl.training.callbacks.lr_scheduler import LRScheduler
from ganctl.training.callbacks.samples import SampleGrid, Timelapse
from ganctl.training.config.schema import Config
from ganctl.training.distributed.ranks import SOLO, Ranks
from ganctl.training.errors import ConfigError


def with_defaults(callbacks: Sequence[Callback], config: Config) -> tuple[list[Callback], Checkpoint]:
    """The callbacks, with a LRScheduler, an Evaluate and a Checkpoint as the settings say where they have none of
    their own. Evaluate comes first: others look at its scores. Checkpoint is given twice, for the loop to talk to. A
    Timelapse gets the SampleGrid whose pictures it joins."""
    optimizer = config.optimizer
    complete = list(callbacks)
    films = [place for place, callback in enumerate(complete) if isinstance(callback, Timelapse)]
    if films and not any(isinstance(callback, SampleGrid) for callback in complete):
        complete.insert(films[0], SampleGrid())
    if not any(isinstance(callback, Evaluate) for callback in complete):
        every, num_images = config.evaluation.every, config.evaluation.num_images
        complete.insert(0, Evaluate(every=every, num_images=num_images, conditional=config.model.conditional))
    if not any(isinstance(callback, LRScheduler) for callback in complete):
        schedule = LRScheduler(
            optimizer.schedule,
            decay_start=optimizer.decay_start,
            decay_end=optimizer.decay_end,
            end=optimizer.min_lr_ratio,
            warmup=optimizer.warmup,
        )
        complete.insert(0, schedule)
    own = [callback for callback in complete if isinstance(callback, Checkpoint)]
    checkpoint = own[0] if own else Checkpoint(**dict(config.checkpoint))
    return complete if own else [*complete, checkpoint], checkpoint


def check_callbacks(callbacks: Sequence[Callback], ranks: Ranks = SOLO) -> None:
    """Tells at once what would go wrong later.

    Raises:
        ConfigError: two callbacks share a key, or one watches a score that no other produces.
        TrainingError: ranks have not the same callbacks.
    """
    faults = []
    keys = [callback.key for callback in callbacks]
    if twice := sorted({key for key in keys if keys.count(key) > 1}):
        faults.append(
            f"callbacks: two of {', '.join(keys)} share a key ({', '.join(twice)}); give one of them another `key`."
        )
    produced = list(dict.fromkeys(name for callback in callbacks for name in callback.produces))
    for callback in callbacks:
        for name in callback.watches:
            if name not in produced:
                faults.append(
                    f"{callback.key}: monitor = {name!r}: no callback produces such a score; there are"
                    f" {', '.join(produced) or 'none'}."
                )
    if faults:
        raise ConfigError(faults)
    ranks.assert_equal_across_ranks("the list of callbacks", keys)
