"""Draws one image from an unpacked archive, before anybody else does: `python -m serving.worker.canary FOLDER`."""

import json
import sys
from pathlib import Path

from ganctl.serving.hosts.torchserve.worker.model_host import ModelHost
from ganctl.serving.hosts.torchserve.worker.protocol import Incoming

ENTRY = "ganctl_entry.py"  # of every archive of ours


def main() -> None:
    """Ends with status 0 where a PNG comes back, and else with the reason."""
    (folder,) = sys.argv[1:]
    body = json.dumps({"seed": 0}).encode()
    (reply,), _ = ModelHost(Path(folder), ENTRY).answer([Incoming(b"0", {"accept": "image/png"}, {"body": body})])
    if reply.status != 200 or not reply.body.startswith(b"\x89PNG"):
        sys.exit(f"the first request was answered {reply.status}: {reply.body[:500]!r}")


if __name__ == "__main__":
    main()
