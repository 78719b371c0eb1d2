"""``llm kvsplit backend install`` from a real server: real libraries, and archives that someone has been at."""

import gzip
import hashlib
import importlib.util
import io
import json
import os
import tarfile
from pathlib import Path

import pytest

from llm_kvsplit.builds import choice, download, shelf
from llm_kvsplit.errors import KvsplitError
from llm_kvsplit.paths import backends_dir

from .web import body, serving, status

ROOT = Path(__file__).parents[2]
ID = "0.3.36-kvsplit-0c1e570-0123456789"
BUILD = next(Path(os.environ["KVSPLIT_BUILDS"]).glob("*/manifest.json")).parent


@pytest.fixture(scope="session")
def packer():
    """``ci/pack_backends.py``, which makes what a release has."""
    spec = importlib.util.spec_from_file_location("pack_backends", ROOT / "ci" / "pack_backends.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def manifest(libraries: dict[str, bytes], **changed) -> dict:
    return {
        "id": ID,
        "created": "2026-11-22T00:00:00+00:00",
        "bindings_version": shelf.bindings_version(),
        "upstream_commit": "0" * 40,
        "features": [],
        "abi": "ok",
        "libraries": {name: hashlib.sha256(data).hexdigest() for name, data in libraries.items()},
        **changed,
    }


@pytest.fixture(scope="session")
def real(tmp_path_factory, packer):
    """The release that the build which serves all tests makes."""
    folder = tmp_path_factory.mktemp("release")
    packer.pack(BUILD, folder)
    packer.write_list(folder)
    return folder


@pytest.fixture
def release(no_builds, monkeypatch):
    """A server where the newest release is looked for, with nothing in it yet."""
    with serving() as web:
        monkeypatch.setenv("KVSPLIT_BACKENDS_URL", f"{web.url}/release")
        yield web


def serve(web, data: bytes, **changed):
    """Put another archive into the release, with an entry that is true of it."""
    entry = {
        "file": "other.tar.gz",
        "id": ID,
        "platform": download.here(),
        "bindings_version": shelf.bindings_version(),
        "size": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
        **changed,
    }
    web.at["/release/other.tar.gz"] = body(data)
    web.at["/release/backends.json"] = body(json.dumps({"builds": [entry]}).encode())


def tar(*members) -> bytes:
    """An archive of (name, bytes) or of TarInfo."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as opened:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                opened.addfile(member)
            else:
                info = tarfile.TarInfo(member[0])
                info.size = len(member[1])
                opened.addfile(info, io.BytesIO(member[1]))
    return out.getvalue()


def special(name, kind, target="") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


LIBRARY = {"libllama.so": b"library"}


def head(libraries=LIBRARY, **changed):
    return "manifest.json", json.dumps(manifest(libraries, **changed)).encode()


def nothing_there() -> bool:
    return not [path for path in backends_dir().parent.rglob("*") if path.is_file() and path.name != "install.lock"]


def test_what_a_release_has_is_installed_chosen_and_answers(release, real, llm):
    for file in real.iterdir():
        release.at[f"/release/{file.name}"] = body(file.read_bytes())
    said = llm("kvsplit", "backend", "install").stdout
    assert said == f"{BUILD.name}\n" and choice.choose().id == BUILD.name
    archive = f"/release/{BUILD.name}-{download.here()}.tar.gz"
    assert [path for path, _ in release.seen] == ["/release/backends.json", archive]
    assert llm("-m", "kvsplit-demo", "-o", "temperature", "0", "-o", "max_tokens", "4", "def f(").stdout.strip()
    # Again: only the list is looked at.
    assert llm("kvsplit", "backend", "install").stdout == said
    assert [path for path, _ in release.seen[2:]] == ["/release/backends.json"]


def test_the_same_build_makes_the_same_archive(real, packer, tmp_path):
    again = packer.pack(BUILD, tmp_path)
    assert again.read_bytes() == (real / again.name).read_bytes()
    sums = (real / "SHA256SUMS").read_text()
    assert f"{hashlib.sha256(again.read_bytes()).hexdigest()}  {again.name}\n" in sums and "backends.json\n" in sums


@pytest.mark.parametrize(
    "members, words",
    [
        ([("../evil", b"x")], "'../evil', which does not belong"),
        ([("/etc/evil", b"x")], "'/etc/evil', which does not belong"),
        ([head(), ("folder/libllama.so", b"library")], "'folder/libllama.so', which does not belong"),
        ([special("manifest.json", tarfile.SYMTYPE, "/etc/passwd")], "'manifest.json', which does not belong"),
        ([head(), special("libllama.so", tarfile.SYMTYPE, "/bin/sh")], "'libllama.so', which does not belong"),
        ([head(), special("libllama.so", tarfile.LNKTYPE, "manifest.json")], "'libllama.so', which does not belong"),
        ([head(), special("libllama.so", tarfile.FIFOTYPE)], "'libllama.so', which does not belong"),
        ([("libllama.so", b"library"), head()], "does not begin with a manifest"),
        ([("manifest.json", b"{")], "a manifest that cannot be read"),
        ([("manifest.json", b'{"libraries": 5}')], "a manifest that cannot be read"),
        ([head(id="another")], "a manifest of another build"),
        ([head(bindings_version="0.1.0")], "a manifest of another build"),
        ([head(abi="mismatch")], "a manifest of another build"),
        ([head(), ("libllama.so", b"tampered")], "a libllama.so that is not the manifest's"),
        ([head(), ("libllama.so", b"library"), ("more.so", b"x")], "'more.so', which its manifest does not name"),
        ([head(), ("libllama.so", b"library"), ("libllama.so", b"library")], "which its manifest does not name"),
        ([head({**LIBRARY, "libggml.so": b""}), ("libllama.so", b"library")], "lacks libggml.so"),
        ([], "lacks manifest.json"),
    ],
)
def test_an_archive_that_someone_has_been_at_is_refused_whole(release, members, words):
    serve(release, tar(*members))
    with pytest.raises(KvsplitError, match="nothing was installed") as refusal:
        download.install(download.find())
    assert words in refusal.value.message and not isinstance(refusal.value, download.NothingFits)
    assert nothing_there()


def test_more_than_a_build_takes_is_refused(release, monkeypatch):
    monkeypatch.setattr(download, "_UNPACKED", 1 << 20)
    serve(release, tar(head(), ("libllama.so", bytes(2 << 20))))  # zeros: some KB as an archive
    with pytest.raises(KvsplitError, match="does not belong"):
        download.install(download.find())
    assert nothing_there()


@pytest.mark.parametrize(
    "data, changed, words",
    [
        (tar(head()), {"sha256": "0" * 64}, "came with SHA-256"),
        (tar(head()), {"size": 10}, "is longer than 10 bytes"),
        (tar(head()), {"size": 10_000}, "instead of 10000"),
        (b"no archive", {}, "cannot be unpacked"),
        (gzip.compress(b"no archive" * 200), {}, "cannot be unpacked"),
        (tar(head(), ("libllama.so", b"library"))[:-30], {}, "cannot be unpacked"),
    ],
)
def test_what_is_not_what_the_list_says_is_refused(release, data, changed, words):
    serve(release, data, **changed)
    with pytest.raises(KvsplitError, match=words):
        download.install(download.find())
    assert nothing_there()


@pytest.mark.parametrize(
    "changed", [{"file": "../x"}, {"file": "a/b"}, {"id": "../../x"}, {"id": ".hidden"}, {"size": 1 << 40}]
)
def test_a_list_that_points_elsewhere_is_refused(release, changed):
    serve(release, tar(head()), **changed)
    with pytest.raises(KvsplitError, match="which is no archive"):
        download.find()


def test_where_nothing_fits_or_answers_it_is_compiled(release, llm):
    """Without a compiler that ends in the compiler's own sentence, which shows that it came that far."""
    nothing = {"CXX": "no-such-compiler"}
    serve(release, b"", platform="amiga-m68k")
    said = llm("kvsplit", "backend", "install", code=1, env=nothing).stderr
    assert f"There is no build to download for {download.here()}" in said
    assert "Compiling one instead" in said and "There is no C++ compiler" in said
    release.at["/release/backends.json"] = status(404)
    said = llm("kvsplit", "backend", "install", code=1, env=nothing).stderr
    assert "cannot be had (HTTP 404). Compiling one instead" in said
    away = {**nothing, "KVSPLIT_BACKENDS_URL": "http://127.0.0.1:1"}
    said = llm("kvsplit", "backend", "install", code=1, env=away).stderr
    assert "cannot be reached (ConnectionError). Compiling one instead" in said


def test_a_build_that_does_not_run_here_is_taken_away_again(release, llm):
    serve(release, tar(head(), ("libllama.so", b"library")))
    said = llm("kvsplit", "backend", "install", code=1, env={"CXX": "no-such-compiler"}).stderr
    assert "does not run here" in said and "Compiling one instead" in said
    assert choice.choose().manifest is None and not list(backends_dir().glob("*/manifest.json"))


def test_a_list_that_is_none_is_told(release):
    for answer in (b"[]", b"<html>", b'{"builds": [{}]}'):
        release.at["/release/backends.json"] = body(answer)
        with pytest.raises(KvsplitError, match="is no list of builds"):
            download.find()
