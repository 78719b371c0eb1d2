"""Listing and ordering a remote's tags, over a real git daemon."""

import pytest

from kvsplit_patch import store, tags
from kvsplit_patch.errors import NetworkError, PatchError
from tests.support.daemon import serving
from tests.support.worlds import git

pytestmark = pytest.mark.usefixtures("cache")


@pytest.fixture
def listing(remote):
    """b1, b2 (annotated), b4, and b10 on the third commit, which a sort by name would put wrong; two releases."""
    folder, commits = remote
    for name, commit in (
        ("b10", commits[2]),
        ("v1.10.0", commits[3]),
        ("v1.9.2", commits[2]),
        ("bad-name", commits[0]),
    ):
        git(folder, "tag", name, commit)
    with serving(folder.parent) as address:
        yield tags.listing(f"{address}/llama.cpp")


def test_tags_are_in_order_and_peeled(remote, listing):
    _, commits = remote
    assert [(tag.name, tag.commit) for tag in listing.builds] == [
        ("b1", commits[0]), ("b2", commits[1]), ("b4", commits[3]), ("b10", commits[2])
    ]  # fmt: skip
    assert [tag.name for tag in listing.versions] == ["v1.9.2", "v1.10.0"]
    assert listing.find("b2") == listing.at(commits[1]) == listing.find(commits[1])
    with pytest.raises(PatchError, match="has no tag b3: its newest is b10"):
        listing.find("b3")


def test_only_tags_of_one_line_have_others_between_them(listing):
    names = [tag.name for tag in listing.between(listing.find("b2"), listing.find("b10"))]
    assert names == ["b2", "b4", "b10"]
    for first, last in (("b4", "b2"), ("b1", "v1.9.2")):
        with pytest.raises(PatchError, match=f"{first} does not come before {last}"):
            listing.between(listing.find(first), listing.find(last))


def test_many_come_at_once_and_only_once(listing):
    lines = []
    tags.fetch(listing.url, listing.builds, lines.append)
    assert len(lines) == 1
    repo = store.open_store()
    assert all(store.find_commit(repo, tag.name) == tag.commit for tag in listing.builds)
    assert not [ref for ref in repo.references if "incoming" in ref]
    tags.fetch(listing.url, listing.builds, lines.append)
    assert len(lines) == 1


def test_the_history_between_two_comes_even_where_the_last_came_without(remote, listing):
    _, commits = remote
    first, last = listing.find("b1"), listing.find("b4")
    tags.fetch(listing.url, [first, last], print)
    assert tags.commits_between(listing.url, first, last, print) == commits[1:]
    # b2's number says one commit, and it is one.
    assert tags.commits_between(listing.url, first, listing.find("b2"), print) == [commits[1]]
    assert tags.commits_between(listing.url, *listing.versions, print) is None


def test_a_remote_that_is_away(listing):
    with pytest.raises(NetworkError, match="cannot be listed"):
        tags.listing("git://127.0.0.1:1/none")
    with pytest.raises(NetworkError, match="failed"):
        tags.fetch("git://127.0.0.1:1/none", [tags.Tag("b99", "0" * 40)], print)
