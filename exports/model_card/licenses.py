"""Identifiers of licenses on the Hugging Face Hub.

Source: https://huggingface.co/docs/hub/repositories-licenses, without the licenses that were written for one model.
"""

import re

_IDS = {
    "afl-3.0", "agpl-3.0", "apache-2.0", "artistic-2.0", "bsd", "bsd-2-clause", "bsd-3-clause",
    "bsd-3-clause-clear", "bsl-1.0", "c-uda", "cc", "cc0-1.0", "cc-by-2.0", "cc-by-2.5", "cc-by-3.0", "cc-by-4.0",
    "cc-by-nc-2.0", "cc-by-nc-3.0", "cc-by-nc-4.0", "cc-by-nc-nd-3.0", "cc-by-nc-nd-4.0", "cc-by-nc-sa-2.0",
    "cc-by-nc-sa-3.0", "cc-by-nc-sa-4.0", "cc-by-nd-4.0", "cc-by-sa-3.0", "cc-by-sa-4.0", "cdla-permissive-1.0",
    "cdla-permissive-2.0", "cdla-sharing-1.0", "ecl-2.0", "epl-1.0", "epl-2.0", "etalab-2.0", "eupl-1.1", "gfdl",
    "gpl", "gpl-2.0", "gpl-3.0", "isc", "lgpl", "lgpl-2.1", "lgpl-3.0", "lppl-1.3c", "mit", "mpl-2.0", "ms-pl",
    "ncsa", "odbl", "odc-by", "ofl-1.1", "openrail", "osl-3.0", "pddl", "postgresql", "unknown", "unlicense",
    "wtfpl", "zlib",
}  # fmt: skip
_WORDS = {  # other spellings of the parts of an identifier, applied in this order
    r"spdx-identifier-": "",
    r"-(only|or-later)$": "",
    r"-(international|universal|unported|version|the|public)(?=-|$)": "",
    r"^the-": "",
    r"creative-commons": "cc",
    r"attribution": "by",
    r"share-?alike": "sa",
    r"non-?commercial": "nc",
    r"no-?deriv(ative)?s": "nd",
    r"-?v(?=\d)|-v-(?=\d)": "-",
    r"^(cc-?)?(zero|0)(-1\.0)?$": "cc0-1.0",
    r"^by(?=-)": "cc-by",  # the first line of its text
    r"^gnu-affero-general": "agpl",
    r"^gnu-lesser-general": "lgpl",
    r"^gnu-general": "gpl",
    r"^mozilla": "mpl",
    r"^eclipse": "epl",
    r"^apache(-2)?$": "apache-2.0",  # the first line of its text has no version
    r"^mit-mit$": "mit",
    r"^bsd-([23])-clause-(simplified|new-or-revised)$": r"bsd-\1-clause",
    r"^(open-data-commons-|odc-)?(open-database|odbl)(-1\.0|-odbl)?$": "odbl",
    r"^((?:a|l)?gpl|mpl|epl)-(\d)$": r"\1-\2.0",
}


def hub_license(name: str | None) -> dict[str, str]:
    """Returns the fields of a card's head for the name, or the title, of a license.

    Args:
        name: such as `CC-BY-4.0`, `MIT License`, or any other text.

    Returns:
        `license`; for a license that the Hub does not list, `license: other` and a `license_name`; empty for None.
    """
    key = re.sub(r"[^a-z0-9.]+", "-", (name or "").lower())
    key = re.sub(r"(^|-)licen[cs]es?(?=-|$)", "", key).strip("-.")
    if not key:
        return {"license": "other", "license_name": "other"} if name and name.strip() else {}
    spelling = key
    for pattern, replacement in _WORDS.items():
        spelling = re.sub(pattern, replacement, spelling)
    if identifier := next((each for each in (key, spelling) if each in _IDS), None):
        return {"license": identifier}
    return {"license": "other", "license_name": key[:80].strip("-.")}
