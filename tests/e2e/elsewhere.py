"""A folder and an environment as other people's machines have them: all that is odd at once."""

import os
from pathlib import Path

PLACE = Path("Téléchargements") / "日本 & co #1"

_NOBODY = "http://127.0.0.1:1"  # nobody listens there
_VARIABLES = {
    "LC_ALL": "C",
    "XDG_CACHE_HOME": "",  # the home's
    "http_proxy": _NOBODY,
    "https_proxy": _NOBODY,
    "ALL_PROXY": "socks5://127.0.0.1:1",
    "NO_PROXY": "::1,[fe80::]/10",
    "SSL_CERT_FILE": "/nonexistent",
    "SSL_CERT_DIR": "/nonexistent",
    "JAVA_TOOL_OPTIONS": "-Xnonsense",
    # as Kubernetes sets them for services of these names
    "GANCTL_PORT": "tcp://10.0.0.7:8080",
    "GANCTL_PORT_8080_TCP": "tcp://10.0.0.7:8080",
    "GANCTL_SERVICE_HOST": "10.0.0.7",
    "GANCTL_SERVE_SERVICE_PORT": "8080",
}


def environment(folder: Path) -> dict[str, str]:
    """The variables of this process and the odd ones; temporary files lie in `folder`, and the home cannot be used."""
    temporary = folder / "tmp é"
    temporary.mkdir(parents=True, exist_ok=True)
    home = folder / "home"
    home.touch()  # a file, which keeps root out, too
    return os.environ | _VARIABLES | {"HOME": str(home), "TMPDIR": str(temporary)}
