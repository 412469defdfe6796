"""The serving code executes no code from data: no pickle, no eval, no YAML loader that builds objects."""

import ast
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import ganctl.serving

FOLDER = Path(ganctl.serving.__path__[0])
MODULES = {"pickle", "cPickle", "_pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib"}
CALLS = {"eval", "exec", "compile", "__import__", "torch.load", "os.system", "os.popen"}
YAML = {
    "yaml.load",
    "yaml.load_all",
    "yaml.unsafe_load",
    "yaml.unsafe_load_all",
    "yaml.full_load",
    "yaml.full_load_all",
}


def dangers(code: str) -> Iterator[str]:
    """The imports, calls and arguments of a module that can execute code from data."""
    for node in ast.walk(ast.parse(code)):
        match node:
            case ast.Import(names):
                yield from (alias.name for alias in names if alias.name.split(".")[0] in MODULES)
            case ast.ImportFrom(module=str(module)) if module.split(".")[0] in MODULES:
                yield module
            case ast.Call(func, _, keywords):
                called = ast.unparse(func)
                if called in CALLS | YAML:
                    yield called
                for keyword in keywords:
                    risky = keyword.arg in ("allow_pickle", "shell") and ast.unparse(keyword.value) != "False"
                    if risky or (keyword.arg == "weights_only" and ast.unparse(keyword.value) != "True"):
                        yield f"{called}({ast.unparse(keyword)})"


@pytest.mark.parametrize("path", sorted(FOLDER.rglob("*.py")), ids=lambda path: str(path.relative_to(FOLDER)))
def test_no_module_of_serving_runs_code_found_in_data(path: Path) -> None:
    assert list(dangers(path.read_text("utf-8"))) == []


@pytest.mark.parametrize(
    "code",
    [
        "import pickle",
        "from marshal import loads",
        "torch.load(path)",
        "x = np.load(path, allow_pickle=True)",
        "yaml.load(text, Loader=yaml.Loader)",
        "eval(text)",
        "subprocess.run(words, shell=True)",
    ],
)
def test_code_that_can_execute_data_is_detected(code: str) -> None:
    assert list(dangers(code)) != []


def test_an_archive_holds_text_and_onnx_only(packed: Path) -> None:
    with zipfile.ZipFile(packed) as archive:
        assert {Path(name).suffix for name in archive.namelist()} == {".py", ".json", ".yaml", ".html", ".onnx"}
        assert not [name for name in archive.namelist() if name.startswith("requirements")], "TorchServe installs them"
