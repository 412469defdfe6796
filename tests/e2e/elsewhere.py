"""An unusual folder name and unusual environment variables, as on the machines of other users."""

import os
from pathlib import Path

PLACE = Path("Téléchargements") / "日本 & co #1"

_CLOSED_PORT = "http://127.0.0.1:1"  # no server listens on it
_VARIABLES = {
    "LC_ALL": "C",
    "XDG_CACHE_HOME": "",  # means the default below HOME
    "http_proxy": _CLOSED_PORT,
    "https_proxy": _CLOSED_PORT,
    "ALL_PROXY": "socks5://127.0.0.1:1",
    "NO_PROXY": "::1,[fe80::]/10",
    "SSL_CERT_FILE": "/nonexistent",
    "SSL_CERT_DIR": "/nonexistent",
    "JAVA_TOOL_OPTIONS": "-Xnonsense",
    # Kubernetes sets these for services that are called ganctl and ganctl-serve
    "GANCTL_PORT": "tcp://10.0.0.7:8080",
    "GANCTL_PORT_8080_TCP": "tcp://10.0.0.7:8080",
    "GANCTL_SERVICE_HOST": "10.0.0.7",
    "GANCTL_SERVE_SERVICE_PORT": "8080",
}


def environment(folder: Path) -> dict[str, str]:
    """Returns the variables of this process with the unusual ones; TMPDIR is below `folder`, and HOME is unusable."""
    temporary = folder / "tmp é"
    temporary.mkdir(parents=True, exist_ok=True)
    home = folder / "home"
    home.touch()  # a file: not even root can create files in it
    return os.environ | _VARIABLES | {"HOME": str(home), "TMPDIR": str(temporary)}
