"""Decodes queries and forms into the handler's inputs: the bytes of each field, by name."""

import email.parser
import email.policy
import re
from collections.abc import Iterator
from email.message import EmailMessage, MIMEPart
from urllib.parse import unquote_to_bytes

from ganctl.serving.hosts.worker.messages import Inputs, add_input

FORM, MULTIPART = "application/x-www-form-urlencoded", "multipart/form-data"

_SEPARATOR = re.compile(rb"[&;]")
_BAD_ESCAPE = re.compile(rb"%(?![0-9A-Fa-f]{2}).{0,2}", re.DOTALL)


class InputError(ValueError):
    """A query or a form that cannot be decoded."""


def read_inputs(query: bytes, content_type: str, body: bytes) -> Inputs:
    """Collects the fields of the query and of a form; any other body is the input `body`.

    Raises:
        InputError: a percent-encoding is bad, a field has no name, or a multipart form is malformed.
    """
    inputs: Inputs = {}
    if query:
        for name, value in _pairs(query, "the query"):
            add_input(inputs, name, value)
    media = content_type.partition(";")[0].strip().lower()
    if media == FORM:
        for name, value in _pairs(body, "the form"):
            add_input(inputs, name, value)
    elif media == MULTIPART:
        for name, value in _parts(content_type, body):
            add_input(inputs, name, value)
    elif body:
        add_input(inputs, "body", body)
    return inputs


def _pairs(text: bytes, where: str) -> Iterator[tuple[str, bytes]]:
    """Yields the fields of `application/x-www-form-urlencoded` text; a part without `=` is no field."""
    for part in _SEPARATOR.split(text):
        encoded, equals, value = part.replace(b"+", b" ").partition(b"=")
        if not equals:
            continue
        if bad := _BAD_ESCAPE.search(part):
            found = bad[0].decode("latin-1")
            raise InputError(f"{where}: found {found!r}, expected % and two hexadecimal digits; write %25 for a %")
        if not encoded:
            raise InputError(f"{where}: found a value without a name, expected name=value")
        yield unquote_to_bytes(encoded).decode("utf-8", "replace"), unquote_to_bytes(value)


def _parts(content_type: str, body: bytes) -> Iterator[tuple[str, bytes]]:
    """Yields the fields of a multipart form (RFC 7578)."""
    head = f"Content-Type: {content_type}\r\n\r\n".encode("latin-1", "replace")
    form = email.parser.BytesParser(EmailMessage, policy=email.policy.HTTP).parsebytes(head + body)
    if form.defects or not form.is_multipart():
        raise InputError(f"the form: found no parts ({_first_defect(form)}), expected those of a multipart form")
    for part in form.iter_parts():
        name = part.get_param("name", header="content-disposition")
        if part.defects or part.is_multipart() or part.get_content_disposition() != "form-data":
            raise InputError(f"the form: found a part that is no field ({_first_defect(part)})")
        if not isinstance(name, str) or not name:
            raise InputError("the form: found a part without a name, expected form-data; name=…")
        value = part.get_payload(decode=True)
        assert isinstance(value, bytes), "a part that is not multipart has bytes"
        yield name, value


def _first_defect(message: MIMEPart) -> str:
    return type(message.defects[0]).__name__ if message.defects else message.get_content_type()
