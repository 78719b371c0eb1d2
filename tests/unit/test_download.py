import gzip
import hashlib
import os
import random
import shutil
import subprocess
import sys
import threading

import pytest

from llm_kvsplit.errors import KvsplitError
from llm_kvsplit.models import download, remote
from llm_kvsplit.models.remote import RemoteFile
from tests.support.tiny_gguf import gguf_bytes
from tests.support.web import body, in_turn, redirect, serving, status

GGUF = gguf_bytes() + random.Random(1).randbytes(3 << 20)
OTHER = GGUF[:-5] + b"other"
SHA256 = hashlib.sha256(GGUF).hexdigest()
HALF = len(GGUF) // 2


@pytest.fixture
def web():
    with serving() as web:
        yield web


@pytest.fixture
def hub(web, monkeypatch):
    """``web`` as Hugging Face."""
    monkeypatch.setenv("HF_ENDPOINT", web.url)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.delenv("HUGGING_FACE_HUB_TOKEN", raising=False)
    return web


@pytest.fixture
def fetch(web, tmp_path):
    def fetch(path="/m.gguf", sha256=None):
        return download.fetch(RemoteFile(web.url + path, "host/m.gguf"), tmp_path, sha256, pause=0.01)

    return fetch


@pytest.fixture
def target(tmp_path):
    return tmp_path / "host" / "m.gguf"


def refused(fetch, words, **kwargs):
    with pytest.raises(KvsplitError) as error:
        fetch(**kwargs)
    assert words in error.value.message
    assert "\n" not in error.value.message and error.value.message.endswith((".", ").", "'."))
    return error.value.message


def only(target):
    """Nothing but the finished file is left."""
    assert target.read_bytes() == GGUF
    assert list(target.parent.iterdir()) == [target]


def test_a_compressed_answer_is_named(web, fetch, target):
    """Its length and its ranges would be those of other bytes: it never came whole, and nobody knew why."""

    def answer(request):
        packed = gzip.compress(GGUF)
        request.send_response(200)
        request.send_header("Content-Encoding", "gzip")
        request.send_header("Content-Length", str(len(packed)))
        request.end_headers()
        request.wfile.write(packed)

    web.at["/m.gguf"] = answer
    refused(fetch, "sends m.gguf compressed (gzip), though it was asked not to")
    assert not target.exists()


def test_a_name_as_long_as_a_file_system_allows(web, tmp_path):
    name = "m" * 250 + ".gguf"
    web.at["/m.gguf"] = in_turn(body(GGUF, cut=HALF), body(GGUF))
    download.fetch(RemoteFile(f"{web.url}/m.gguf", f"host/{name}"), tmp_path, None, pause=0.01)
    only(tmp_path / "host" / name)


def test_a_whole_file(web, fetch, target):
    web.at["/m.gguf"] = body(GGUF)
    assert fetch() == download.Download(target, len(GGUF), SHA256)
    only(target)


def test_a_cut_connection_is_taken_up_where_it_was(web, fetch, target):
    web.at["/m.gguf"] = in_turn(body(GGUF, cut=HALF), body(GGUF, cut=HALF // 2), body(GGUF))
    fetch()
    only(target)
    first, second, third = web.ranges()
    assert first is None
    assert HALF - download.CHUNK <= int(second[6:-1]) <= HALF
    assert int(third[6:-1]) > int(second[6:-1])
    assert web.seen[1][1]["If-Range"] == '"one"'


def test_a_connection_that_stays_cut_can_be_taken_up_by_the_next_command(web, fetch, target):
    web.at["/m.gguf"] = in_turn(body(GGUF, cut=HALF), body(GGUF, cut=0))
    refused(fetch, "run the same command again")
    assert not target.exists()
    assert len(web.seen) == 1 + download.TRIES
    web.at["/m.gguf"] = body(GGUF)
    fetch()
    only(target)
    assert web.ranges()[-1]


def test_nobody_listening(tmp_path):
    with serving() as web:
        gone = RemoteFile(f"{web.url}/m.gguf", "m.gguf")
    with pytest.raises(KvsplitError, match="connection to 127.0.0.1 failed at 0 bytes: run the same command again"):
        download.fetch(gone, tmp_path, pause=0.01)


def test_a_server_that_ignores_ranges(web, fetch, target):
    web.at["/m.gguf"] = in_turn(body(GGUF, cut=HALF), body(GGUF, ranges=False))
    fetch()
    only(target)


@pytest.mark.parametrize("if_range", [True, False])
def test_a_file_that_changed_between_two_attempts_starts_again(web, fetch, target, if_range):
    web.at["/m.gguf"] = in_turn(body(OTHER, etag='"old"', cut=HALF), body(GGUF, etag='"new"', if_range=if_range))
    fetch()
    only(target)


def test_without_anything_to_recognise_the_file_by_it_starts_again(web, fetch, target):
    web.at["/m.gguf"] = in_turn(body(OTHER, etag=None, cut=HALF), body(GGUF, etag=None))
    fetch()
    only(target)
    assert web.ranges() == [None, None]


def test_a_hash_is_enough_to_take_it_up(web, fetch, target):
    web.at["/m.gguf"] = in_turn(body(GGUF, etag='W/"weak"', cut=HALF), body(GGUF, etag='W/"weak"'))
    fetch(sha256=SHA256)
    only(target)
    assert web.ranges()[1] and "If-Range" not in web.seen[1][1]


def test_a_finished_file_that_was_not_renamed_is_not_fetched_again(web, fetch, target):
    web.at["/m.gguf"] = body(GGUF)
    fetch()
    os.rename(target, f"{target}.part")
    (target.parent / "m.gguf.part.json").write_text(
        f'{{"url": "{web.url}/m.gguf", "validator": "\\"one\\"", "sha256": null}}'
    )
    fetch()
    only(target)
    assert web.ranges() == [None, f"bytes={len(GGUF)}-"]


def test_part_of_something_longer_is_thrown_away(web, fetch, target):
    web.at["/m.gguf"] = in_turn(body(GGUF + OTHER, cut=len(GGUF) + HALF), body(GGUF, if_range=False))
    fetch()
    only(target)


def test_a_part_of_another_address_is_not_used(web, fetch, target):
    web.at["/a.gguf"] = in_turn(body(OTHER, cut=HALF), body(OTHER, cut=0))
    web.at["/m.gguf"] = body(GGUF)
    refused(fetch, "run the same command again", path="/a.gguf")
    fetch()
    only(target)
    assert web.ranges()[-1] is None


def test_more_or_fewer_bytes_than_the_server_said(web, fetch, target):
    web.at["/m.gguf"] = body(GGUF, length=len(GGUF) + 10)
    refused(fetch, "run the same command again")
    assert not target.exists()
    web.at["/m.gguf"] = body(GGUF, length=len(GGUF) - 10, etag=None)
    refused(fetch, f"instead of {SHA256}", sha256=SHA256)
    assert not target.exists()


def test_no_length_at_all(web, fetch, target):
    web.at["/m.gguf"] = body(GGUF, length=0)
    fetch()
    only(target)


def test_a_wrong_hash(web, fetch, target):
    web.at["/m.gguf"] = body(OTHER)
    refused(fetch, f"instead of {SHA256} and was deleted", sha256=SHA256)
    assert [file.name for file in target.parent.iterdir()] == ["m.gguf.lock"]
    refused(fetch, "is not a SHA-256", sha256="abc")


def test_the_hash_on_the_redirect(hub, fetch, target):
    hub.at["/m.gguf"] = redirect("/lfs", X_Linked_Etag=f'"{SHA256}"', X_Linked_Size=str(len(GGUF)))
    hub.at["/lfs"] = body(OTHER, etag='"x"')
    refused(fetch, f"instead of {SHA256}")
    refused(fetch, f"states SHA-256 {SHA256} for m.gguf, not {'0' * 64}", sha256="0" * 64)
    hub.at["/lfs"] = body(GGUF[:-1])
    refused(fetch, "two sizes")
    hub.at["/lfs"] = body(GGUF, etag='"x"')
    fetch()
    only(target)


@pytest.mark.parametrize(
    "code, words",
    [
        (401, "use 'llm kvsplit add FILE'"),
        (403, "use 'llm kvsplit add FILE'"),
        (404, "does not exist there"),
        (410, "HTTP 410"),
        (416, "HTTP 416"),
    ],
)
def test_a_refusal_is_told_at_once(web, fetch, code, words):
    web.at["/m.gguf"] = status(code)
    assert f"HTTP {code}" in refused(fetch, words)
    assert len(web.seen) == 1


def test_trouble_that_passes_is_waited_for(web, fetch, target):
    web.at["/m.gguf"] = in_turn(status(503), status(429, Retry_After="0"), status(500), body(GGUF))
    fetch()
    only(target)


def test_trouble_that_stays(web, fetch):
    web.at["/m.gguf"] = status(503)
    refused(fetch, "HTTP 503")
    assert len(web.seen) == download.TRIES
    web.at["/m.gguf"] = status(429, Retry_After="9999")
    refused(fetch, "HTTP 429")
    assert len(web.seen) == download.TRIES + 1


def test_a_login_that_the_hub_wants(hub, tmp_path, monkeypatch):
    [source] = remote.resolve("owner/repo", "m.gguf")
    hub.at["/owner/repo/resolve/main/m.gguf"] = status(401)
    with pytest.raises(KvsplitError, match=f"accept its terms.*{hub.url}/settings/tokens into HF_TOKEN"):
        download.fetch(source, tmp_path)
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    hub.at["/owner/repo/resolve/main/m.gguf"] = status(403)
    with pytest.raises(KvsplitError, match=f"accept the terms on {hub.url}/owner/repo with the account") as error:
        download.fetch(source, tmp_path)
    assert "hf_secret" not in error.value.message


@pytest.mark.parametrize("variable", ["HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"])
def test_the_token_goes_to_the_hub_only(hub, tmp_path, monkeypatch, variable):
    monkeypatch.setenv(variable, "hf_secret")
    [source] = remote.resolve("owner/repo/m.gguf")
    with serving() as store:
        store.at["/signed"] = body(GGUF)
        hub.at["/owner/repo/resolve/main/m.gguf"] = redirect("/cdn")
        hub.at["/cdn"] = redirect(f"{store.url}/signed")
        download.fetch(source, tmp_path)
        assert [headers.get("Authorization") for _, headers in hub.seen] == ["Bearer hf_secret"] * 2
        assert [headers.get("Authorization") for _, headers in store.seen] == [None]


@pytest.mark.parametrize("written", ["hf_secret\n", " hf_secret\r\n", "hf_secret"])
def test_white_space_around_a_token_is_not_part_of_it(hub, tmp_path, monkeypatch, written):
    monkeypatch.setenv("HF_TOKEN", written)
    hub.at["/owner/repo/resolve/main/m.gguf"] = body(GGUF)
    download.fetch(remote.resolve("owner/repo/m.gguf")[0], tmp_path)
    assert hub.seen[0][1]["Authorization"] == "Bearer hf_secret"


@pytest.mark.parametrize("written", ["hf_sec\nret", "hf sec", "hf_sécret"])
def test_a_token_that_is_none_is_named_and_not_shown(hub, tmp_path, monkeypatch, written):
    monkeypatch.setenv("HF_TOKEN", written)
    with pytest.raises(KvsplitError, match="^HF_TOKEN holds") as error:
        download.fetch(remote.resolve("owner/repo/m.gguf")[0], tmp_path)
    assert written not in error.value.message and not hub.seen


def test_blanks_are_no_token(hub, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "  ")
    hub.at["/owner/repo/resolve/main/m.gguf"] = body(GGUF)
    download.fetch(remote.resolve("owner/repo/m.gguf")[0], tmp_path)
    assert "Authorization" not in hub.seen[0][1]


def test_no_token_for_other_sites(web, fetch, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    web.at["/m.gguf"] = body(GGUF)
    fetch()
    assert "Authorization" not in web.seen[0][1]


def test_an_address_that_the_hub_signed_and_that_ran_out_is_signed_again(hub, tmp_path):
    [source] = remote.resolve("owner/repo/m.gguf")
    with serving() as store:
        store.at["/signed"] = in_turn(status(403), body(GGUF))
        hub.at["/owner/repo/resolve/main/m.gguf"] = redirect(f"{store.url}/signed")
        download.fetch(source, tmp_path, pause=0.01)


def test_a_redirect_to_no_address(web, fetch):
    for to in ("http://[::1", "http://127.0.0.1:99999/", "file:///etc/passwd"):
        web.at["/m.gguf"] = redirect(to)
        refused(fetch, "cannot be fetched")


def test_redirects_in_a_circle(web, fetch):
    web.at["/m.gguf"] = redirect("/m.gguf")
    refused(fetch, "circles")


def test_a_page_instead_of_a_model(web, fetch, target):
    web.at["/m.gguf"] = body(b"<!DOCTYPE html><html>" * 100)
    refused(fetch, "is not a GGUF file but a web page")
    assert not target.exists()


def test_a_file_that_is_there(web, fetch, target):
    web.at["/m.gguf"] = body(GGUF)
    target.parent.mkdir()
    target.write_bytes(GGUF)
    assert fetch().reused
    target.write_bytes(b"mine")
    refused(fetch, "exists and is not what the server has")
    assert target.read_bytes() == b"mine"
    target.write_bytes(OTHER)
    refused(fetch, "exists and is not what the server has", sha256=SHA256)


def test_no_space_for_what_is_announced(web, fetch, target):
    web.at["/m.gguf"] = body(GGUF, length=1 << 60)
    refused(fetch, "needs 1048576.00 TiB more")
    assert not target.exists()


def test_a_disk_that_fills_up(web, tmp_path):
    """On a real, small file system, with a server that does not say how much will come."""
    script = f"""
mount -t tmpfs -o size=1m tmpfs {tmp_path} || exit 77
exec {sys.executable} -c '
from pathlib import Path
from llm_kvsplit.models.download import KvsplitError, RemoteFile, fetch
try:
    fetch(RemoteFile("{web.url}/m.gguf", "m.gguf"), Path("{tmp_path}"))
except KvsplitError as error:
    print(error.message)
    print(*sorted(file.name for file in Path("{tmp_path}").iterdir() if file.suffix != ".lock"))
'"""
    if not shutil.which("unshare"):
        pytest.skip("needs unshare")
    web.at["/m.gguf"] = body(GGUF, length=0)
    done = subprocess.run(["unshare", "--map-root-user", "--mount", "sh", "-c", script], capture_output=True, text=True)
    if "unshare" in done.stderr or done.returncode == 77:
        pytest.skip("may not mount a file system here")
    assert "is full: make room and run the same command again" in done.stdout, done.stderr
    assert "m.gguf.part m.gguf.part.json" in done.stdout


def test_two_downloads_of_one_file_do_not_mix(web, fetch, target):
    started = threading.Event()
    go_on = threading.Event()

    def slow(request):
        started.set()
        go_on.wait(20)
        body(GGUF)(request)

    web.at["/m.gguf"] = slow
    other = threading.Thread(target=fetch)
    other.start()
    assert started.wait(20)
    refused(fetch, "Another process is downloading")
    go_on.set()
    other.join()
    only(target)


@pytest.mark.parametrize(
    "spec, file, expected",
    [
        (
            "https://example.org/a/b/m.gguf?download=1",
            None,
            [("https://example.org/a/b/m.gguf?download=1", "example.org/a/b/m.gguf")],
        ),
        (
            "owner/repo",
            "sub/m.gguf",
            [("https://huggingface.co/owner/repo/resolve/main/sub/m.gguf", "huggingface.co/owner/repo/sub/m.gguf")],
        ),
        (
            "https://huggingface.co/o/r/blob/main/m.gguf?x=1",
            None,
            [("https://huggingface.co/o/r/resolve/main/m.gguf", "huggingface.co/o/r/m.gguf")],
        ),
        (
            "o/r/m-00002-of-00002.gguf",
            None,
            [
                (f"https://huggingface.co/o/r/resolve/main/{name}", f"huggingface.co/o/r/{name}")
                for name in ("m-00001-of-00002.gguf", "m-00002-of-00002.gguf")
            ],
        ),
        (
            "http://u:pw@example.org:81/..%2f..%2fa%20b.gguf",
            None,
            [("http://u:pw@example.org:81/..%2f..%2fa%20b.gguf", "example.org_81/a_b.gguf")],
        ),
    ],
)  # fmt: skip
def test_what_a_person_may_write(monkeypatch, spec, file, expected):
    monkeypatch.delenv("HF_ENDPOINT", raising=False)
    assert remote.resolve(spec, file) == [RemoteFile(*each) for each in expected]


@pytest.mark.parametrize(
    "spec, file, words",
    [
        ("m.gguf", None, "names nothing to fetch"),
        ("./m.gguf", None, "names nothing to fetch"),
        ("owner/", None, "names nothing to fetch"),
        ("o/r/m.gguf", "n.gguf", "names nothing to fetch"),
        ("o/r", "m.bin", "does not end in .gguf"),
        ("https://example.org/m.gguf", "m.gguf", "leave m.gguf out"),
        ("https://user:pw@example.org/", None, "https://example.org/ does not end in .gguf"),
        ("ftp://example.org/m.gguf", None, "not an address that can be fetched"),
        ("https://user:pw@example.org:99999/m.gguf", None, "not an address that can be fetched"),
        ("https://[::1/m.gguf", None, "not an address that can be fetched"),
    ],
)
def test_what_cannot_be_resolved(monkeypatch, spec, file, words):
    monkeypatch.delenv("HF_ENDPOINT", raising=False)
    with pytest.raises(KvsplitError) as error:
        remote.resolve(spec, file)
    assert words in error.value.message and "pw@" not in error.value.message


def listing(*names):
    import json

    return body(json.dumps({"siblings": [{"rfilename": name} for name in names]}).encode())


def test_a_repository_without_a_file_name(hub):
    path = "/api/models/o/r"
    hub.at[path] = listing("README.md", "m-00001-of-00002.gguf", "m-00002-of-00002.gguf")
    assert [source.name for source in remote.resolve("o/r")] == ["m-00001-of-00002.gguf", "m-00002-of-00002.gguf"]
    hub.at[path] = listing("a.gguf", "b.gguf")
    with pytest.raises(KvsplitError, match="o/r has a.gguf, b.gguf: name one, such as .*download o/r a.gguf"):
        remote.resolve("o/r")
    hub.at[path] = listing("model.safetensors")
    with pytest.raises(KvsplitError, match="no GGUF files"):
        remote.resolve("o/r")
    hub.at[path] = body(b"{}")
    with pytest.raises(KvsplitError, match="name the file"):
        remote.resolve("o/r")
    hub.at[path] = status(401)
    with pytest.raises(KvsplitError, match="HF_TOKEN"):
        remote.resolve("o/r")


def test_a_repository_with_a_file_type_as_llama_cpp_writes_it(hub):
    hub.at["/api/models/o/r"] = listing(
        "m-Q4_K_M.gguf", "m-Q4_K_S.gguf", "big/m-Q8_0-00001-of-00002.gguf", "m-q4_k.gguf"
    )
    assert [source.name for source in remote.resolve("o/r:Q4_K_M")] == ["m-Q4_K_M.gguf"]
    assert [source.name for source in remote.resolve("o/r:q4_k")] == ["m-q4_k.gguf"]
    assert len(remote.resolve("o/r:Q8_0")) == 2
    with pytest.raises(KvsplitError, match="o/r has no Q5_0 among m-Q4_K_M.gguf, "):
        remote.resolve("o/r:Q5_0")
    with pytest.raises(KvsplitError, match="names a file type and a file"):
        remote.resolve("o/r:Q8_0", "m.gguf")


def test_a_repository_that_cannot_be_reached(monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    with pytest.raises(
        KvsplitError, match="^http://127.0.0.1:1 cannot be reached for the files of o/r: check the network"
    ):
        remote.resolve("o/r")
