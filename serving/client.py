"""Asks a server for images. For one image: `Client("http://127.0.0.1:8080").sample(digits=7).images[0]`."""

import base64
import io
import re
from collections.abc import Sequence
from types import TracebackType
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import httpx
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .errors import RemoteError

_PATH = "/predictions/digits"
_MOST = 256  # members of a list, as the service has it unless it was told otherwise


class Sample(NamedTuple):
    """images: uint8 [N, H, W], or [N, H, W, 3] in colour; labels: int64 [N], -1 where the model knows none."""

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    seed: int


class Client:
    """A connection to a server, reused from request to request; `with` closes it.

    url: `http://host:port`, with or without `/predictions/digits`; token: the inference key of the server's token file,
    where it asks for one. Every method raises RemoteError where no server answers or it refuses the request.
    """

    def __init__(self, url: str, token: str | None = None, timeout: float = 30.0) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.netloc:
            raise RemoteError(f"{url}: is no server's address; expected one such as http://127.0.0.1:8080")
        base = url.rstrip("/")
        self.url = base if parts.path.strip("/") else base + _PATH
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._http = httpx.Client(headers=headers, timeout=timeout)

    def __enter__(self) -> "Client":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    def sample(
        self,
        *,
        digits: int | Sequence[int] | None = None,
        labels: str | Sequence[str] | None = None,
        text: str | None = None,
        count: int | None = None,
        seed: int | None = None,
        truncation: float | None = None,
    ) -> Sample:
        """Draws images one by one; the fields are those of the service. `text` gives one image for each character."""
        fields: dict[str, Any] = {"digits": digits, "labels": labels, "text": text}
        fields |= {"count": count, "seed": seed, "truncation": truncation}
        reply = self._ask(fields, "application/json")
        try:
            record = reply.json()
            images = np.stack([_pixels(image["png"]) for image in record["images"]])
            drawn = [-1 if image["label"] is None else image["label"] for image in record["images"]]
            return Sample(images, np.array(drawn, np.int64), int(record["seed"]))
        except (ValueError, KeyError, TypeError, OSError) as error:
            raise RemoteError(
                f"{self.url}: answered what no server of ours answers ({error!r}). Check the address.",
                reply.status_code,
            ) from error

    def count_classes(self) -> int:
        """How many classes the model knows; RemoteError where it knows none, or 256 and more.

        The service has no word for it, but it names every faulty member of a list: the first number that is no class is
        as many as there are. The seed is faulty, too, so that nothing is drawn.
        """
        try:
            reply = self._ask({"digits": list(range(_MOST)), "seed": -1}, "application/json")
        except RemoteError as error:
            errors = error.problem.get("errors")
            if error.status != 400 or not isinstance(errors, list):
                raise
            faults = {str(fault["field"]): str(fault["detail"]) for fault in errors}
            places = [int(found[1]) for name in faults if (found := re.fullmatch(r"digits\[(\d+)\]", name))]
            if places:
                return min(places)
            told = f"digits: {faults['digits']}" if "digits" in faults else f"it has {_MOST} classes or more"
            raise RemoteError(f"{self.url}: the classes cannot be counted; {told}", 400, error.problem) from error
        raise RemoteError(f"{self.url}: answered what no server of ours answers. Check the address.", reply.status_code)

    def picture(self, **fields: Any) -> bytes:
        """One picture of all images, as a PNG file; `fields` as in the service: digits, text, count, scale, layout …"""
        return self._ask(fields, "image/png").content

    def _ask(self, fields: dict[str, Any], media: str) -> httpx.Response:
        given = {name: _plain(value) for name, value in fields.items() if value is not None}
        try:
            reply = self._http.post(self.url, json=given, headers={"Accept": media})
        except httpx.HTTPError as error:
            raise RemoteError(
                f"{self.url}: no answer ({error or type(error).__name__}). Is the server running there? "
                "`ganctl serve` starts one and tells its address."
            ) from error
        if reply.status_code != 200:
            raise _refused(self.url, reply)
        return reply


def _refused(url: str, reply: httpx.Response) -> RemoteError:
    try:
        problem = reply.json()
    except ValueError:
        problem = None
    problem = problem if isinstance(problem, dict) else {"detail": reply.text[:200]}
    errors = problem.get("errors")
    if isinstance(errors, list):  # ours: every faulty field
        told = "; ".join(f"{fault['field']}: {fault['detail']}" for fault in errors)
    else:  # TorchServe's own
        told = str(problem.get("message") or problem.get("detail") or "no reason given").strip()
        if "token" in told.lower():
            told += " (the key `inference` of the server's token file)"
    return RemoteError(f"{url}: refused the request ({reply.status_code}): {told}", reply.status_code, problem)


def _plain(value: Any) -> Any:
    """NumPy's numbers and arrays as Python's, which JSON knows."""
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    return [_plain(member) for member in value] if isinstance(value, list | tuple) else value


def _pixels(data: str) -> NDArray[np.uint8]:
    with Image.open(io.BytesIO(base64.b64decode(data))) as image:
        return np.asarray(image, np.uint8)
