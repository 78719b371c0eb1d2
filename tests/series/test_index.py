"""One file of a package from real indexes on this machine, as pip's settings name them; and from the public one."""

import base64
import hashlib
import json
import os
import pty
import select
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from kvsplit_patch import index
from kvsplit_patch.errors import NetworkError, PatchError
from tests.support.web import body, in_turn, redirect, serving, status

FILE = "thing-1.2.tar.gz"
DATA = os.urandom(3 << 20)
SHA256 = hashlib.sha256(DATA).hexdigest()


@pytest.fixture
def web():
    with serving() as server:
        yield server


@pytest.fixture(autouse=True)
def nothing_configured(monkeypatch, tmp_path):
    """No settings of this machine: neither pip's files and variables, nor uv's, nor a .netrc."""
    for name in os.environ:
        if name.startswith(("PIP_", "UV_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()


def page(text: str, kind: str = "text/html"):
    def answer(request):
        data = text.encode()
        request.send_response(200)
        request.send_header("Content-Type", kind)
        request.send_header("Content-Length", str(len(data)))
        request.end_headers()
        request.wfile.write(data)

    return answer


def listing(*names: str, sha256: str = SHA256):
    return page("".join(f'<a href="../../files/{name}#sha256={sha256}">{name}</a>' for name in names))


def serve(web, answer=None, **changed) -> str:
    """Put the package on the server; the index's address."""
    web.at["/simple/thing/"] = listing(FILE, **changed)
    web.at[f"/files/{FILE}"] = answer or body(DATA)
    return f"{web.url}/simple"


def fetch(folder: Path) -> Path:
    with index.incoming(folder) as scratch:
        path = index.download("thing", "1.2", "sdist", scratch)
        assert path.parent == scratch and path.read_bytes() == DATA
    assert [each.name for each in folder.iterdir()] == [".lock"]
    return path


def refused(folder: Path, error=NetworkError) -> str:
    """What is said instead; nothing of the file is left."""
    with pytest.raises(error) as refusal, index.incoming(folder) as scratch:
        index.download("thing", "1.2", "sdist", scratch)
    assert type(refusal.value) is error and "\n" not in refusal.value.message
    assert [each.name for each in folder.iterdir()] == [".lock"]
    return refusal.value.message


@pytest.mark.parametrize(
    "name", ["PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "UV_DEFAULT_INDEX", "UV_INDEX_URL", "UV_INDEX"]
)
def test_an_index_is_found_where_a_person_named_it(web, tmp_path, monkeypatch, capfd, name):
    address = serve(web)
    monkeypatch.setenv("PIP_INDEX_URL", f"{web.url}/empty")
    if name in ("UV_DEFAULT_INDEX", "UV_INDEX_URL"):
        monkeypatch.delenv("PIP_INDEX_URL")
    monkeypatch.setenv(name, f"internal={address}" if name == "UV_INDEX" else address)
    assert fetch(tmp_path / "kept").name == FILE
    # One line, as stderr is no terminal here; that another index does not have the package is not worth one.
    assert capfd.readouterr().err == f"{FILE} from 127.0.0.1\n"


def test_pips_file_names_an_index_with_a_password_and_a_variable_wins(web, tmp_path, monkeypatch):
    (tmp_path / "pip.conf").write_text(
        f"[global]\nindex-url = http://127.0.0.1:1/simple\n"
        f"[download]\nindex-url = {serve(web).replace('//', '//me:secret@')}\n"
        f"extra-index-url =\n    {web.url}/a\n    {web.url}/b\n"
    )
    monkeypatch.setenv("PIP_CONFIG_FILE", str(tmp_path / "pip.conf"))
    fetch(tmp_path / "kept")
    # Asked at first without, as pip does not either where nobody wants it.
    assert {path for path, _ in web.seen} == {"/simple/thing/", "/a/thing/", "/b/thing/", f"/files/{FILE}"}
    token = base64.b64encode(b"me:secret").decode()
    assert any(headers.get("Authorization") == f"Basic {token}" for _, headers in web.seen)
    monkeypatch.setenv("PIP_INDEX_URL", f"{web.url}/none")
    assert "There is no sdist of thing 1.2" in refused(tmp_path / "kept", PatchError)


def test_folders_and_lists_of_links_are_indexes_too(web, tmp_path, monkeypatch):
    folder = tmp_path / "index"
    (folder / "thing").mkdir(parents=True)
    (folder / "thing" / FILE).write_bytes(DATA)
    (folder / "thing" / "index.html").write_text(f'<a href="{FILE}#sha256={SHA256}">{FILE}</a>')
    monkeypatch.setenv("PIP_INDEX_URL", folder.as_uri())
    fetch(tmp_path / "kept")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    assert "There is no sdist" in refused(tmp_path / "kept", PatchError)
    for places in (f"/nowhere {folder / 'thing'}", f"{web.url}/links.html"):
        web.at["/links.html"] = page(f'<a href="files/{FILE}">{FILE}</a>')
        web.at[f"/files/{FILE}"] = body(DATA)
        monkeypatch.setenv("PIP_FIND_LINKS", places)
        fetch(tmp_path / "kept")
    assert (folder / "thing" / FILE).read_bytes() == DATA


def test_the_newest_that_has_an_sdist_and_is_no_trial(web, monkeypatch):
    sdists = ("thing-1.10.tar.gz", "thing-1.9.tar.gz", "thing-2.0rc1.tar.gz")
    names = (*sdists, "thing-3.0-py3-none-any.whl", "other-9.tar.gz")
    web.at["/simple/thing/"] = listing(*names)
    monkeypatch.setenv("PIP_INDEX_URL", f"{web.url}/simple")
    assert index.newest("thing") == "1.10"
    files = [{"filename": name, "url": f"/files/{name}", "hashes": {"sha256": SHA256}} for name in names]
    files[0]["requires-python"] = ">=9"
    answer = {"meta": {"api-version": "1.0"}, "name": "thing", "files": files}
    web.at["/simple/thing/"] = page(json.dumps(answer), "application/vnd.pypi.simple.v1+json")
    assert index.newest("thing") == "1.9"


@pytest.mark.parametrize(
    "answer, changed, words",
    [
        (body(DATA), {"sha256": "0" * 64}, "came with another hash than its index states: try again"),
        (body(DATA[:-1] + b"x"), {}, "came with another hash"),
        (body(DATA, cut=1 << 20), {}, "cannot be had"),
        (status(404), {}, "404"),
        (status(503), {}, "503"),
        (redirect("http://127.0.0.1:1/"), {}, "127.0.0.1: [Errno"),
    ],
)
def test_what_does_not_come_whole_is_not_kept(web, tmp_path, monkeypatch, answer, changed, words):
    monkeypatch.setenv("PIP_INDEX_URL", serve(web, answer, **changed))
    assert words in refused(tmp_path / "kept")


def test_an_index_that_does_not_answer_and_one_that_must_not(web, tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_INDEX_URL", serve(web))
    web.at["/simple/thing/"] = status(503)
    assert "cannot be looked for" in (said := refused(tmp_path / "kept")) and "503" in said
    web.at["/simple/thing/"] = status(401)
    assert "401" in refused(tmp_path / "kept")
    web.at["/simple/thing/"] = status(404)
    assert "There is no sdist of thing 1.2" in refused(tmp_path / "kept", PatchError)
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:1/simple")
    assert "check the network" in refused(tmp_path / "kept")
    monkeypatch.setenv("PIP_INDEX_URL", "http://unencrypted.invalid/simple")
    assert "not being trusted" in refused(tmp_path / "kept")
    monkeypatch.setenv("PIP_TRUSTED_HOST", "unencrypted.invalid")
    assert "unencrypted.invalid: [Errno" in refused(tmp_path / "kept")
    for name, value in (("PIP_CERT", "/nowhere"), ("PIP_PROXY", "ftp://127.0.0.1")):
        monkeypatch.setenv(name, value)
        assert "cert or proxy cannot be used" in refused(tmp_path / "kept", PatchError)
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", str(tmp_path / "pip.conf"))
    (tmp_path / "pip.conf").write_text("no section\n")
    assert "pip could not tell where it gets packages" in refused(tmp_path / "kept", PatchError)


def test_a_proxy_is_used(web, tmp_path, monkeypatch):
    """A proxy is asked for whole addresses; this one answers them itself."""
    nobody = "http://127.0.0.1:1"
    web.at[f"{nobody}/simple/thing/"] = listing(FILE)
    web.at[f"{nobody}/files/{FILE}"] = body(DATA)
    monkeypatch.setenv("PIP_INDEX_URL", f"{nobody}/simple")
    monkeypatch.setenv("PIP_PROXY", web.url.removeprefix("http://"))
    fetch(tmp_path / "kept")


# Stopped, killed, and two at a time.

CHILD = """
from pathlib import Path
import click
from kvsplit_patch import index

@click.command()
@click.argument("folder", type=Path)
def main(folder):
    with index.incoming(folder) as scratch:
        path = folder / "thing"
        if not path.exists():
            index.download("thing", "1.2", "sdist", scratch).rename(path)

main()
"""


def start(folder, **options) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-c", CHILD, str(folder)], **{"stderr": subprocess.PIPE, **options})


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_stopped_in_the_midst_it_leaves_nothing_that_is_read(web, tmp_path, monkeypatch, how):
    folder = tmp_path / "kept"
    monkeypatch.setenv("PIP_INDEX_URL", serve(web, in_turn(body(DATA, cut=1 << 20, hang=web.closing), body(DATA))))
    child = start(folder)
    assert child.stderr.readline() == f"{FILE} from 127.0.0.1\n".encode()
    child.send_signal(how)
    said = child.communicate(timeout=20)[1].decode()
    assert child.returncode == (1 if how == signal.SIGINT else -signal.SIGKILL) and "Traceback" not in said
    assert (folder / ".incoming").exists() == (how == signal.SIGKILL) and not (folder / "thing").exists()
    assert start(folder).wait(20) == 0
    assert sorted(each.name for each in folder.iterdir()) == [".lock", "thing"]
    assert (folder / "thing").read_bytes() == DATA


def test_two_that_want_the_same_fetch_it_once(web, tmp_path, monkeypatch):
    go_on = threading.Event()

    def slow(request):
        go_on.wait()
        body(DATA)(request)

    monkeypatch.setenv("PIP_INDEX_URL", serve(web, slow))
    first, second = start(tmp_path / "kept"), start(tmp_path / "kept")
    waiting = [child.stderr for child in (first, second)]
    # One of the two says so while the other has not got its first byte.
    line = select.select(waiting, [], [], 20)[0][0].readline().decode()
    assert line.startswith("waiting for another process")
    go_on.set()
    assert [first.wait(20), second.wait(20)] == [0, 0]
    assert [path for path, _ in web.seen].count(f"/files/{FILE}") == 1


def test_a_terminal_shows_a_bar(web, tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_INDEX_URL", serve(web))
    ours, theirs = pty.openpty()
    child = start(tmp_path / "kept", stderr=theirs)
    os.close(theirs)
    shown = b""
    while True:
        try:
            shown += os.read(ours, 4096)
        except OSError:  # the other end is closed
            break
    assert child.wait(20) == 0
    assert shown.count(b"\r") > 3 and b"[####" in shown and b"3.00 MiB of 3.00 MiB" in shown
