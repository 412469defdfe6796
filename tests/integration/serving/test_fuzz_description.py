"""The service conforms to its OpenAPI description, for valid and for invalid requests."""

from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.specs.openapi import checks
from schemathesis.specs.openapi.schemas import OpenApiSchema

from ganctl.serving.handler.request import MEDIA_TYPES, OPENAPI_TYPE
from tests import http
from tests.integration.serving.conftest import Running
from tests.integration.serving.known_failures import is_known

# The description states in prose which fields exclude each other, and TorchServe accepts every method.
UNDESCRIBED = [checks.positive_data_acceptance, checks.unsupported_method]


@pytest.fixture(scope="session")
def description(served: Running) -> OpenApiSchema:
    document = http.get(f"{served.url}/predictions/digits", headers={"Accept": OPENAPI_TYPE}).json()
    schema = schemathesis.openapi.from_dict(document)
    schema.config.update(base_url=served.url)
    schema.config.checks.negative_data_rejection.expected_statuses = ["400", "406", "413"]
    assert isinstance(schema, OpenApiSchema)
    return schema


@pytest.mark.parametrize(
    ("operation", "mode"),
    [
        ("draw", GenerationMode.POSITIVE),  # cannot be invalid: its only parameter is a header that takes any text
        *((name, mode) for name in ("drawFields", "drawQuery") for mode in GenerationMode),
    ],
)
@pytest.mark.soak_on_torchserve
def test_replies_conform_to_the_openapi_description(
    description: OpenApiSchema, operation: str, mode: GenerationMode
) -> None:
    cases = description.find_operation_by_id(operation).as_strategy(generation_mode=mode)

    @settings(max_examples=150, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
    @given(case=cases, media=st.none() | st.sampled_from(MEDIA_TYPES))
    def check_reply(case: schemathesis.Case[Any], media: str | None) -> None:
        reply = case.call(headers={} if media is None else {"Accept": media})
        if not is_known(reply.status_code, reply.content):
            case.validate_response(reply, excluded_checks=UNDESCRIBED)

    check_reply()
