"""Handler of the native host's ceiling: constant bytes for every request, to measure the host alone.

It stands in an archive of ours in the place of `ganctl_entry.py`.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ganctl_handler.replies import Reply
from ganctl_handler.service import Service as HandlerService
from ganctl_handler.torchserve import handle

__all__ = ["Service", "handle"]


class Service(HandlerService):
    """Replies with the bytes of `digit.png` without reading the request."""

    @classmethod
    def load(cls, folder: Path, config: Mapping[str, Any], name: str) -> "Service":
        """Loads the archive, and the constant."""
        service: Service = super().load(folder, config, name)
        service.reply = Reply(200, "image/png", (folder / "digit.png").read_bytes())
        return service

    def parse(self, inputs: Mapping[str, Any], headers: Mapping[str, Any]) -> Any:
        """Returns the reply: nothing has to be drawn."""
        return self.reply
