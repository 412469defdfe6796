"""The links in the documents, and the tests that they name, exist."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "BENCHMARKS.md")] + [
    *(ROOT / "docs").rglob("*.md"),
    ROOT / "docker/README.md",
]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_relative_link_in_a_document_leads_to_an_existing_file(document: Path) -> None:
    text = document.read_text("utf-8")
    targets = [target for target in re.findall(r"\]\(([^)#]+)", text) if "://" not in target]
    for target in targets:
        assert (document.parent / target).exists(), target


def test_every_test_that_security_md_names_exists() -> None:
    named = re.findall(r"`([\w/.]+)::(test_\w+)`", (ROOT / "docs/security.md").read_text("utf-8"))
    assert len(named) > 20
    for file, test in named:
        path = f"unit/{file}" if file.endswith(".py") else f"integration/serving/test_{file}.py"
        assert f"def {test}(" in (ROOT / "tests" / path).read_text("utf-8"), f"{file}::{test}"
