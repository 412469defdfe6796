"""A click command whose help lists its options under headings."""

from collections.abc import Mapping, Sequence
from typing import Any

import click


class GroupedCommand(click.Command):
    """Command with groups of options; options without a group come last, under `Options`."""

    def __init__(self, *args: Any, groups: Mapping[str, Sequence[str]], **kwargs: Any) -> None:
        """Creates the command.

        Args:
            args, kwargs: of `click.Command`.
            groups: heading → the flags below it, such as `--seed`, in the order of the help.

        Raises:
            ValueError: a flag is not one of the command's options, or is in two groups.
        """
        super().__init__(*args, **kwargs)
        self.groups = groups
        grouped = [flag for flags in groups.values() for flag in flags]
        known = [option.opts[0] for option in self.params if isinstance(option, click.Option)]
        wrong = sorted({flag for flag in grouped if flag not in known or grouped.count(flag) > 1})
        if wrong:
            raise ValueError(
                f"groups of {self.name}: found {', '.join(wrong)}, expected flags of the command, each once"
            )

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        records = {
            option.opts[0]: record
            for option in self.get_params(ctx)
            if isinstance(option, click.Option) and (record := option.get_help_record(ctx)) is not None
        }
        for heading, flags in self.groups.items():
            if shown := [records.pop(flag) for flag in flags if flag in records]:
                with formatter.section(heading):
                    formatter.write_dl(shown)
        if records:
            with formatter.section("Options"):
                formatter.write_dl([*records.values()])
