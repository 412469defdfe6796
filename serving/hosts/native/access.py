"""Decides which requests are answered: by their key, the rate of the key, and the origin of a web page."""

from collections.abc import Mapping, Sequence
from http import HTTPStatus

from ganctl.serving.hosts.native.http_reply import HttpReply, refusal
from ganctl.serving.hosts.native.keys import Keys
from ganctl.serving.hosts.native.rate_limit import RateLimit

METHODS = ("GET", "HEAD", "POST")
ALLOW = {"Allow": ", ".join((*METHODS, "OPTIONS"))}
_REQUEST_HEADERS = "accept, authorization, content-type, if-none-match, traceparent, x-request-id"
_REPLY_HEADERS = "etag, retry-after, x-model-version, x-request-id, x-seed"
_PREFLIGHT_SECONDS = 600


class Access:
    """The rules of a server.

    Args:
        keys: the keys of which a request needs one; None if it needs none.
        rates: the limit for each key, or for all requests together where they need no key; None for no limit.
        origins: those whose pages may read replies (`https://example.org`), or `*` for all.
    """

    def __init__(self, keys: Keys | None = None, rates: RateLimit | None = None, origins: Sequence[str] = ()) -> None:
        self._keys, self._rates, self._origins = keys, rates, frozenset(origins)

    def refuse(self, headers: Mapping[str, str]) -> HttpReply | None:
        """Returns the reply to a request without a valid key, or beyond the rate of its key; else None."""
        name: str | None = ""
        if self._keys is not None:
            name = self._keys.accept(headers.get("authorization", ""))
            if name is None:
                detail = "Token: found no valid key, expected the header `Authorization: Bearer KEY`."
                return refusal(HTTPStatus.UNAUTHORIZED, detail, {"WWW-Authenticate": "Bearer"})
        if self._rates is not None and (seconds := self._rates.seconds_to_wait(name or "")):
            detail = "This key has sent too many requests." if name else "Too many requests are sent."
            return refusal(HTTPStatus.TOO_MANY_REQUESTS, detail, {"Retry-After": str(seconds)})
        return None

    def cors_headers(self, headers: Mapping[str, str]) -> dict[str, str]:
        """Returns the headers that let the page of an allowed origin read a reply; {} for all others."""
        origin = headers.get("origin")
        if origin is None or not self._origins & {origin, "*"}:
            return {}
        return {"Access-Control-Allow-Origin": origin, "Access-Control-Expose-Headers": _REPLY_HEADERS}

    def preflight(self, headers: Mapping[str, str]) -> HttpReply:
        """Returns the reply to OPTIONS, which a browser sends before some requests of other origins."""
        allowed = {
            "Access-Control-Allow-Methods": ", ".join(METHODS),
            "Access-Control-Allow-Headers": _REQUEST_HEADERS,
            "Access-Control-Max-Age": str(_PREFLIGHT_SECONDS),
        }
        return HttpReply(HTTPStatus.NO_CONTENT, ALLOW | (allowed if self.cors_headers(headers) else {}), b"")
