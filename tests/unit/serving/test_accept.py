"""The `Accept` header chooses the reply's type."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ganctl.serving.handler.accept import choose

PNG, JSON = "image/png", "application/json"
BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8"


@pytest.mark.parametrize(
    ("header", "chosen"),
    [
        (None, PNG),
        ("", PNG),
        ("*/*", PNG),
        ("image/*", PNG),
        ("image/png", PNG),
        ("IMAGE/PNG", PNG),
        ("application/json", JSON),
        ("application/*", JSON),
        ("application/json;charset=utf-8", JSON),
        ("application/json, text/plain, */*", JSON),
        ("image/png;q=0.5, application/json", JSON),
        ("image/png;q=0.5, application/json;q=0.4", PNG),
        ("application/json;q=0, */*", PNG),
        ("*/*;q=0.1, image/png;q=0, application/json;q=0.001", JSON),
        ("image/webp, image/*;q=0.3, application/json;Q=0.2", PNG),
        (BROWSER, PNG),
        ("nonsense, application/json", JSON),
        ("text/html", None),
        ("image/png;q=0", None),
        ("image/webp, image/gif", None),
        (";;;,,,", None),
    ],
)
def test_the_best_accepted_type_is_chosen(header: str | None, chosen: str | None) -> None:
    assert choose(header, (PNG, JSON)) == chosen


@given(st.text(max_size=200))
def test_no_value_of_the_header_is_an_error(header: str) -> None:
    assert choose(header, (PNG, JSON)) in (PNG, JSON, None)
