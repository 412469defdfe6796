"""Unicode normalization of class names."""

import unicodedata


def nfc(text: str) -> str:
    """Normalize text to NFC, the form in which class names are stored and compared.

    The time grows with the square of the length for a text of combining marks. Callers must bound the length.
    """
    return text if text.isascii() else unicodedata.normalize("NFC", text)
