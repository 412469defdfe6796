"""Archives whose workers wait at a gate until the test opens it: while they load the model, or before they reply.

TorchServe's workers call `handle`, those of the native host `Service`.

The duration of a load or a request then does not depend on the speed of the machine.
"""

import os
import zipfile
from pathlib import Path

from tests.unit.serving.archives import rewrite

HELD = ("X-Hold", "yes")  # the header of requests that wait at the gate `drawing`

_ENTRY = """\
import os
import time
from pathlib import Path

from ganctl_handler.service import Service as HandlerService
from ganctl_handler.torchserve import handle as answer

FOLDER = Path({folder!r})


class Service(HandlerService):
    held = set()

    @classmethod
    def load(cls, folder, config, name):
        wait("loading")
        return super().load(folder, config, name)

    def parse(self, inputs, headers):
        parsed = super().parse(inputs, headers)
        if "x-hold" in map(str.lower, headers):
            self.held.add(parsed.seed)
        return parsed

    def draw(self, batch):
        wait("answering")
        if any(getattr(each, "seed", None) in self.held for each in batch):
            wait("drawing")
        return super().draw(batch)


def handle(data, context):
    wait("loading" if data is None else "answering")
    if data and any("x-hold" in map(str.lower, context.get_all_request_header(i)) for i in range(len(data))):
        wait("drawing")
    return answer(data, context)


def wait(stage):
    mark = FOLDER / f"{{stage}}-{{os.getpid()}}"
    while (FOLDER / stage).exists() and Path("/proc/{test}").exists():  # ends if the test was killed
        mark.touch()
        time.sleep(0.01)
    mark.unlink(missing_ok=True)
"""


class Gate:
    """A folder with files for closed gates, written by the test, and for waiting workers. All gates are open at first.

    The stages are `loading` (of a model), `answering` (any batch) and `drawing` (only requests with the header HELD).
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir()

    def archive(self, mar: Path) -> Path:
        """Write a copy beside `mar` with this gate and a response timeout that is longer than any test."""
        with zipfile.ZipFile(mar) as members:
            config = members.read("model-config.yaml").decode()
        changed = config.replace("responseTimeout: 30 ", "responseTimeout: 3600 ")
        assert changed != config
        entry = _ENTRY.format(folder=str(self._folder), test=os.getpid())
        return rewrite(mar, {"ganctl_entry.py": entry.encode(), "model-config.yaml": changed.encode()}, sealed=True)

    def close(self, stage: str) -> None:
        """Make workers wait at this stage until `open`."""
        (self._folder / stage).touch()

    def open(self, stage: str) -> None:
        (self._folder / stage).unlink()

    def waiting(self, stage: str) -> set[int]:
        """The process IDs of the workers that wait at this stage."""
        return {int(path.name.partition("-")[2]) for path in self._folder.glob(f"{stage}-*")}
