"""Fetches ONNX Runtime Web with npm, at the version and digest in package-lock.json, and caches the files in use."""

import hashlib
import json
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

from ganctl.exports.errors import ExportError
from ganctl.files import read_file
from ganctl.training.config.cache_dir import cache_path, read_cached, write_cached

_PACKAGE = "onnxruntime-web"
_HERE = Path(__file__).parent
_LOCK_FILES = ("package.json", "package-lock.json")
VERSION: str = json.loads((_HERE / _LOCK_FILES[0]).read_text("utf-8"))["dependencies"][_PACKAGE]

# The files for inference on the CPU, and their SHA-256 at VERSION: the script, and the program for WebAssembly.
FILES = {
    "ort.wasm.bundle.min.mjs": "11e64bd8ffe11bd1a2a2f0d6275fdfbbba7262f0b76b99b53d228a8a22ef3d90",
    "ort-wasm-simd-threaded.wasm": "3398c10d07d229bd91b364548e130e0e51a8e5704b88c7c083ebbeb78842dee2",
}


def fetch_runtime(announce: Callable[[str], None] = lambda text: None) -> dict[str, bytes]:
    """Returns the content of FILES, from the user's cache or else from npm, which then needs a network.

    Args:
        announce: receives a message before npm is run.

    Raises:
        ExportError: npm is missing or failed, or a file is not the pinned one.
    """
    paths = {name: cache_path(_PACKAGE, VERSION, name) for name in FILES}
    cached = {name: read_cached(path, _read, announce) for name, path in paths.items()}
    files = {name: content for name, content in cached.items() if content is not None}
    if files.keys() != FILES.keys():
        files = _fetch(announce)
        for name, content in files.items():
            write_cached(paths[name], content)  # a failure costs the next export the time of npm, no more
    return files


def _fetch(announce: Callable[[str], None]) -> dict[str, bytes]:
    npm = shutil.which("npm")
    if npm is None:
        raise ExportError(
            f"--format browser: found no npm on the PATH, expected it to fetch {_PACKAGE} {VERSION}."
            " Install Node.js with npm; on Debian and Ubuntu: apt-get install npm"
        )
    announce(f"fetching {_PACKAGE} {VERSION} with npm")
    with tempfile.TemporaryDirectory() as folder:
        for name in _LOCK_FILES:
            shutil.copyfile(_HERE / name, Path(folder, name))
        command = [npm, "ci", "--ignore-scripts", "--prefer-offline", "--no-audit", "--no-fund", "--loglevel=error"]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, errors="replace", check=False)
        if done.returncode:
            reason = " ".join(done.stderr.replace("npm error", " ").split())[:600] or f"exit code {done.returncode}"
            raise ExportError(
                f"--format browser: npm could not fetch {_PACKAGE} {VERSION}, it reports: {reason}."
                " Check the network and the registry in npm's settings, then export again"
            )
        try:
            return {name: _read(Path(folder, "node_modules", _PACKAGE, "dist", name)) for name in FILES}
        except ValueError as error:
            raise ExportError(f"--format browser: npm fetched another file than the pinned one: {error}") from error


def _read(path: Path) -> bytes:
    """Reads one of FILES; raises ValueError if it differs from its digest."""
    content = read_file(path)
    digest = hashlib.sha256(content).hexdigest()
    if digest != FILES[path.name]:
        raise ValueError(f"{path.name}: found SHA-256 {digest}, expected {FILES[path.name]}")
    return content
