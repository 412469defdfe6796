"""Adds `ganctl/common` to the handler in wheels: hatch visits a folder once, so it skips the second link to it."""

from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class CommonHook(BuildHookInterface):
    """Leaves editable installs as they are: they find the folder through the link."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if version == "standard":
            build_data["force_include"]["ganctl/common"] = "ganctl/serving/handler/common"
