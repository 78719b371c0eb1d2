"""``llm kvsplit backend install`` from a real server: real libraries, and archives that someone has been at."""

import gzip
import hashlib
import tarfile

import pytest

from llm_kvsplit.builds import definitions, download
from llm_kvsplit.errors import KvsplitError
from llm_kvsplit.paths import backends_dir
from tests.support import defined
from tests.support.archives import LIBRARY, WHOLE, head, serve, special, tar
from tests.support.web import body


def nothing_there() -> bool:
    return not [path for path in backends_dir().parent.rglob("*") if path.is_file() and path.name != "install.lock"]


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
        ([head(bindings=None)], "a manifest of another build"),
        ([head(), ("libllama.so", b"tampered")], "a libllama.so that is not the manifest's"),
        ([head(), ("libllama.so", b"library"), ("more.so", b"x")], "'more.so', which its manifest does not name"),
        ([head(), ("libllama.so", b"library"), ("libllama.so", b"library")], "which its manifest does not name"),
        ([head({**LIBRARY, "libggml.so": b""}), *WHOLE], "lacks libggml.so"),
        ([head(), ("libllama.so", b"library")], "lacks bindings.json"),
        ([head(), ("bindings.json", b"{}")], "a bindings.json that is not the manifest's"),
        (
            [head(bindings=hashlib.sha256(b"{}").hexdigest()), ("bindings.json", b"{}"), WHOLE[1]],
            "a bindings.json that cannot be read",
        ),
        ([], "lacks manifest.json"),
    ],
)
def test_an_archive_that_someone_has_been_at_is_refused_whole(release, members, words):
    serve(release, tar(*members))
    with pytest.raises(KvsplitError, match="nothing was installed") as refusal:
        download.install(download.find())
    assert words in refusal.value.message and not isinstance(refusal.value, download.NothingFits)
    assert nothing_there()


def test_a_build_for_another_version_of_the_program_does_not_go_among_the_builds(release):
    other = definitions.text(defined.without("llama_decode")).encode()
    serve(release, tar(head(bindings=hashlib.sha256(other).hexdigest()), ("bindings.json", other), WHOLE[1]))
    with pytest.raises(download.NothingFits, match=r"is for another version of llm-kvsplit: llama_decode\(\) is gone"):
        download.install(download.find())
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
        (gzip.compress(b"no archive" * 200, mtime=0), {}, "cannot be unpacked"),
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


def test_a_list_that_is_none_is_told(release):
    for answer in (b"[]", b"<html>", b'{"builds": [{}]}'):
        release.at["/release/backends.json"] = body(answer)
        with pytest.raises(KvsplitError, match="is no list of builds"):
            download.find()
