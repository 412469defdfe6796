"""Archives whose workers wait at a gate, for as long as a test wants: while they load the model, or before they answer.

So what a server has in hand lasts neither longer nor shorter than the test needs, whatever machine it runs on.
"""

import os
import zipfile
from pathlib import Path

from tests.unit.serving.archives import rewrite

HELD = ("X-Hold", "yes")  # the header of requests that wait at the gate

_ENTRY = """\
import os
import time
from pathlib import Path

from ganctl_handler.torchserve import handle as answer

FOLDER = Path({folder!r})


def handle(data, context):
    wait("loading" if data is None else "answering")
    if data and any("x-hold" in map(str.lower, context.get_all_request_header(i)) for i in range(len(data))):
        wait("drawing")
    return answer(data, context)


def wait(what):
    here = FOLDER / f"{{what}}-{{os.getpid()}}"
    while (FOLDER / what).exists() and Path("/proc/{test}").exists():  # not for ever, where the test was killed
        here.touch()
        time.sleep(0.01)
    here.unlink(missing_ok=True)
"""


class Gate:
    """A folder through which the test and the workers of its archives know of each other. It begins open."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir()

    def archive(self, mar: Path) -> Path:
        """A copy beside `mar` with the gate in it; TorchServe waits for it as long as a test may take."""
        with zipfile.ZipFile(mar) as members:
            config = members.read("model-config.yaml").decode()
        patient = config.replace("responseTimeout: 30 ", "responseTimeout: 3600 ")
        assert patient != config
        entry = _ENTRY.format(folder=str(self._folder), test=os.getpid())
        return rewrite(mar, {"ganctl_entry.py": entry.encode(), "model-config.yaml": patient.encode()}, sealed=True)

    def close(self, what: str) -> None:
        """Has workers wait that are `loading` a model, `answering` any batch, or `drawing` for a request with HELD."""
        (self._folder / what).touch()

    def open(self, what: str) -> None:
        (self._folder / what).unlink()

    def waiting(self, what: str) -> set[int]:
        """The process ids of the workers that wait."""
        return {int(path.name.partition("-")[2]) for path in self._folder.glob(f"{what}-*")}
