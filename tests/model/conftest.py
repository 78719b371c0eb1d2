"""Fixtures for tests on real inference: the library, small models made on the spot, and one that others trained."""

import os
from pathlib import Path

import pytest

from kvsplit_patch import subjects
from kvsplit_patch.errors import PatchError
from llm_kvsplit import registry
from tests.support.library import packed, packer  # noqa: F401


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """A chat model that others trained; where it cannot be had its tests are skipped, and fail where CI is set."""
    try:
        return subjects.smollm2()
    except PatchError as reason:
        if os.environ.get("CI"):
            raise
        pytest.skip(f"without SmolLM2: {reason}")


@pytest.fixture
def smol(smollm2, user_path) -> Path:
    """The same, registered as "smol"."""
    registry.add(registry.Entry("smol", smollm2))
    return smollm2
