"""Removes user names and passwords from the addresses in a text, before it is written or sent."""

import re

# a password may hold `@`, and in the address of a database also `/`
_USER = re.compile(r"://(?:[^\s/]*|[^\s:/@]*:[^\s@]*)@")


def redact(text: str) -> str:
    """Replaces `user:password@` in each address such as `http://user:password@host` by `***@`."""
    return _USER.sub("://***@", text)
