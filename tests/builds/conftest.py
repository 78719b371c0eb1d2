import pytest

from kvsplit_patch.series import trees
from softmetal import build
from tests.support.first_question import no_library  # noqa: F401
from tests.support.library import packed, packer  # noqa: F401
from tests.support.verdicts import upstream_here  # noqa: F401


@pytest.fixture(scope="session")
def patched_programs():
    """test-backend-ops and the others, of the series, with the software Metal."""
    return build.programs(trees.patched(), lambda line: None)


@pytest.fixture(scope="session")
def stock_programs():
    """The same of upstream's tree."""
    return build.programs(trees.unpatched(), lambda line: None)
