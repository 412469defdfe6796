"""Bodies of error replies: `application/problem+json` (RFC 9457)."""

import json
from collections.abc import Sequence
from http import HTTPStatus
from typing import NamedTuple

MEDIA_TYPE = "application/problem+json"

MAX_ERRORS = 50  # a body of 64 KiB can hold ten thousand unknown fields


class FieldError(NamedTuple):
    """An error of one field: `detail` says what was found and what is expected; `status` is the HTTP status."""

    field: str
    detail: str
    status: int = 400


class BadRequest(Exception):
    """A request that cannot be answered, with the errors of all its fields."""

    def __init__(self, errors: Sequence[FieldError]) -> None:
        super().__init__("; ".join(f"{error.field}: {error.detail}" for error in errors[:MAX_ERRORS]))
        self.errors = tuple(errors)

    @property
    def status(self) -> int:
        """400 if any error has it, else the status of the first error (406 for a media type, 413 for a size)."""
        return 400 if any(error.status == 400 for error in self.errors) else self.errors[0].status

    def body(self) -> bytes:
        """The reply's body; it lists at most MAX_ERRORS errors."""
        errors = [{"field": error.field[:100], "detail": error.detail} for error in self.errors[:MAX_ERRORS]]
        if len(self.errors) > MAX_ERRORS:
            errors.append({"field": "", "detail": f"and {len(self.errors) - MAX_ERRORS} more errors"})
        return problem(self.status, "The request has invalid fields; `errors` lists all of them.", errors)


def problem(status: int, detail: str, errors: Sequence[dict[str, str]] = ()) -> bytes:
    """An RFC 9457 problem as JSON; `errors` is an extension member."""
    members = {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": status, "detail": detail}
    return json.dumps(members | ({"errors": errors} if errors else {})).encode()
