"""Smoke test of an unpacked archive: generates one image in a process of its own.

python -m ganctl.serving.hosts.worker.smoke_test FOLDER
"""

import sys
from pathlib import Path

from ganctl.serving.hosts.worker.messages import PredictRequest
from ganctl.serving.hosts.worker.model_host import ModelHost


def main() -> None:
    """Exits with status 0 if the reply is a PNG, else with the reason on stderr."""
    (folder,) = sys.argv[1:]
    request = PredictRequest(b"0", {"accept": "image/png"}, {"body": b'{"seed": 0}'})
    (reply,), _ = ModelHost(Path(folder)).answer([request])
    if reply.status != 200 or not reply.body.startswith(b"\x89PNG"):
        sys.exit(f"the first request: found status {reply.status} ({reply.body[:500]!r}), expected 200 and a PNG")


if __name__ == "__main__":
    main()
