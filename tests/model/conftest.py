"""Fixtures for tests on real inference: the library, small models made on the spot, and one that others trained."""

from pathlib import Path

import pytest

from kvsplit_patch.errors import PatchError
from kvsplit_patch.proof import subjects
from llm_kvsplit import registry
from tests.support.commands import run  # noqa: F401
from tests.support.first_question import no_library  # noqa: F401
from tests.support.library import packed, packer  # noqa: F401
from tests.support.release import skipped_without


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """A chat model that others trained; where it cannot be had its tests are skipped, and fail where CI is set."""
    with skipped_without("SmolLM2", PatchError):
        return subjects.smollm2()


@pytest.fixture
def smol(smollm2, user_path) -> Path:
    """The same, registered as "smol"."""
    registry.add(registry.Entry("smol", smollm2))
    return smollm2
