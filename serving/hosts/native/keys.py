"""Keys that requests need, read from a file that may change while the server runs."""

import hashlib
import json
import secrets
from pathlib import Path

from ganctl.serving.errors import SettingError

_SCHEME = "bearer "


class Keys:
    """The keys of a file, each with a name.

    The file has a line `NAME KEY` for each key; lines that are empty or begin with `#` are ignored.
    """

    def __init__(self, path: Path) -> None:
        """Reads the file.

        Raises:
            SettingError: the file cannot be read, or has a line without a name or a key.
        """
        self._path = path
        self._stamp = file_stamp(path)
        self._names = _read(path)

    def accept(self, authorization: str) -> str | None:
        """Returns the name of the key in a header `Authorization: Bearer KEY`; None if it is no valid key."""
        if authorization[: len(_SCHEME)].lower() != _SCHEME:
            return None
        return self._names.get(_digest(authorization[len(_SCHEME) :].strip()))

    def reload(self) -> bool:
        """Reads the file again if it has changed; returns whether it has. A file with an error changes nothing.

        Raises:
            SettingError: as for the constructor.
        """
        stamp = file_stamp(self._path)
        if stamp == self._stamp:
            return False
        self._stamp = stamp
        self._names = _read(self._path)
        return True


def write_new_key(path: Path) -> str:
    """Writes a token file, as `Client(token_file=…)` reads it, for this user's eyes only; returns its random key."""
    key = secrets.token_urlsafe(24)
    path.touch(mode=0o600, exist_ok=False)
    path.write_text(json.dumps({kind: {"key": key} for kind in ("inference", "management")}), "ascii")
    return key


def first_key(path: Path) -> str:
    """Returns the first key of a file with lines `NAME KEY`. Raises SettingError as `Keys` does."""
    return next(iter(_read_keys(path)))


def _read(path: Path) -> dict[bytes, str]:
    """Returns the name of each key by the key's digest."""
    return {_digest(key): name for key, name in _read_keys(path).items()}


def _read_keys(path: Path) -> dict[str, str]:
    """Returns the name of each key."""
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SettingError(
            f"{path}: found no readable file of keys ({error}). Give one with lines `NAME KEY`."
        ) from error
    if text.startswith("{"):
        try:
            return {json.loads(text)["inference"]["key"]: "inference"}
        except (ValueError, KeyError, TypeError) as error:
            raise SettingError(f"{path}: found no key of `inference` in this JSON ({error!r}).") from error
    names: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        if len(words) != 2:
            raise SettingError(f"{path}, line {number}: found {len(words)} words, expected a name and a key.")
        names[words[1]] = words[0]
    if not names:
        raise SettingError(f"{path}: found no key, expected lines `NAME KEY`.")
    return names


def _digest(key: str) -> bytes:
    """A lookup by digest takes as long for a wrong key as for one that is nearly right."""
    return hashlib.sha256(key.encode()).digest()


def file_stamp(path: Path) -> tuple[int, int] | None:
    """Returns a value that changes with the file; None if there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino
