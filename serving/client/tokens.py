"""TorchServe's inference key: it expires after an hour and is renewed at the management port."""

import contextlib
import json
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import httpx

from ganctl.serving.errors import RemoteError

Send = Callable[[httpx.Request], Coroutine[Any, Any, httpx.Response]]

_RENEWAL_TIMEOUT = 10.0  # seconds


class Token:
    """The inference key, given directly or read from the token file of `ganctl serve`."""

    def __init__(self, key: str | None, file: Path | None, management_url: str | None) -> None:
        """Read the key.

        Args:
            key: the key; None if the server needs none. Ignored if `file` is given.
            file: the token file.
            management_url: where an expired key is renewed; None to never renew it.

        Raises:
            RemoteError: the file is absent or invalid.
        """
        self._file, self._management_url = file, management_url
        self._key = key if file is None else self._read("inference")

    def header(self) -> dict[str, str]:
        """The request header with the key; {} without a key."""
        return {"Authorization": f"Bearer {self._key}"} if self._key else {}

    def is_rejected(self, reply: httpx.Response) -> bool:
        """Return whether a reply rejects the key and the token file may hold a newer one."""
        return self._file is not None and reply.status_code in (400, 401) and "Token" in reply.text

    async def renew(self, send: Send) -> None:
        """Read the file again. If its key is unchanged, let TorchServe write a new one, and read that."""
        previous, self._key = self._key, self._read("inference")
        if self._key != previous or self._management_url is None:
            return
        headers = {"Authorization": f"Bearer {self._read('API')}"}
        url = f"{self._management_url.rstrip('/')}/token?type=inference"
        extensions = {"timeout": httpx.Timeout(_RENEWAL_TIMEOUT).as_dict()}
        with contextlib.suppress(httpx.HTTPError):  # then the old key is rejected again
            await send(httpx.Request("GET", url, headers=headers, extensions=extensions))
        self._key = self._read("inference")

    def _read(self, name: str) -> str:
        assert self._file is not None, "only a token with a file is read"
        try:
            return str(json.loads(self._file.read_bytes())[name]["key"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RemoteError(
                f"{self._file}: found no token file ({error!r}). Give the one that `ganctl serve --auth token` prints."
            ) from error
