"""Public names of `ganctl`, each imported when it is first used."""

import subprocess
import sys

import pytest

import ganctl


def test_every_public_name_is_there() -> None:
    for name in ganctl.__all__:
        assert getattr(ganctl, name) is not None


def test_an_unknown_name_is_told() -> None:
    with pytest.raises(AttributeError, match="module 'ganctl' has no attribute 'Trainr'"):
        ganctl.__getattr__("Trainr")


def test_the_import_alone_imports_nothing_that_is_installed() -> None:
    code = "import sys; before = {*sys.modules}; import ganctl; print(*{*sys.modules} - before)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert {name.partition(".")[0] for name in done.stdout.split()} - sys.stdlib_module_names == {"ganctl"}
