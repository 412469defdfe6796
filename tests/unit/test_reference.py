"""docs/reference.md agrees with the code."""

import runpy
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_reference_is_up_to_date() -> None:
    written = (ROOT / "docs/reference.md").read_text("utf-8")
    generated = runpy.run_path(str(ROOT / "docs/generate_reference.py"))["reference"]()
    assert written == generated, "run `make reference`"
