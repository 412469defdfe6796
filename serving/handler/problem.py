"""What is wrong with a request, told as `application/problem+json` (RFC 9457)."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from http import HTTPStatus

MEDIA_TYPE = "application/problem+json"

SHOWN = 50  # a body of 64 KiB can hold ten thousand unknown fields; nobody reads that many faults


@dataclass(frozen=True)
class FieldError:
    """One faulty field: `detail` says what was found and what is expected."""

    field: str
    detail: str
    status: int = 400


class BadRequest(Exception):
    """A request that cannot be answered, with everything that is wrong with it."""

    def __init__(self, faults: Sequence[FieldError]) -> None:
        super().__init__("; ".join(f"{fault.field}: {fault.detail}" for fault in faults[:SHOWN]))
        self.faults = tuple(faults)

    @property
    def status(self) -> int:
        """400 where a field is faulty, else the status of the first fault (406 for a type, 413 for a size)."""
        statuses = [fault.status for fault in self.faults]
        return 400 if 400 in statuses else statuses[0]

    def body(self) -> bytes:
        errors = [{"field": fault.field[:100], "detail": fault.detail} for fault in self.faults[:SHOWN]]
        if len(self.faults) > SHOWN:
            errors.append({"field": "", "detail": f"and {len(self.faults) - SHOWN} more faults"})
        return problem(self.status, "The request has faults; `errors` names every one of them.", errors)


def problem(status: int, detail: str, errors: Sequence[dict[str, str]] = ()) -> bytes:
    record: dict[str, object] = {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": status}
    record["detail"] = detail
    if errors:
        record["errors"] = list(errors)
    return json.dumps(record).encode()
