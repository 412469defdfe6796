"""Asks a server for one digit, as a client would, and checks the reply: smoke_request.py URL TOKEN FILE.

Standard library only, so that `make images` needs no environment. Writes the picture to FILE.
"""

import sys
import urllib.request
from pathlib import Path


def main() -> None:
    url, token, file = sys.argv[1:]
    headers = {"Content-Type": "application/json", "Accept": "image/png", "Authorization": f"Bearer {token}"}
    request = urllib.request.Request(url, data=b'{"digits": 7, "seed": 3, "scale": 8}', headers=headers)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # the server is this machine's own
    with opener.open(request, timeout=30) as reply:
        body = reply.read()
    width, height = (int.from_bytes(body[start : start + 4], "big") for start in (16, 20))
    checks = {
        "the content type is image/png": reply.headers["Content-Type"] == "image/png",
        "the seed asked for is the seed used": reply.headers["X-Seed"] == "3",
        "the body is a whole PNG file": body.startswith(b"\x89PNG\r\n\x1a\n") and body.endswith(b"IEND\xaeB\x60\x82"),
        "one digit of 28 × 28 is enlarged 8 times": (width, height) == (224, 224),
    }
    broken = [promise for promise, kept in checks.items() if not kept]
    if broken:
        sys.exit(f"{url}: not so: {', '.join(broken)}; the headers were {dict(reply.headers)}")
    Path(file).write_bytes(body)
    print(f"{len(body)} bytes, {width} × {height}, model {reply.headers['X-Model-Version']}")


if __name__ == "__main__":
    main()
