"""Smoke test of an unpacked archive: generates one image in a process of its own.

python -m ganctl.serving.hosts.torchserve.worker.canary FOLDER
"""

import json
import sys
from pathlib import Path

from ganctl.serving.hosts.torchserve.worker.model_host import ModelHost
from ganctl.serving.hosts.torchserve.worker.protocol import Incoming

ENTRY = "ganctl_entry.py"  # the same in every archive of ganctl


def main() -> None:
    """Exits with status 0 if the reply is a PNG, else with the reason on stderr."""
    (folder,) = sys.argv[1:]
    body = json.dumps({"seed": 0}).encode()
    (reply,), _ = ModelHost(Path(folder), ENTRY).answer([Incoming(b"0", {"accept": "image/png"}, {"body": body})])
    if reply.status != 200 or not reply.body.startswith(b"\x89PNG"):
        sys.exit(f"the first request: found status {reply.status} ({reply.body[:500]!r}), expected 200 and a PNG")


if __name__ == "__main__":
    main()
