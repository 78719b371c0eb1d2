import pytest

from kvsplit_patch import dep3
from kvsplit_patch.errors import PatchError
from tests.support.worlds import header


def test_header_round_trip():
    full = header(
        "x",
        description="First line\n\nA paragraph\n  with an indented line.",
        origin="https://example.org",
        bug="https://example.org/1",
        applied_upstream="b1234",
        watch=("a/", "b*.c"),
    )
    assert dep3.parse_header(dep3.format_header(full).removesuffix("---\n"), "x") == full


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("Author: A Person <person@example.org>\n", "", "Author"),
        ("Forwarded: no", "Forwarded:", "Forwarded"),
        ("Last-Update: 2026-10-01", "Last-Update: tomorrow", "tomorrow"),
        ("Forwarded: no", "Reviewed: no", "Reviewed"),
        ("Description:", "Subjective:", "Description"),
        ("Forwarded: no", "Forwarded: no\n\nloose text", "loose text"),
    ],
)
def test_a_broken_header_is_named(old, new, words):
    good = dep3.format_header(header("x")).removesuffix("---\n")
    with pytest.raises(PatchError, match=words):
        dep3.parse_header(good.replace(old, new), "x")
