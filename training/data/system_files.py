"""Names of files and folders that operating systems, file managers and storage devices leave among images."""

import re

# compared without regard to letter case, as Windows, macOS and most network shares compare names
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
_FORMS = re.compile(
    r"""
    (?P<apple>\._.*)                     # macOS: what a foreign file system cannot keep of a file
    | (?P<trash>\.trash-\d+)             # Linux: the trash of one user
    | (?P<found>found\.\d{3})            # Windows: what chkdsk has found
    | .*(?P<stream>:(zone\.identifier|encryptable|\$data|afp_afpinfo|afp_resource|com\.\S+)
                  | @syno(eastream|resource))  # a second stream of a file, copied as a file of its own
    """,
    re.VERBOSE | re.DOTALL,
)


def system_name(name: str) -> str | None:
    """The known name, or pattern of names, that a name of a file or folder matches; None for all others."""
    folded = name.casefold()
    if folded in _NAMES:
        return name
    form = _FORMS.fullmatch(folded)
    if form is None:
        return None
    if form["apple"]:
        return "._*"
    return f"*{form['stream']}" if form["stream"] else name
