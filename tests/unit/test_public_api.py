"""The public names of `ganctl`, each imported at its first use."""

import subprocess
import sys
from pathlib import Path

import pytest

import ganctl


def test_every_public_name_can_be_imported() -> None:
    for name in ganctl.__all__:
        assert getattr(ganctl, name) is not None


def test_a_type_checker_reads_the_types_of_the_package() -> None:
    assert (Path(ganctl.__file__).parent / "py.typed").exists()


def test_an_unknown_name_is_an_attribute_error_that_names_it() -> None:
    with pytest.raises(AttributeError, match=r"'ganctl'.*'Trainr'"):
        ganctl.__getattr__("Trainr")


def test_import_ganctl_imports_no_third_party_package() -> None:
    code = "import sys; before = {*sys.modules}; import ganctl; print(*{*sys.modules} - before)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert {name.partition(".")[0] for name in done.stdout.split()} - sys.stdlib_module_names == {"ganctl"}
