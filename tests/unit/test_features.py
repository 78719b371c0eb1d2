"""The table of what works says yes only where a test does."""

import pytest

from tests.support.features import FEATURES, TESTS, shown

MARKED = 'import pytest\n\n\n{}\n@pytest.mark.feature("tools")\ndef test_a(x):\n    {}\n'


@pytest.mark.parametrize(
    ("decorator", "body", "yes"),
    [
        ("", "assert x", True),
        ('@pytest.mark.parametrize("x", [1])', "assert x", True),
        ('@pytest.mark.skip(reason="later")', "assert x", False),
        ("@pytest.mark.skipif(True, reason='')", "assert x", False),
        ("@pytest.mark.xfail", "assert x", False),
        ("@pytest.mark.long", "assert x", False),
        ("", "pytest.skip('later')", False),
        ("pytestmark = pytest.mark.skip\n\n", "assert x", False),
    ],
)
def test_yes_needs_a_test_that_runs(tmp_path, decorator, body, yes):
    (tmp_path / "test_it.py").write_text(MARKED.format(decorator, body))
    assert shown(tmp_path) == ({"tools": ["test_a"]} if yes else {})


def test_one_that_is_skipped_is_enough_to_say_no(tmp_path):
    text = (
        MARKED.format("", "assert x")
        + '\n\n@pytest.mark.skip\n@pytest.mark.feature("tools")\ndef test_b():\n    pass\n'
    )
    (tmp_path / "test_it.py").write_text(text)
    assert shown(tmp_path) == {}


def test_every_mark_has_its_row():
    assert set(shown(TESTS)) <= {each.mark for each in FEATURES}
    assert len({each.mark for each in FEATURES}) == len(FEATURES)
