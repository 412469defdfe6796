"""The folder of `ganctl export --format browser`, and how its runtime is pinned."""

import base64
import gzip
import json
import re
from pathlib import Path

import pytest

from ganctl.exports.browser import onnxruntime_web, site
from ganctl.exports.errors import ExportError
from ganctl.exports.export import export
from ganctl.exports.model_card.data_sets import data_set

PRETRAINED = Path(__file__).parents[3] / "exports/pretrained"
ROOM = PRETRAINED.parent / "browser"
RUNTIME = dict.fromkeys(onnxruntime_web.FILES, b"a program")  # of no use, but to be found again


@pytest.fixture
def written(tmp_path: Path) -> Path:
    fields = json.loads((PRETRAINED / "manifest.json").read_text())
    site.write_site(tmp_path / "browser", fields, PRETRAINED / "generator.onnx", RUNTIME)
    return tmp_path / "browser"


def test_the_folder_holds_the_page_the_runtime_the_model_and_the_manifest(written: Path) -> None:
    model = (PRETRAINED / "generator.onnx").read_bytes()
    assert gzip.decompress((written / "generator.onnx.gz").read_bytes()) == model
    assert gzip.decompress((written / "runtime/ort-wasm-simd-threaded.wasm.gz").read_bytes()) == b"a program"
    assert (written / "runtime/ort.wasm.bundle.min.js").read_bytes() == b"a program"
    fields = json.loads((written / "manifest.json").read_text())
    assert fields.pop("browser") == {
        "model": "generator.onnx",
        "runtime": onnxruntime_web.VERSION,
        "bytes": sum(path.stat().st_size for path in written.rglob("*.gz")),
        **data_set(json.loads((PRETRAINED / "manifest.json").read_text()))._asdict(),
    }
    assert fields == json.loads((PRETRAINED / "manifest.json").read_text())


def test_what_the_page_loads_is_in_its_folder(written: Path) -> None:
    named = [
        path
        for file in written.glob("*.js")
        for path in re.findall(r'(?:from|import\()\s*"\./(.+?)"', file.read_text())
    ]
    named += re.findall(r'(?:src|href)="(?!data:)(.+?)"', (written / "index.html").read_text())
    assert len(named) > 8
    assert [path for path in named if not (written / path).is_file()] == []


def test_equal_exports_give_equal_folders(written: Path, tmp_path: Path) -> None:
    fields = json.loads((PRETRAINED / "manifest.json").read_text())
    site.write_site(tmp_path / "again", fields, PRETRAINED / "generator.onnx", RUNTIME)
    for path in (path for path in written.rglob("*") if path.is_file()):
        assert (tmp_path / "again" / path.relative_to(written)).read_bytes() == path.read_bytes(), path


def test_the_content_security_policy_allows_the_own_server_only(written: Path) -> None:
    (policy,) = re.findall(r'Content-Security-Policy" content="(.+?)"', (written / "index.html").read_text())
    rules = {name: sources for name, *sources in (rule.split() for rule in policy.split(";"))}
    assert rules["default-src"] == ["'none'"]
    assert {source for sources in rules.values() for source in sources} == {
        "'none'", "'self'", "'wasm-unsafe-eval'", "data:",
    }  # fmt: skip


def test_the_lock_pins_every_package_by_its_digest_and_names_no_host() -> None:
    lock = json.loads((ROOM / "package-lock.json").read_text())
    packages = {name: package for name, package in lock["packages"].items() if name}
    assert packages["node_modules/onnxruntime-web"]["version"] == onnxruntime_web.VERSION
    for name, package in packages.items():
        algorithm, _, digest = package["integrity"].partition("-")
        assert (algorithm, len(base64.b64decode(digest))) == ("sha512", 64), name
        assert "resolved" not in package, name


def test_float16_is_preferred_to_float32() -> None:
    assert site.preferred_model(["generator.onnx", "generator.ts"]) == "generator.onnx"
    assert (
        site.preferred_model(["generator.onnx", "generator.int8.onnx", "generator.fp16.onnx"]) == "generator.fp16.onnx"
    )


def test_a_folder_browser_of_something_else_is_not_replaced(small_run: Path, tmp_path: Path) -> None:
    (tmp_path / "out/browser").mkdir(parents=True)
    (tmp_path / "out/browser/index.html").write_text("mine")
    for manifest in (None, {"name": "a web extension"}, {"browser": {"model": "generator.onnx"}, "CNAME": "mine"}):
        if manifest is not None:
            (tmp_path / "out/browser/manifest.json").write_text(json.dumps(manifest))
            (tmp_path / "out/browser/CNAME").write_text("mine")
        with pytest.raises(ExportError, match=f"{tmp_path / 'out'}: found browser, expected a new folder or an export"):
            export(small_run, out=tmp_path / "out", formats=["onnx"])
        assert (tmp_path / "out/browser/index.html").read_text() == "mine"
