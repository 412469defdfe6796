"""Names of files and folders that operating systems, file managers and storage devices create among images."""

import re

# compared case-insensitively, as on Windows, macOS and most network shares
_NAMES = frozenset(
    name.casefold()
    for name in (
        # macOS
        "__MACOSX", ".DS_Store", ".AppleDouble", ".AppleDB", ".AppleDesktop", ".apdisk", ".fseventsd", ".localized",
        ".DocumentRevisions-V100", ".Spotlight-V100", ".TemporaryItems", ".Trashes", ".VolumeIcon.icns", "Icon\r",
        "Network Trash Folder", "Temporary Items",
        # Windows
        "$RECYCLE.BIN", "RECYCLER", "System Volume Information", "desktop.ini", "ehthumbs.db",
        "ehthumbs_vista.db", "Thumbs.db", "autorun.inf",
        # Linux, Android
        "lost+found", "LOST.DIR", ".directory", ".nomedia", ".thumbnails", ".Trash", ".xvpics",
        # Synology, QNAP, snapshots of storage systems
        "@eaDir", "@tmp", "#recycle", "@Recycle", "@Recently-Snapshot", ".@__thumb", "#snapshot", "@snapshot",
        "~snapshot", ".snapshot",
        # programs
        ".ipynb_checkpoints", "__pycache__", "Picasa.ini", ".picasa.ini", ".picasaoriginals", "ZbThumbnail.info",
        "pspbrwse.jbf",
    )
)  # fmt: skip
_PATTERNS = re.compile(
    r"""
    (?P<apple>\._.*)                     # macOS: metadata of a file on a foreign file system
    | (?P<trash>\.trash-\d+)             # Linux: the trash of one user
    | (?P<found>found\.\d{3})            # Windows: fragments recovered by chkdsk
    | .*(?P<stream>:(zone\.identifier|encryptable|\$data|afp_afpinfo|afp_resource|com\.\S+)
                  | @syno(eastream|resource))  # alternate stream, copied as a separate file
    """,
    re.VERBOSE | re.DOTALL,
)


def system_name(name: str) -> str | None:
    """Returns the known name, or the pattern of names, that a file or folder name matches; None if there is none."""
    folded = name.casefold()
    if folded in _NAMES:
        return name
    match = _PATTERNS.fullmatch(folded)
    if match is None:
        return None
    if match["apple"]:
        return "._*"
    return f"*{match['stream']}" if match["stream"] else name
