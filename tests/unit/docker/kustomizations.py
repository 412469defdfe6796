"""Reads the folders of docker/kubernetes as `kubectl kustomize` does, as far as they use it."""

import copy
from pathlib import Path
from typing import Any

import yaml

KUBERNETES = Path(__file__).parents[3] / "docker" / "kubernetes"
Object = dict[str, Any]


def read(path: Path) -> Any:
    """The content of a YAML file."""
    return yaml.safe_load(path.read_text("utf-8"))


def folders() -> list[str]:
    """The folders that can be applied: those of a Kustomization, not of a Component."""
    files = sorted(KUBERNETES.rglob("kustomization.yaml"))
    return [file.parent.relative_to(KUBERNETES).as_posix() for file in files if read(file)["kind"] == "Kustomization"]


def render(folder: Path) -> list[Object]:
    """The objects of a folder, with its components."""
    return _transform(folder, [])


def _transform(folder: Path, objects: list[Object]) -> list[Object]:
    """Adds the resources of a folder to `objects`, and applies its components and patches."""
    kustomization = read(folder / "kustomization.yaml")
    fields = {"resources", "components", "patches", "images", "namespace"}
    unknown = kustomization.keys() - fields - {"apiVersion", "kind"}
    assert not unknown, f"{folder}: this reader knows only {fields}, not {unknown}"
    for name in kustomization.get("resources", []):
        path = folder / name
        objects = objects + (render(path) if path.is_dir() else [read(path)])
    for name in kustomization.get("components", []):
        objects = _transform(folder / name, objects)
    for patch in kustomization.get("patches", []):
        operations = read(folder / patch["path"])
        targets = [each for each in objects if _matches(each, patch["target"])]
        assert targets, f"{folder}: the patch {patch['path']} changes nothing"
        patched = {id(each): _patch(each, operations) for each in targets}
        objects = [patched.get(id(each), each) for each in objects]
    for each in objects:
        if "namespace" in kustomization:
            each["metadata"]["namespace"] = kustomization["namespace"]
        for image in kustomization.get("images", []):
            for container in containers(each):
                if container["image"] == image["name"]:
                    container["image"] = f"{image['newName']}:{image['newTag']}"
    return objects


def _matches(each: Object, target: Object) -> bool:
    name = each["metadata"]["name"]
    return bool(each["kind"] == target["kind"] and target.get("name", name) == name)


def _patch(each: Object, operations: list[Object]) -> Object:
    """Applies operations `add` of a JSON patch (RFC 6902)."""
    each = copy.deepcopy(each)
    for operation in operations:
        assert operation["op"] == "add"
        *parents, last = (part.replace("~1", "/") for part in operation["path"].removeprefix("/").split("/"))
        place: Any = each
        for part in parents:
            place = place[int(part)] if isinstance(place, list) else place[part]
        if last == "-":
            place.append(operation["value"])
        else:
            place[last] = operation["value"]
    return each


def pod(each: Object) -> Object | None:
    """The description of the pods of an object, or None."""
    if each["kind"] in ("Deployment", "Job"):
        found: Object = each["spec"]["template"]["spec"]
        return found
    return each["spec"] if each["kind"] == "ServingRuntime" else None


def containers(each: Object) -> list[Object]:
    """The containers of an object's pods."""
    found = pod(each)
    return found["containers"] if found is not None else []
