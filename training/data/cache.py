"""Data sets of files: prepares the images once, and maps the result from the user's cache into memory.

A cache entry is two files: `KEY.images`, the pixels [N, C, S, S] and then the labels as int64 [N]; and `KEY.json` with
its digest and everything else. KEY follows from the path, the settings, and size and modification time of each file. As
the pixels are mapped, a data set may be larger than the memory, and several ranks share one copy.
"""

import hashlib
import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ganctl.processes import available_cores, is_later_rank
from ganctl.training.config.cache_dir import cache_path, read_cached, write_cached
from ganctl.training.config.schema import DataSettings
from ganctl.training.data.base import ImageSet
from ganctl.training.data.license import find_license
from ganctl.training.data.prepare import Prepared, prepare
from ganctl.training.readers.open_source import open_source, open_tree
from ganctl.training.readers.tree import SPLITS, Split, Tree, printable

_VERSION = 5  # of preparation and cache files; a new number invalidates all entries
_log = logging.getLogger(__name__)
_memory: "dict[tuple[DataSettings, str], CachedSet]" = {}  # the last data set, by settings and stamp
_stamps: dict[str, str] | None = None  # path → stamp, in `list_once`


@dataclass(frozen=True)
class CachedSet:
    """All splits of a data set of files."""

    images: NDArray[np.uint8]  # [N, C, S, S], ordered by split
    labels: NDArray[np.int64]  # [N]
    record: Mapping[str, Any]  # class_names, split_sizes, format, notes, license

    def split(self, split: Split) -> ImageSet:
        """Returns one split, without a copy."""
        number = SPLITS.index(split)
        sizes = self.record["split_sizes"]
        start = sum(sizes[:number])
        part = slice(start, start + sizes[number])
        images, labels = torch.from_numpy(self.images[part]), torch.from_numpy(self.labels[part])
        return ImageSet(images, labels, tuple(self.record["class_names"]))


def load_source(settings: DataSettings) -> CachedSet:
    """Reads the data set at the path `data.source`, from the cache if it is valid.

    Raises:
        DataError: the format is unknown, files cannot be read, or there are too few images.
    """
    # settings that do not change the images must not make a second copy of them
    same = {"license": None, "attribution": None, "balance": 0.0, "on_device": "auto"}
    settings, path, tree = settings.model_copy(update=same), Path(settings.source), None
    stamp = (_stamps or {}).get(settings.source)
    if stamp is None:
        tree = None if path.is_file() else open_tree(path)
        stamp = source_stamp(path, tree)
        if _stamps is not None:
            _stamps[settings.source] = stamp
    key = settings, stamp
    if key not in _memory:
        loaded = _load(settings, stamp, tree)
        _memory.clear()
        _memory[key] = loaded
    return _memory[key]


@contextmanager
def list_once() -> Iterator[None]:
    """A context in which each data set is listed once; its files are taken to be unchanged.

    Listing 60,000 files takes about a second, and a training loads its data set nine times.
    """
    global _stamps
    _stamps = {}
    try:
        yield
    finally:
        _stamps = None


def source_stamp(path: Path, tree: Tree | None = None) -> str:
    """Returns a digest that changes with the path and its content: see `Tree.stamp`; of a file, its size and time."""
    if not path.is_file():
        return (tree or open_tree(path)).stamp()
    status = path.stat()
    return hashlib.sha256(f"{path.resolve()}\0{status.st_size}\0{status.st_mtime_ns}".encode()).hexdigest()[:32]


def clear_memory_cache() -> None:
    """Forgets the data set in memory: the next `load_source` reads the files or the user's cache again."""
    _memory.clear()


def worker_count(settings: DataSettings, *, share: float = 1.0) -> int:
    """Returns `data.num_workers`; a share of the cores, one at least, if it is unset."""
    return max(1, int(available_cores() * share)) if settings.num_workers is None else settings.num_workers


def _load(settings: DataSettings, stamp: str, tree: Tree | None) -> CachedSet:
    path = Path(settings.source)
    options = [_VERSION, stamp, settings.size, settings.channels, settings.fit, settings.skip_corrupt]
    key = hashlib.sha256(json.dumps(options).encode()).hexdigest()[:32]
    file = cache_path("datasets", f"{key}.images")
    if (cached := read_cached(file, _read)) is None:
        tree = tree or open_tree(path)
        source = open_source(tree)
        destination = f" into the cache {file}" if file else ""
        _log.warning("reading %d images from %s%s", len(source), printable(path), destination)
        prepared = prepare(source, settings, workers=worker_count(settings), scratch=file and file.parent)
        record = {
            "shape": list(prepared.shape),
            "split_sizes": list(prepared.split_sizes),
            "class_names": list(prepared.class_names),
            "format": prepared.format,
            "notes": list(prepared.notes),
            "license": find_license(tree),
        }
        if (reason := _write(file, prepared, record)) is None:
            assert file is not None, "it was written"
            cached = _map(file, _read_record(file))
        else:
            _log.warning("%s; the images cannot be cached, and the next run reads them again", reason)
            images = np.concatenate([*prepared.chunks()])
            cached = CachedSet(images, prepared.labels, record)
    if not is_later_rank():
        for note in cached.record["notes"]:
            _log.warning("%s", note)
    return cached


def _write(file: Path | None, prepared: Prepared, record: Mapping[str, Any]) -> str | None:
    """Writes the pixels and labels, then the JSON file; returns the reason if one cannot be written."""
    digest = hashlib.sha256()

    def parts() -> Iterator[memoryview]:
        arrays: Iterator[NDArray[Any]] = chain(prepared.chunks(), [prepared.labels])
        for array in arrays:
            digest.update(array.data)
            yield array.data

    if (reason := write_cached(file, parts())) is not None:
        return reason
    complete = {**record, "sha256": digest.hexdigest()}
    return write_cached(file and file.with_suffix(".json"), json.dumps(complete).encode())


def _read(file: Path) -> CachedSet:
    """Maps the pixels into memory; raises ValueError if their digest differs from that of the JSON file."""
    record = _read_record(file)
    with file.open("rb") as content:
        digest = hashlib.file_digest(content, "sha256").hexdigest()
    if digest != record["sha256"]:
        raise ValueError(f"found the SHA-256 {digest[:12]}…, expected {record['sha256'][:12]}…")
    return _map(file, record)


def _read_record(file: Path) -> dict[str, Any]:
    record: dict[str, Any] = json.loads(file.with_suffix(".json").read_text("utf-8"))
    return record


def _map(file: Path, record: dict[str, Any]) -> CachedSet:
    shape = tuple(record["shape"])
    # copy on write: nothing writes, but torch wants writable memory
    images = np.memmap(file, np.uint8, "c", shape=shape)
    labels = np.fromfile(file, np.int64, offset=images.nbytes)
    return CachedSet(images, labels, record)
