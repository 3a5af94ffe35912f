"""A small pipeline that ran once undisturbed; each test disturbs it in another way."""

from pathlib import Path

import pytest

from helpers.small_pipeline import Pipeline, rehearse


def pytest_collection_modifyitems(items):
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.faults)
            item.add_marker(pytest.mark.timeout(3600))


@pytest.fixture(scope="session")
def rehearsed(tmp_path_factory):
    """The pipeline and the undisturbed run of each stage."""
    scratch = tmp_path_factory.mktemp("rehearsed")
    pipeline = Pipeline.build(scratch / "repository")
    return pipeline, rehearse(pipeline, scratch)


@pytest.fixture
def at(rehearsed):
    """``at(stage)`` returns the pipeline as it is before ``stage`` and the undisturbed run."""
    pipeline, rehearsals = rehearsed

    def before(stage):
        pipeline.restore(rehearsals[stage].before)
        return pipeline, rehearsals[stage]

    return before
