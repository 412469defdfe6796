"""The names, choices and descriptions of all settings, from the text of the schema.

A shell that completes a setting waits for them, and importing the schema takes three times as long.
"""

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class SettingOutline:
    """A setting: its description, and the values that its type lists, as text for `--set`."""

    description: str
    choices: tuple[str, ...]


def outline() -> dict[str, SettingOutline]:
    """Returns `section.key` → outline of every setting, in the order of declaration."""
    module = ast.parse(Path(__file__).with_name("schema.py").read_text("utf-8"))
    classes = {node.name: node for node in module.body if isinstance(node, ast.ClassDef)}
    aliases = {
        target.id: node.value
        for node in module.body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    sections = _fields(classes["Config"], classes)
    return {
        f"{section}.{key}": SettingOutline(_description(field), tuple(_choices(field.annotation, aliases)))
        for section, holder in sections
        if isinstance(holder.annotation, ast.Name) and holder.annotation.id in classes
        for key, field in _fields(classes[holder.annotation.id], classes)
    }


def _fields(node: ast.ClassDef, classes: Mapping[str, ast.ClassDef]) -> Iterator[tuple[str, ast.AnnAssign]]:
    """Yields name and declaration of each field of a class, those of its base classes first."""
    for base in node.bases:
        if isinstance(base, ast.Name) and base.id in classes:
            yield from _fields(classes[base.id], classes)
    for each in node.body:
        if isinstance(each, ast.AnnAssign) and isinstance(each.target, ast.Name):
            yield each.target.id, each


def _description(field: ast.AnnAssign) -> str:
    keywords = field.value.keywords if isinstance(field.value, ast.Call) else []
    return next((str(ast.literal_eval(each.value)) for each in keywords if each.arg == "description"), "")


def _choices(annotation: ast.expr, aliases: Mapping[str, ast.expr]) -> Iterator[str]:
    """Yields the values of each Literal in an annotation, and those of bool."""
    if isinstance(annotation, ast.Name) and annotation.id == "bool":
        yield from ("true", "false")
    elif isinstance(annotation, ast.Name) and annotation.id in aliases:
        yield from _choices(aliases[annotation.id], aliases)
    elif isinstance(annotation, ast.BinOp):
        yield from _choices(annotation.left, aliases)
        yield from _choices(annotation.right, aliases)
    elif isinstance(annotation, ast.Subscript) and isinstance(annotation.value, ast.Name):
        items = annotation.slice.elts if isinstance(annotation.slice, ast.Tuple) else [annotation.slice]
        if annotation.value.id == "Literal":
            yield from (str(ast.literal_eval(item)) for item in items)
        else:  # the type in Annotated
            yield from _choices(items[0], aliases)
