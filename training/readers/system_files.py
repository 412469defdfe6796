"""Names of files and folders that operating systems, file managers and storage devices create among images."""

import re
from fnmatch import fnmatchcase, translate

# lowercase: names are compared without case, as on Windows, macOS and most network shares
_NAMES = {
    # macOS
    "__macosx", ".ds_store", ".appledouble", ".appledb", ".appledesktop", ".apdisk", ".fseventsd", ".localized",
    ".documentrevisions-v100", ".spotlight-v100", ".temporaryitems", ".trashes", ".volumeicon.icns", "icon\r",
    "network trash folder", "temporary items",
    # Windows
    "$recycle.bin", "recycler", "system volume information", "desktop.ini", "ehthumbs.db",
    "ehthumbs_vista.db", "thumbs.db", "autorun.inf",
    # Linux, Android
    "lost+found", "lost.dir", ".directory", ".nomedia", ".thumbnails", ".trash", ".xvpics",
    # Synology, QNAP, snapshots of storage systems
    "@eadir", "@tmp", "#recycle", "@recycle", "@recently-snapshot", ".@__thumb", "#snapshot", "@snapshot",
    "~snapshot", ".snapshot",
    # programs
    ".ipynb_checkpoints", "__pycache__", "picasa.ini", ".picasa.ini", ".picasaoriginals", "zbthumbnail.info",
    "pspbrwse.jbf",
}  # fmt: skip
_PATTERNS = (
    "._*",  # macOS: metadata of a file on a foreign file system
    ".trash-[0-9]*",  # Linux: the trash of one user
    "found.[0-9][0-9][0-9]",  # Windows: fragments recovered by chkdsk
    # alternate data streams, copied as separate files
    "*:zone.identifier", "*:encryptable", "*:$data", "*:afp_afpinfo", "*:afp_resource", "*:com.*",
    "*@synoeastream", "*@synoresource",
)  # fmt: skip
_ANY_PATTERN = re.compile("|".join(map(translate, _PATTERNS)))


def system_name(name: str) -> str | None:
    """Returns the known name, or the pattern of names, that a file or folder name matches; None if there is none."""
    folded = name.casefold()
    if folded in _NAMES:
        return name
    if not _ANY_PATTERN.match(folded):
        return None
    return next(each for each in _PATTERNS if fnmatchcase(folded, each))
