"""Names the versions of ganctl in messages about files."""

from ganctl import __version__


def written_by(version: str | None) -> str:
    """Which ganctl wrote a file, and which this is, to be put into a message; nothing where both are the same.

    None stands for a ganctl before 0.2.0, which noted no version.
    """
    writer = "a ganctl before 0.2.0" if version is None else f"ganctl {version}"
    return "" if version == __version__ else f" written by {writer}, this is ganctl {__version__}:"
