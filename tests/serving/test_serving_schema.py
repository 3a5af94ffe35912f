"""Whatever the OpenAPI document allows, and much that it does not, is answered as it says."""

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import positive_data_acceptance

from helpers.serving_models import Echo, app_of, running
from songcast.serving.jobs import Limits

HEALTHY = [HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large]
# Answered by an empty line, called JSON: so does MLflow's scoring server.
BARE = ("/ping", "/health")
SIMPLE = ("/version", "/metrics")  # they take nothing that could be wrong
PHASES = (Phase.explicit, Phase.generate)


@pytest.fixture(scope="module")
def schema():
    limits = Limits(max_frames=50_000, continuation_seconds=2.0, body_bytes=2**20)
    with running(app_of(Echo(), limits)) as client:
        yield schemathesis.openapi.from_url(f"{client.base_url}/openapi.json", timeout=300)


def explore(schema, mode, examples):
    """Ask every operation ``examples`` times; each answer must be one that the document tells."""
    asked = 0
    for operation in (result.ok() for result in schema.get_all_operations()):
        if operation.path in BARE or (mode is GenerationMode.NEGATIVE and operation.path in SIMPLE):
            continue

        @settings(
            max_examples=examples,
            suppress_health_check=HEALTHY,
            phases=PHASES,
        )
        @given(case=operation.as_strategy(generation_mode=mode))
        def answers(case):
            nonlocal asked
            asked += 1
            # No schema can say what a song is: most texts and bytes are none.
            case.call_and_validate(excluded_checks=[positive_data_acceptance], timeout=300)

        answers()
    return asked


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
def test_answers_are_those_of_the_document(schema, mode):
    assert explore(schema, mode, 15) >= 20


@pytest.mark.slow
@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
def test_answers_are_those_of_the_document_for_long(schema, mode):
    assert explore(schema, mode, 500) >= 1000
