"""Responses to generated requests, valid and invalid, conform to the OpenAPI document."""

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import positive_data_acceptance

from helpers.serving_models import Echo, app_of, running
from songcast.serving.jobs import Limits

HEALTHY = [HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large]
# An empty line with the content type of JSON, as in MLflow's scoring server.
EMPTY = ("/ping", "/health")
# No input, or any name: nothing is invalid.
ALWAYS_VALID = ("/version", "/metrics", "/limits", "/jobs/{name}")
PHASES = (Phase.explicit, Phase.generate)


@pytest.fixture(scope="module")
def schema():
    limits = Limits(max_frames=50_000, continuation_seconds=2.0, body_bytes=2**20)
    with running(app_of(Echo(), limits)) as client:
        yield schemathesis.openapi.from_url(f"{client.base_url}/openapi.json", timeout=300)


def explore(schema, mode, examples):
    """Validate ``examples`` responses of every operation; return the number of requests."""
    requests = 0
    for operation in (result.ok() for result in schema.get_all_operations()):
        if operation.path in EMPTY or (
            mode is GenerationMode.NEGATIVE and operation.path in ALWAYS_VALID
        ):
            continue

        @settings(
            max_examples=examples,
            suppress_health_check=HEALTHY,
            phases=PHASES,
        )
        @given(case=operation.as_strategy(generation_mode=mode))
        def validate(case):
            nonlocal requests
            requests += 1
            # A schema cannot describe an audio file, so most bodies that it allows are invalid.
            case.call_and_validate(excluded_checks=[positive_data_acceptance], timeout=300)

        validate()
    return requests


def test_responses_conform_to_the_document(schema):
    for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
        assert explore(schema, mode, 15) >= 20


@pytest.mark.slow
def test_responses_to_many_requests_conform_to_the_document(schema):
    for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
        assert explore(schema, mode, 500) >= 1000
