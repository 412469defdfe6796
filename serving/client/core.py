"""I/O-free request and retry logic shared by both clients."""

import base64
import io
import json
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypedDict

import httpx
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ganctl.serving.client.connections import parse_url, route_to
from ganctl.serving.client.retry import backoff
from ganctl.serving.client.tokens import Send, Token
from ganctl.serving.errors import RemoteError

_PATH = "/predictions/digits"


class Fields(TypedDict, total=False):
    """The fields of a request for single images, named as in the service; None means absent."""

    digits: int | Sequence[int] | None
    labels: str | Sequence[str] | None
    text: str | None
    count: int | None
    seed: int | None
    truncation: float | None


class Sample(NamedTuple):
    """Images from a server.

    images: uint8 [N, H, W], [N, H, W, 3] for color, or [N, H, W, 4] for color and transparency (alpha last).
    labels: int64 [N]; -1 for an unconditional model.
    seed: the seed that was used.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    seed: int

    def pictures(self) -> list[Image.Image]:
        """The images as Pillow images."""
        return [Image.fromarray(image) for image in self.images]


class Description(NamedTuple):
    """A server's description of its model.

    version: the model's version.
    class_names: the names of the classes; empty for an unconditional model.
    max_count: the largest number of images for one request.
    """

    version: str
    class_names: tuple[str, ...]
    max_count: int


class BaseClient:
    """Builds requests from fields and decodes replies, without I/O."""

    def __init__(
        self,
        url: str,
        token: str | None = None,
        timeout: float = 30.0,
        *,
        token_file: Path | None = None,
        management_url: str | None = None,
        transport: Any = None,
    ) -> None:
        """Prepare the connection; nothing is sent yet.

        Args:
            url: `http://host:port`, with or without `/predictions/digits`.
            token: the inference key of the server's token file, if the server needs one.
            timeout: seconds for a request with all its retries. An attempt without a reply is given up after half of
                the time left and retried once, since TorchServe can lose a request together with a worker.
            token_file: replaces `token`; it is read again when the server rejects the key.
            management_url: where an expired key of `token_file` is renewed; None to never renew it.
            transport: replaces the connection in tests, as `transport=` of httpx.

        Raises:
            RemoteError: the URL or the token file is invalid, or an environment variable names an unusable proxy or
                unusable certificates.
        """
        parsed = parse_url(url)
        base = str(parsed).rstrip("/")
        self.url = base if parsed.path.strip("/") else base + _PATH
        self._route = route_to(parsed)
        self._options = {"transport": transport} if transport else self._route.options  # of httpx's client
        self._token = Token(token, token_file, management_url)
        self._timeout = timeout
        self._server_seen = False  # True once the server has replied

    async def _request_with_retries(
        self, fields: Mapping[str, Any], media: str, send: Send, sleep: Callable[[float], Awaitable[None]]
    ) -> httpx.Response:
        """Repeat a request until it succeeds or the time is over.

        Args:
            fields: the fields of the request; NumPy values are allowed, and None means absent.
            media: the media type of the reply.
            send: sends a request and returns the reply.
            sleep: waits for a number of seconds.

        Raises:
            RemoteError: no server replies, or it refuses the request.
        """
        body = json.dumps({name: _json_value(name, value) for name, value in fields.items() if value is not None})
        attempt, renewed, deadline = 0, False, time.monotonic() + self._timeout
        share = 0.5  # of the time left, for one attempt
        while True:
            timeout = max(1e-3, share * (deadline - time.monotonic()))
            headers = {"Accept": media, "Content-Type": "application/json"} | self._token.header()
            extensions = {"timeout": httpx.Timeout(timeout).as_dict()}
            outcome: httpx.Response | httpx.HTTPError
            request = httpx.Request("POST", self.url, content=body, headers=headers, extensions=extensions)
            try:
                outcome = await send(request)
            except httpx.HTTPError as error:
                outcome = error
            if isinstance(outcome, httpx.ReadTimeout):
                share = 1.0
            if isinstance(outcome, httpx.Response):
                self._server_seen = True
                if outcome.status_code == 200:
                    return outcome
                if not renewed and self._token.is_rejected(outcome):
                    renewed = True
                    await self._token.renew(send)
                    continue
            delay = backoff(outcome, attempt, deadline - time.monotonic(), server_seen=self._server_seen)
            if delay is None:
                raise self._no_reply(outcome) if isinstance(outcome, httpx.HTTPError) else self._refusal(outcome)
            await sleep(delay)
            attempt += 1

    def _decode_sample(self, reply: httpx.Response) -> Sample:
        """Decode a JSON reply. Raises RemoteError if it has another structure."""
        try:
            record = reply.json()
            images = np.stack([_decode_png(image["png"]) for image in record["images"]])
            labels = [-1 if image["label"] is None else image["label"] for image in record["images"]]
            return Sample(images, np.array(labels, np.int64), int(record["seed"]))
        except (ValueError, KeyError, TypeError, OSError) as error:
            raise self._unexpected_reply(reply, error) from error

    def _decode_description(self, reply: httpx.Response) -> Description:
        """Read an OpenAPI document. Raises RemoteError for any other reply."""
        try:
            document = reply.json()
            fields = document["components"]["schemas"]["Request"]["properties"]
            names = fields["labels"]["oneOf"][0]["enum"] if "labels" in fields else []
            return Description(str(document["info"]["version"]), tuple(names), int(fields["count"]["maximum"]))
        except (ValueError, KeyError, TypeError, IndexError) as error:
            raise self._unexpected_reply(reply, error) from error

    def _count_classes(self, description: Description) -> int:
        """Return the number of classes. Raises RemoteError if there are no classes."""
        if not description.class_names:
            raise RemoteError(f"{self.url}: its model has no labels", 200)
        return len(description.class_names)

    def _unexpected_reply(self, reply: httpx.Response, error: Exception) -> RemoteError:
        message = f"{self.url}: found a reply that is not from a ganctl server ({error!r}). Check the address."
        return RemoteError(message + self._route.proxy_hint, reply.status_code)

    def _no_reply(self, error: httpx.HTTPError) -> RemoteError:
        hint = " Check that the server is running; `ganctl serve` starts one and prints its address."
        if "CERTIFICATE_VERIFY_FAILED" in str(error):
            hint = f" The trusted certificates are those of {self._route.ca_source}. Set SSL_CERT_FILE to use others."
        return RemoteError(f"{self.url}: no reply ({error or type(error).__name__}).{self._route.proxy_hint or hint}")

    def _refusal(self, reply: httpx.Response) -> RemoteError:
        """The error for a reply with an error status."""
        try:
            problem = reply.json()
        except ValueError:
            problem = None
        problem = problem if isinstance(problem, dict) else {"detail": reply.text[:200]}
        errors = problem.get("errors")
        if isinstance(errors, list):  # from the handler: the errors of all fields
            reason = "; ".join(f"{error['field']}: {error['detail']}" for error in errors)
        else:  # from TorchServe itself
            reason = str(problem.get("message") or problem.get("detail") or "no reason given").strip()
            if "token" in reason.lower():
                reason += " (the key `inference` of the server's token file)"
        message = f"{self.url}: refused the request ({reply.status_code}): {reason.rstrip('.')}."
        return RemoteError(message + self._route.proxy_hint, reply.status_code, problem)


def _json_value(name: str, value: Any) -> Any:
    """Converts the NumPy values in a field. Raises TypeError or ValueError if JSON cannot hold the value."""
    try:
        return json.loads(json.dumps(value, default=lambda array: array.tolist(), allow_nan=False))
    except (AttributeError, TypeError) as error:
        raise TypeError(f"{name}: found {value!r}, expected a value that JSON can hold") from error


def _decode_png(data: str) -> NDArray[np.uint8]:
    """An image, uint8 [H, W], [H, W, 3] or [H, W, 4], from a PNG file in Base64."""
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))), np.uint8)
