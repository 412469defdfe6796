"""Shows on stderr how many images are decoded: a progress bar on a terminal, else a line every ten seconds."""

import time
from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

T = TypeVar("T")
_LINE_INTERVAL = 10.0  # seconds between plain lines, as in training


def show_progress(batches: Iterable[Sequence[T]], *, total: int, console: Console | None = None) -> Iterator[T]:
    """Yields the items of all batches, `total` in all. The bar disappears at the end."""
    console = console or Console(stderr=True)
    columns = (TextColumn("decoding"), BarColumn(), MofNCompleteColumn(), TextColumn("images"), TimeRemainingColumn())
    bar = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
    done, next_line = 0, time.monotonic() + _LINE_INTERVAL
    with bar:
        task = bar.add_task("", total=total)
        for batch in batches:
            yield from batch
            done += len(batch)
            bar.update(task, completed=done)
            if bar.disable and time.monotonic() >= next_line:
                next_line = time.monotonic() + _LINE_INTERVAL
                console.print(f"decoded {done:,} of {total:,} images", markup=False, highlight=False, soft_wrap=True)
