"""Content negotiation by the `Accept` header (RFC 9110, section 12.5.1)."""

import functools
import re
from collections.abc import Sequence

_MEDIA_RANGE = re.compile(r"\s*([^\s;,/]+)/([^\s;,/]+)\s*(;.*)?", re.DOTALL)
_WEIGHT = re.compile(r";\s*q\s*=\s*([01](?:\.\d{0,3})?)\s*(?:;|$)", re.IGNORECASE)


@functools.lru_cache(maxsize=256)  # clients send the same header with every request
def choose(header: str | None, offered: tuple[str, ...]) -> str | None:
    """Choose a media type of `offered`; None if the header allows none of them. Without a header, the first one.

    The highest weight wins, then the most specific media range (`application/json, */*` means JSON), then the order of
    `offered`. Malformed members of the header are ignored.
    """
    if header is None or not header.strip():
        return offered[0]
    ranges = [parsed for member in header.split(",") if (parsed := _parse_range(member))]
    best = max(offered, key=lambda media: _weight(media, ranges))  # the first one of equal ones
    return best if _weight(best, ranges)[0] > 0 else None


def lists_exactly(header: str, media: str) -> bool:
    """Return whether the header lists this very type; a range that covers it, such as `*/*`, does not count."""
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
