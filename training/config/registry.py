"""Registries of data sets, networks and losses by name: built-in entries, entries of a script, `package.module:Name`.

The registries are declared here. A lookup imports the modules that fill them, so that settings can be read without
importing a network.
"""

import difflib
import importlib
import pkgutil
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

from ganctl.training.errors import ConfigError

if TYPE_CHECKING:
    from torch import nn

    from ganctl.training.config.schema import DataSettings, ModelSettings
    from ganctl.training.data.base import ImageSet, Split
    from ganctl.training.models.base import Generator, ImageShape

    LoadData = Callable[[DataSettings, Split], ImageSet]
    BuildGenerator = Callable[[ModelSettings, ImageShape, int | None], Generator]
    BuildDiscriminator = Callable[[ModelSettings, ImageShape, int | None], nn.Module]

T = TypeVar("T")
Entry = TypeVar("Entry")


def suggest(word: str, choices: Iterable[str]) -> str:
    """Returns a hint that names the closest choices; empty if no choice is close."""
    key = word.rpartition(".")[2]  # the section may be wrong or absent
    close = [choice for choice in choices if "." in choice and choice.rpartition(".")[2] == key][:2]
    close = close or difflib.get_close_matches(word, list(choices), n=2)
    return f" Did you mean {' or '.join(close)}?" if close else ""


class Registry(Generic[T]):
    """Entries of one kind by name, for one setting."""

    def __init__(self, kind: str, setting: str, package: str) -> None:
        """Creates an empty registry.

        Args:
            kind: noun for messages, such as "generator".
            setting: the setting that names an entry, such as "model.generator".
            package: the package whose modules register the built-in entries when they are imported.
        """
        self.kind, self.setting, self._package = kind, setting, package
        self.entries: dict[str, T] = {}  # by name; the built-in ones are added by the first lookup

    def register(self, name: str) -> Callable[[Entry], Entry]:
        """Returns a decorator that registers an entry as `name`.

        Raises:
            ValueError: another entry has this name.
        """

        def decorator(entry: Entry) -> Entry:
            if not _is_builtin(entry):
                self._load()
            existing = self.entries.get(name)
            if existing is not None and _origin(existing) != _origin(entry):  # a notebook cell may run twice
                raise ValueError(f"{self.kind} '{name}' is taken by {existing!r}. Choose another name")
            self.entries[name] = cast(T, entry)
            return entry

        return decorator

    def names(self) -> list[str]:
        """Returns the names of all entries, sorted."""
        self._load()
        return sorted(self.entries)

    def accepts(self, name: str) -> bool:
        """Returns whether `name` has an entry or the form `module:Name`; a data set may also be an absolute path."""
        return ":" in name or name in self.names() or (self is DATASETS and Path(name).is_absolute())

    def is_builtin(self, name: str) -> bool:
        """Returns whether the entry of `name` is part of ganctl."""
        self._load()
        return name in self.entries and _is_builtin(self.entries[name])

    def get(self, name: str) -> T:
        """Returns the entry of `name`; `module:Name` is imported.

        Raises:
            ConfigError: there is no such entry.
        """
        self._load()
        if name in self.entries:
            return self.entries[name]
        if ":" in name:
            entry: T = load_object(name, f"{self.setting} =")
            if not callable(entry) and self.kind != "loss":
                raise ConfigError([f"{self.setting} = '{name}': found {entry!r}, expected a function or class."])
            return entry
        known = f"{', '.join(self.names())} or module:Name (a name that a script registers exists only in that script)"
        if self is DATASETS:
            known = f"an existing path, {known}"
        hint = suggest(name, self.entries)
        raise ConfigError([f"{self.setting} = '{name}': unknown {self.kind}, expected {known}.{hint}"])

    def _load(self) -> None:
        package = importlib.import_module(self._package)
        for module in pkgutil.iter_modules(package.__path__, f"{self._package}."):
            importlib.import_module(module.name)


def _is_builtin(entry: object) -> bool:
    return str(getattr(entry, "__module__", "")).startswith("ganctl.")


def _origin(entry: object) -> tuple[object, object]:
    """Module and qualified name of an entry's definition."""
    return getattr(entry, "__module__", None), getattr(entry, "__qualname__", entry)


def load_object(name: str, setting: str) -> Any:
    """Imports the object `package.module:Name`. The current folder is searched after all other places.

    Args:
        name: module and attribute.
        setting: prefix of the error messages, such as "--callback".

    Raises:
        ConfigError: the module or the attribute does not exist, or the import fails.
    """
    module_name, colon, attribute = name.partition(":")
    if not (colon and module_name and attribute):
        raise ConfigError([f"{setting} {name}: expected module:Name, such as my_package.my_module:MyClass."])
    current_folder = str(Path.cwd())
    if current_folder not in sys.path:
        sys.path.append(current_folder)
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        found = f"no module {error.name!r} in {current_folder} or installed{_imported_package(module_name)}"
        raise ConfigError([f"{setting} {name}: {found}. Check the name or PYTHONPATH."]) from error
    except Exception as error:
        raise ConfigError([f"{setting} {name}: importing {module_name} fails: {error!r}."]) from error
    if not hasattr(module, attribute):
        hint = suggest(attribute, dir(module))
        raise ConfigError([f"{setting} {name}: {module.__file__ or module_name} has no {attribute!r}.{hint}"])
    return getattr(module, attribute)


def _imported_package(module_name: str) -> str:
    """Names the file of the imported package that lacks a module, for a message; empty if there is no such package."""
    package = sys.modules.get(module_name.partition(".")[0])
    file = getattr(package, "__file__", None) or next(iter(getattr(package, "__path__", [])), None)
    return f" ({package.__name__} is {file})" if package is not None and file is not None else ""


DATASETS: Registry["LoadData"] = Registry("data set", "data.source", "ganctl.training.data")
GENERATORS: Registry["BuildGenerator"] = Registry("generator", "model.generator", "ganctl.training.models")
DISCRIMINATORS: Registry["BuildDiscriminator"] = Registry(
    "discriminator", "model.discriminator", "ganctl.training.models"
)
LOSSES: Registry[object] = Registry("loss", "loss.name", "ganctl.training.losses")
REGISTRIES: tuple[Registry[Any], ...] = (DATASETS, GENERATORS, DISCRIMINATORS, LOSSES)
# short names of --callback; the package of the same name is an extra, so that nothing is imported until a run names it
CALLBACKS = {
    "mlflow": "ganctl.training.callbacks.mlflow:MLflow",
    "wandb": "ganctl.training.callbacks.wandb:WandB",
}
