"""Requests one digit from a server, checks the reply, and writes the image to a file.

    smoke_request.py URL TOKEN FILE

Standard library only, so that `make images` needs no environment.
"""

import sys
import urllib.request
from pathlib import Path


def main() -> None:
    url, token, file = sys.argv[1:]
    headers = {"Content-Type": "application/json", "Accept": "image/png", "Authorization": f"Bearer {token}"}
    request = urllib.request.Request(url, data=b'{"digits": 7, "seed": 3, "scale": 8}', headers=headers)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # the server runs on this machine
    with opener.open(request, timeout=30) as reply:
        body = reply.read()
    width, height = (int.from_bytes(body[start : start + 4], "big") for start in (16, 20))
    checks = {
        "the content type is image/png": reply.headers["Content-Type"] == "image/png",
        "the reply has the requested seed": reply.headers["X-Seed"] == "3",
        "the body is a complete PNG file": body.startswith(b"\x89PNG\r\n\x1a\n")
        and body.endswith(b"IEND\xaeB\x60\x82"),
        "the image is 224 × 224 pixels (28 × 28, enlarged 8 times)": (width, height) == (224, 224),
    }
    failed = [name for name, passed in checks.items() if not passed]
    if failed:
        sys.exit(f"{url}: failed checks: {', '.join(failed)}; headers: {dict(reply.headers)}")
    Path(file).write_bytes(body)
    print(f"{len(body)} bytes, {width} × {height}, model {reply.headers['X-Model-Version']}")


if __name__ == "__main__":
    main()
