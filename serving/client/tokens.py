"""The keys by which TorchServe knows its clients: they end after an hour, and are renewed at the management port."""

import json
from pathlib import Path

import httpx

from ganctl.serving.errors import RemoteError

_PATIENCE = 10.0  # seconds for a renewal


class Token:
    """The inference key: given, or read from the token file that `ganctl serve` names."""

    def __init__(self, key: str | None, file: Path | None, management_url: str | None) -> None:
        """Raises RemoteError where the file is absent or is none."""
        self._file, self._management_url = file, management_url
        self._key = key if file is None else self._read("inference")

    def header(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self._key}"} if self._key else {}

    def is_refused(self, reply: httpx.Response) -> bool:
        """Whether a reply refuses the key, and there is a file that may have a newer one."""
        return self._file is not None and reply.status_code in (400, 401) and "Token" in reply.text

    def renewal(self) -> httpx.Request | None:
        """Reads the file again; where it has no other key, the request that makes TorchServe write a new one there
        (`renewed` takes it then)."""
        before, self._key = self._key, self._read("inference")
        if self._key != before or self._management_url is None:
            return None
        headers = {"Authorization": f"Bearer {self._read('API')}"}
        url = f"{self._management_url.rstrip('/')}/token?type=inference"
        return httpx.Request("GET", url, headers=headers, extensions={"timeout": httpx.Timeout(_PATIENCE).as_dict()})

    def renewed(self) -> None:
        """After a renewal: the new key."""
        self._key = self._read("inference")

    def _read(self, name: str) -> str:
        assert self._file is not None, "there is a file to read"
        try:
            return str(json.loads(self._file.read_bytes())[name]["key"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RemoteError(
                f"{self._file}: is no token file ({error!r}). `ganctl serve --auth token` tells where its own is."
            ) from error
