"""Content negotiation by the `Accept` header (RFC 9110, section 12.5.1)."""

import functools
import re
from collections.abc import Sequence

_MEDIA_RANGE = re.compile(r"\s*([^\s;,/]+)/([^\s;,/]+)\s*(;.*)?", re.DOTALL)
_WEIGHT = re.compile(r";\s*q\s*=\s*([01](?:\.\d{0,3})?)\s*(?:;|$)", re.IGNORECASE)


@functools.lru_cache(maxsize=256)  # clients send the same header with every request
def choose(header: str | None, offered: tuple[str, ...]) -> str | None:
    """The best media type in `offered`, whose first is the default; None if the header allows none of them.

    The highest weight wins, then the most specific media range (`application/json, */*` means JSON), then the order of
    `offered`. Members of the header that are no media ranges are ignored.
    """
    if header is None or not header.strip():
        return offered[0]
    ranges = [parsed for member in header.split(",") if (parsed := _parse_range(member))]
    best: tuple[float, int, int] | None = None
    for index, media in enumerate(offered):
        weight, specificity = _weight(media, ranges)
        if weight > 0 and (best is None or (weight, specificity, -index) > best):
            best = (weight, specificity, -index)
    return None if best is None else offered[-best[2]]


@functools.lru_cache(maxsize=256)
def lists_exactly(header: str, media: str) -> bool:
    """Returns whether the header lists this exact type, not only a range that covers it."""
    return any((parsed := _parse_range(member)) and parsed[0] == media for member in header.split(","))


def _parse_range(member: str) -> tuple[str, float] | None:
    """The media range and weight of one member of the header; None if it is malformed."""
    match = _MEDIA_RANGE.fullmatch(member)
    if match is None:
        return None
    weight = _WEIGHT.search(match[3] or "")
    return f"{match[1]}/{match[2]}".lower(), min(float(weight[1]), 1.0) if weight else 1.0


def _weight(media: str, ranges: Sequence[tuple[str, float]]) -> tuple[float, int]:
    """The weight of the most specific range that covers a type, and its specificity (2 exact, 1 `image/*`, 0 `*/*`)."""
    for specificity, pattern in ((2, media), (1, media.split("/")[0] + "/*"), (0, "*/*")):
        weights = [weight for media_range, weight in ranges if media_range == pattern]
        if weights:
            return max(weights), specificity
    return 0.0, 0
