"""The client against a real HTTP server that limits, pages, refuses and fails as GitHub does."""

import socket
import time

import pytest

from kvsplit_patch import github
from kvsplit_patch.errors import NetworkError
from kvsplit_patch.github import GitHub, Refused
from tests.support import github as hubs


@pytest.fixture
def hub():
    with hubs.serving() as made:
        yield made


@pytest.fixture
def client(hub):
    return GitHub(hubs.REPOSITORY, hubs.TOKEN, hub.url, pause=0.01)


def test_a_list_comes_page_after_page(hub, client):
    hub.page = 3
    hub.issues = [{"number": n, "state": "open", "labels": []} for n in range(1, 8)]
    assert [issue["number"] for issue in client.pages("issues", state="open")] == [7, 6, 5, 4, 3, 2, 1]
    assert len(hub.calls) == 3


def test_faults_of_the_server_pass(hub, client):
    hub.faults = [(500, {}), "cut", (503, {})]
    assert client.get("")["default_branch"] == "main" and len(hub.calls) == 4
    hub.faults = [(502, {})] * 4
    with pytest.raises(NetworkError, match="failed: it answered 502; try again later"):
        client.get("")


def test_a_write_that_may_have_been_done_is_not_repeated(hub, client):
    for fault in ((502, {}), "cut"):
        hub.faults = [fault]
        with pytest.raises(NetworkError):
            client.write("POST", "issues", title="once")
    assert len(hub.calls) == 2 and hub.issues == []


def test_a_rate_limit_is_waited_for_when_it_is_short(hub, client):
    hub.faults = [
        (429, {"Retry-After": "0"}),
        (403, {"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": str(int(time.time()) - 5)}),
    ]
    assert client.write("POST", "issues", title="once")["number"] == 1
    hub.faults = [(403, {"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": str(int(time.time()) + 3000)})]
    with pytest.raises(NetworkError, match=r"allows no more requests until \d\d:\d\d UTC"):
        client.get("issues")
    hub.faults = [(429, {"Retry-After": "3600"})]
    with pytest.raises(NetworkError, match="allows no more requests until"):
        client.get("issues")


@pytest.mark.parametrize(
    "status, words",
    [(401, "make a new one"), (403, "write access"), (404, "check GITHUB_REPOSITORY"), (409, "run this again")],
)
def test_a_refusal_is_a_sentence_with_the_next_step(hub, client, status, words):
    hub.faults = [(status, {})]
    with pytest.raises(Refused, match=rf"was refused with {status} \(no\); .*{words}") as refusal:
        client.write("PATCH", "issues/1", state="closed")
    assert refusal.value.status == status and len(hub.calls) == 1


def test_what_is_not_there_can_be_asked_for(hub, client):
    assert client.find("git/ref/heads/none") is None
    with pytest.raises(Refused, match="Bad credentials"):
        GitHub(hubs.REPOSITORY, "another", hub.url).find("git/ref/heads/none")


def test_nobody_listens(client):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        nobody = f"http://127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(NetworkError, match="ConnectionError"):
        GitHub(hubs.REPOSITORY, hubs.TOKEN, nobody, pause=0.01).get("")


def test_a_page_elsewhere_is_not_followed_with_our_token(hub, client):
    hub.paged = lambda items, path, query: (200, items, {"Link": '<http://example.org/next>; rel="next"'})
    with pytest.raises(github.PatchError, match="which is elsewhere"):
        list(client.pages("issues"))


def test_a_dry_run_reads_and_prints(hub):
    lines = []
    client = GitHub(hubs.REPOSITORY, hubs.TOKEN, hub.url, dry_run=True, echo=lines.append)
    assert client.write("POST", "issues", title="ä") == {}
    assert lines == [f'POST /repos/{hubs.REPOSITORY}/issues {{"title": "ä"}}'] and hub.calls == []
    assert client.get("")["default_branch"] == "main"


def test_the_newest_release_that_counts(hub, client):
    hub.releases = [
        {"tag_name": "b9999", "draft": False, "prerelease": False},
        {"tag_name": "v1.3.0", "draft": False, "prerelease": True},
        {"tag_name": "v1.2.0", "draft": False, "prerelease": False},
    ]
    assert github.newest_release(client, lambda name: name.startswith("v")) == "v1.2.0"
    assert github.newest_release(client, lambda name: False) is None


def test_without_a_token_there_is_no_client(monkeypatch):
    monkeypatch.delenv("GITHUB_TOKEN", raising=False)
    assert github.from_environment(False, print) is None
    assert github.from_environment(True, print).repository
