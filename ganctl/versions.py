"""Names the versions of ganctl in messages about files."""

from ganctl import __version__


def written_by(version: str | None) -> str:
    """Returns the text " written by VERSION, this is VERSION:" for a message; "" if both versions are equal.

    Args:
        version: the version that wrote the file; None for a version before 0.2.0, which files do not name.
    """
    writer = "a ganctl before 0.2.0" if version is None else f"ganctl {version}"
    return "" if version == __version__ else f" written by {writer}, this is ganctl {__version__}:"
