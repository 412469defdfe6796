"""The report in a real Chromium, and its time and size."""

import html
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.browser import CHROMIUM, in_chromium
from tests.waiting import PATIENCE

# the report in a frame of a given width; a script of the outer page measures the inner one
FRAME = """<!doctype html><body><iframe width="{width}" height="800" srcdoc="{page}"></iframe><script>
onload = () => {{
  const page = document.querySelector("iframe").contentDocument;
  const root = page.documentElement, images = [...page.images];
  document.body.dataset.found = JSON.stringify({{
    width: root.clientWidth, scroll: root.scrollWidth, images: images.length,
    broken: images.filter(image => !image.naturalWidth).length, font: getComputedStyle(page.body).fontFamily,
    smallest: Math.min(...[...page.querySelectorAll("svg[role=img]")].map(svg => 11 * svg.clientWidth / 360)),
  }});
}};
</script>"""


def measure(report: Path, width: int, tmp_path: Path) -> dict[str, float]:
    """Opens a report in a frame of `width` pixels; the console must stay empty."""
    assert CHROMIUM is not None
    outer = tmp_path / f"frame-{width}.html"
    outer.write_text(FRAME.format(width=width, page=html.escape(report.read_text("utf-8"))), "utf-8")
    command = [CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}/profile"]
    command += ["--enable-logging=stderr", "--v=0", "--window-size=1400,900", "--virtual-time-budget=5000"]
    command += ["--dump-dom", f"file://{outer}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=True)
    assert [line for line in done.stderr.splitlines() if "CONSOLE" in line] == [], "a violation of the policy"
    (found,) = re.findall(r'data-found="([^"]*)"', done.stdout)
    record: dict[str, float] = json.loads(html.unescape(found))
    return record


def write_report(out: Path, *runs: Path) -> dict[str, object]:
    command = [sys.executable, "-m", "ganctl", "report", *map(str, runs), "--out", str(out), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=True)
    record: dict[str, object] = json.loads(done.stdout)
    return record


@in_chromium
def test_a_report_fits_a_phone_and_a_desktop(small_run: Path, small_unconditional_run: Path, tmp_path: Path) -> None:
    for name, runs in (("one", [small_run]), ("two", [small_run, small_unconditional_run])):
        report = tmp_path / f"{name}.html"
        write_report(report, *runs)
        for width in (390, 1280):
            found = measure(report, width, tmp_path)
            assert found["scroll"] <= found["width"] <= width, "the page itself does not scroll sideways"
            assert found["broken"] == 0
            assert found["images"] >= 14 * len(runs)
            assert "system-ui" in str(found["font"]), "the style is in force under the policy"
            assert found["smallest"] >= 8, "pixels of the letters in charts"


@pytest.mark.soak
def test_a_report_on_a_run_of_the_preset_quick_takes_ten_seconds_and_five_megabytes(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "ganctl", "train", "--preset", "quick", "--run-dir", str(tmp_path / "run")]
    subprocess.run(command, check=True, capture_output=True, timeout=PATIENCE)
    before = os.times()
    record = write_report(tmp_path / "report.html", tmp_path / "run")
    after = os.times()
    assert int(str(record["bytes"])) <= 5_000_000
    # not the time on the clock: other programs of the machine would count
    busy = after.children_user + after.children_system - before.children_user - before.children_system
    assert busy <= 10, "seconds, the start of the process included"
