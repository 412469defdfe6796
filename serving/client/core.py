"""What asking a server comes to, whoever sends the requests: `client.py` does, waiting or awaiting."""

import base64
import io
import time
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypedDict

import httpx
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ganctl.serving.client.connections import parse_url, route_to
from ganctl.serving.client.retry import pause
from ganctl.serving.client.tokens import Token
from ganctl.serving.errors import RemoteError

_PATH = "/predictions/digits"

# What a client does next: send a request, or wait so many seconds. It is told the reply, or the error that came of it.
Turns = Generator[httpx.Request | float, httpx.Response | httpx.HTTPError | None, httpx.Response]


class Fields(TypedDict, total=False):
    """The fields of a request for images one by one, as the service has them; None is as good as absent."""

    digits: int | Sequence[int] | None
    labels: str | Sequence[str] | None
    text: str | None
    count: int | None
    seed: int | None
    truncation: float | None


class Sample(NamedTuple):
    """images: uint8 [N, H, W], or [N, H, W, 3] in colour; labels: int64 [N], -1 where the model knows none."""

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    seed: int

    def pictures(self) -> list[Image.Image]:
        """The images as Pillow's."""
        return [Image.fromarray(image) for image in self.images]


class RequestPlan:
    """What both clients have in common: from fields to requests, from replies to images."""

    def __init__(
        self,
        url: str,
        token: str | None = None,
        timeout: float = 30.0,
        *,
        token_file: Path | None = None,
        management_url: str | None = None,
    ) -> None:
        """Sends nothing yet.

        Args:
            url: `http://host:port`, with or without `/predictions/digits`.
            token: the inference key of the server's token file, where it asks for one.
            timeout: seconds for a request with all its repetitions. Where half of them bring no answer, the server has
                lost the request with a worker (TorchServe can, without a word), and is asked once more.
            token_file: instead of the token; it is read again where the key in it is no longer the one.
            management_url: where the file's keys are renewed once they are too old; None: nowhere.

        Raises:
            RemoteError: this is no address, or no token file, or a variable of the environment names a proxy or
                certificates that cannot be used.
        """
        parsed = parse_url(url)
        base = str(parsed).rstrip("/")
        self.url = base if parsed.path.strip("/") else base + _PATH
        self._route = route_to(parsed)
        self._token = Token(token, token_file, management_url)
        self._timeout = timeout
        self._answered = False  # whether there is a server at all

    def _ask(self, fields: Mapping[str, Any], media: str) -> Turns:
        """Asks until there is an answer, or no time.

        Raises:
            RemoteError: no server answers, or it refuses the request.
        """
        given = {name: _plain(value) for name, value in fields.items() if value is not None}
        attempt, renewed, ends = 0, False, time.monotonic() + self._timeout
        patience = 0.5  # the share of the time that is left which one attempt gets
        while True:
            left = max(1e-3, patience * (ends - time.monotonic()))
            headers = {"Accept": media} | self._token.header()
            request = httpx.Request(
                "POST", self.url, json=given, headers=headers, extensions={"timeout": httpx.Timeout(left).as_dict()}
            )
            found = yield request
            assert found is not None, "a request has an outcome"
            if isinstance(found, httpx.ReadTimeout):
                patience = 1.0
            if isinstance(found, httpx.Response):
                self._answered = True
                if found.status_code == 200:
                    return found
                if not renewed and self._token.is_refused(found):
                    renewed = True
                    if (renewal := self._token.renewal()) is not None:
                        yield renewal
                        self._token.renewed()
                    continue
            waited = pause(found, attempt, ends - time.monotonic(), known=self._answered)
            if waited is None:
                if isinstance(found, httpx.HTTPError):
                    raise self._no_answer(found)
                raise _refused(self.url, found, self._route.passed)
            yield waited
            attempt += 1

    def _sample(self, reply: httpx.Response) -> Sample:
        """Raises RemoteError where the reply is none of ours."""
        try:
            record = reply.json()
            images = np.stack([_pixels(image["png"]) for image in record["images"]])
            drawn = [-1 if image["label"] is None else image["label"] for image in record["images"]]
            return Sample(images, np.array(drawn, np.int64), int(record["seed"]))
        except (ValueError, KeyError, TypeError, OSError) as error:
            raise self._strange(reply, error) from error

    def _classes(self, reply: httpx.Response) -> int:
        """How many a description tells of; RemoteError where there are none, or it is no description of ours."""
        try:
            fields = reply.json()["components"]["schemas"]["Request"]["properties"]
            if "digits" not in fields:
                raise RemoteError(f"{self.url}: its model knows no labels", reply.status_code)
            return int(fields["digits"]["oneOf"][0]["maximum"]) + 1
        except (ValueError, KeyError, TypeError, IndexError) as error:
            raise self._strange(reply, error) from error

    def _strange(self, reply: httpx.Response, error: Exception) -> RemoteError:
        told = f"{self.url}: answered what no server of ours answers ({error!r}). Check the address."
        return RemoteError(told + self._route.passed, reply.status_code)

    def _no_answer(self, error: httpx.HTTPError) -> RemoteError:
        hint = " Is the server running there? `ganctl serve` starts one and tells its address."
        if "CERTIFICATE_VERIFY_FAILED" in str(error):
            hint = f" The certificates that are trusted are those of {self._route.trusted}; SSL_CERT_FILE names others."
        return RemoteError(f"{self.url}: no answer ({error or type(error).__name__}).{self._route.passed or hint}")


def _refused(url: str, reply: httpx.Response, passed: str) -> RemoteError:
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
    message = f"{url}: refused the request ({reply.status_code}): {told.rstrip('.')}.{passed}"
    return RemoteError(message, reply.status_code, problem)


def _plain(value: Any) -> Any:
    """NumPy's numbers and arrays as Python's, which JSON knows."""
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    return [_plain(member) for member in value] if isinstance(value, list | tuple) else value


def _pixels(data: str) -> NDArray[np.uint8]:
    with Image.open(io.BytesIO(base64.b64decode(data))) as image:
        return np.asarray(image, np.uint8)
