"""Chooses the reply's type from an `Accept` header (RFC 9110, section 12.5.1)."""

import functools
import re
from collections.abc import Sequence

_MEMBER = re.compile(r"\s*([^\s;,/]+)/([^\s;,/]+)\s*(;.*)?", re.DOTALL)
_WEIGHT = re.compile(r";\s*q\s*=\s*([01](?:\.\d{0,3})?)\s*(?:;|$)", re.IGNORECASE)


@functools.lru_cache(maxsize=256)  # clients send the same header with every request
def choose(header: str | None, offered: tuple[str, ...]) -> str | None:
    """The best of `offered`, the first being the default; None where the header allows none of them.

    The weight decides, then how exactly the type was named (so that `application/json, */*` means JSON), then the order
    of `offered`. Members that are no media range are passed over.
    """
    if header is None or not header.strip():
        return offered[0]
    ranges = [found for member in header.split(",") if (found := _range(member))]
    best: tuple[float, int, int] | None = None
    for place, name in enumerate(offered):
        weight, exactness = _weight(name, ranges)
        if weight > 0 and (best is None or (weight, exactness, -place) > best):
            best = (weight, exactness, -place)
    return None if best is None else offered[-best[2]]


@functools.lru_cache(maxsize=256)
def names(header: str, media: str) -> bool:
    """Whether the header names this very type, not only a range that covers it."""
    return any((found := _range(member)) and found[0] == media for member in header.split(","))


def _range(member: str) -> tuple[str, float] | None:
    match = _MEMBER.fullmatch(member)
    if match is None:
        return None
    weight = _WEIGHT.search(match[3] or "")
    return f"{match[1]}/{match[2]}".lower(), min(float(weight[1]), 1.0) if weight else 1.0


def _weight(name: str, ranges: Sequence[tuple[str, float]]) -> tuple[float, int]:
    """The weight of a type, by the most exact range that covers it, and how exact that is (2 named, 1 `image/*`, 0)."""
    for exactness, wanted in ((2, name), (1, name.split("/")[0] + "/*"), (0, "*/*")):
        weights = [weight for media_range, weight in ranges if media_range == wanted]
        if weights:
            return max(weights), exactness
    return 0.0, 0
