"""Unicode forms of text."""

import unicodedata


def nfc(text: str) -> str:
    """The text in Unicode's composed form (NFC), in which class names are kept and compared.

    The time for a text of combining marks grows with the square of its length: callers bound its length.
    """
    return text if text.isascii() else unicodedata.normalize("NFC", text)
