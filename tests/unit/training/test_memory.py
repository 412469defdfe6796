"""Large pages for what a training allocates."""

import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

_PROBE = """
import json
import os
from pathlib import Path
from tests.machine import large_pages_given
from ganctl.training.memory import use_large_pages
import torch
use_large_pages()
reason = use_large_pages()  # again, as with every run of a process
tensor = torch.ones(16_000_000)  # 64 MB, beyond what malloc would map by itself
found = {"reason": reason, "given": large_pages_given(64_000_000)}
for line in Path("/proc/self/smaps").read_text().splitlines():
    words = line.split()
    if not words[0].endswith(":"):
        first, last = (int(address, 16) for address in words[0].split("-"))
        here = words[-1] == "[heap]" and first <= tensor.data_ptr() < last
    elif here and words[0] in ("AnonHugePages:", "VmFlags:"):
        found[words[0]] = words[1:]
print(json.dumps(found))
"""


def test_tensors_lie_in_a_heap_of_large_pages() -> None:
    done = subprocess.run([sys.executable, "-c", _PROBE], capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    setting = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    offered = platform.libc_ver()[0] == "glibc" and setting.exists() and "[never]" not in setting.read_text("ascii")
    assert (found["reason"] is None) == offered
    if not offered:
        return
    assert "hg" in found["VmFlags:"]
    assert 1024 * int(found["AnonHugePages:"][0]) >= found["given"] / 2  # of what the kernel has to give just now


_WITH_A_MAPPED_FILE = """
import mmap, sys
from ganctl.training.memory import use_large_pages
with open(sys.argv[1], "rb") as file:
    mapped = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)  # as a library in a virtual environment of that name
print(use_large_pages())
"""


@pytest.mark.parametrize("name", ["Téléchargements".encode(), "日本 & co #1".encode(), b"latin-\xe9", b"line\nbreak"])
def test_the_names_of_mapped_files_do_not_matter(name: bytes, tmp_path: Path) -> None:
    path = bytes(tmp_path) + b"/" + name
    Path(os.fsdecode(path)).write_bytes(b"x")
    done = subprocess.run(
        [sys.executable, "-c", _WITH_A_MAPPED_FILE, path], capture_output=True, encoding="utf-8", check=False
    )
    assert done.returncode == 0, done.stderr
    assert "Error" not in done.stdout
