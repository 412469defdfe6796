"""Measures the preparation of a data set: decoded images a second, a second start from the cache, and memory.

    python -m ganctl.benchmarks.preparation --images 60000 --size 32

A tar archive of JPEG files is made, and read twice, each time in a process of its own.
"""

import io
import json
import os
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

import click
import numpy as np
from PIL import Image

_DISTINCT = 10_000  # files; a larger data set repeats them
_CHILD = """
import json, resource, sys, time
from ganctl.training.config.schema import DataSettings
from ganctl.training.data.datasets import load_split
from ganctl.training.readers.tree import SPLITS

start = time.perf_counter()
load_split(DataSettings(source=sys.argv[1]), "train")
wall = time.perf_counter() - start
seconds = {}
for name, who in (("main", resource.RUSAGE_SELF), ("workers", resource.RUSAGE_CHILDREN)):
    usage = resource.getrusage(who)
    seconds[name] = usage.ru_utime + usage.ru_stime
images = sum(len(load_split(DataSettings(source=sys.argv[1]), split)) for split in SPLITS)
rollup = dict(line.split(":", 1) for line in open("/proc/self/smaps_rollup").read().splitlines()[1:])
print(json.dumps({"images": images, "wall": wall, "cpu": seconds, "anonymous_kb": int(rollup["Anonymous"].split()[0])}))
"""


def make_archive(path: Path, images: int, size: int) -> None:
    """Writes a tar archive with one class folder of JPEG files."""
    rng = np.random.default_rng(0)
    contents = []
    for _ in range(min(images, _DISTINCT)):
        buffer = io.BytesIO()
        small = Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8))
        small.resize((size, size), Image.Resampling.BILINEAR).save(buffer, "JPEG", quality=75)
        contents.append(buffer.getvalue())
    with tarfile.open(path, "w") as archive:
        for i in range(images):
            member = tarfile.TarInfo(f"pictures/{i:06d}.jpg")
            member.size = len(contents[i % len(contents)])
            archive.addfile(member, io.BytesIO(contents[i % len(contents)]))


def load(source: Path, cache: Path) -> dict[str, Any]:
    """Loads a data set in a process of its own; returns its figures."""
    environment = {**os.environ, "XDG_CACHE_HOME": str(cache)}
    command = [sys.executable, "-c", _CHILD, str(source)]
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    result: dict[str, Any] = json.loads(done.stdout)
    return result


@click.command()
@click.option("--images", default=60_000, type=click.IntRange(min=100), help="Number of JPEG files.")
@click.option("--size", default=32, type=click.IntRange(16, 128), help="Their side in pixels.")
def main(images: int, size: int) -> None:
    """Measures the preparation of a data set."""
    with tempfile.TemporaryDirectory() as temporary:
        archive, cache = Path(temporary, "pictures.tar"), Path(temporary, "cache")
        make_archive(archive, images, size)
        first, second = load(archive, cache), load(archive, cache)
    click.echo(f"first start: {first['wall']:.1f} s, {images / first['wall']:,.0f} images/s")
    click.echo(f"decoding: {images / first['cpu']['workers']:,.0f} images per second of a worker's CPU time")
    click.echo(f"second start: {second['wall']:.2f} s, {second['anonymous_kb'] / 1e6:.2f} GB besides the pixels' pages")


if __name__ == "__main__":
    main()
