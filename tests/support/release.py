"""What the package index has: llama.cpp as a release of llama-cpp-python vendors it, and models to test on."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from kvsplit_patch.errors import NetworkError, PatchError
from kvsplit_patch.upstream import revisions

#: The release that the series stands on.
HERE = "0.3.36"


@contextmanager
def skipped_without(what: str, failures: type[PatchError] = NetworkError) -> Iterator[None]:
    """Skip the test where ``what`` cannot be had, and fail where CI is set."""
    try:
        yield
    except failures as failure:
        if os.environ.get("CI"):
            raise
        pytest.skip(f"without {what}: {failure.message}")


def fetch(version) -> str:
    """The commit that a release vendors, in the store."""
    with skipped_without(f"llama-cpp-python {version}"):
        return revisions.fetch_sdist(version)
