"""The folder of links that TensorBoard reads: any paths of runs under short names."""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from ganctl.training.errors import CheckpointError
from ganctl.training.readers.tree import printable
from ganctl.training.report.folders import is_run, unique_names

_EVENTS = "events.out.tfevents.*"


@contextmanager
def linked_runs(paths: Sequence[Path]) -> Iterator[tuple[Path, dict[str, Path]]]:
    """Yields a folder for TensorBoard's --logdir, and the path of each name in it; deletes the folder at the end.

    TensorBoard splits a list of paths at commas and colons, and shows whole paths as names. Links have neither problem.

    Args:
        paths: run folders, or folders of runs. Of a single folder of runs, later runs appear as well.

    Raises:
        CheckpointError: a path is neither.
    """
    for path in paths:
        if not (is_run(path) or _holds_runs(path)):
            found = "a folder without runs" if path.is_dir() else "a file" if path.exists() else "nothing"
            raise CheckpointError(
                f"{path}: found {found}, expected a run or a folder that holds runs. Name the folder of a run."
            )
    folders = list(dict.fromkeys(path.resolve() for path in paths))
    with tempfile.TemporaryDirectory(prefix="ganctl-") as temporary:
        root = Path(temporary) / "runs"
        if len(folders) == 1 and not is_run(folders[0]):
            root.symlink_to(folders[0], target_is_directory=True)
            yield root, {folders[0].name: folders[0]}
            return
        root.mkdir()
        links: dict[str, Path] = {}
        for folder, name in zip(folders, unique_names(folders), strict=True):
            flat = printable(name).replace("/", "-")
            while flat in links:
                flat += "'"
            (root / flat).symlink_to(folder, target_is_directory=True)
            links[flat] = folder
        yield root, links


def has_events(path: Path) -> bool:
    """Returns whether a run, or a run in a folder of runs, has TensorBoard events."""
    return any(next(path.glob(f"{below}{_EVENTS}"), None) for below in ("", "*/"))


def _holds_runs(path: Path) -> bool:
    return path.is_dir() and (has_events(path) or any(is_run(child) for child in path.iterdir()))
