"""Archives of builds, as a release has them, and as someone has been at them."""

import hashlib
import io
import json
import tarfile

from llm_kvsplit.builds import definitions, download
from tests.support import defined
from tests.support.web import body

ID = "kvsplit-0c1e570-0123456789"
BINDINGS = definitions.text(defined.whole()).encode()


def manifest(libraries: dict[str, bytes], **changed) -> dict:
    return {
        "id": ID,
        "created": "2026-11-22T00:00:00+00:00",
        "upstream_commit": "0" * 40,
        "features": [],
        "bindings": hashlib.sha256(BINDINGS).hexdigest(),
        "libraries": {name: hashlib.sha256(data).hexdigest() for name, data in libraries.items()},
        **changed,
    }


def serve(web, data: bytes, **changed):
    """Put another archive into the release, with an entry that is true of it."""
    entry = {
        "file": "other.tar.gz",
        "id": ID,
        "platform": download.here(),
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
#: What follows the manifest in an archive that is whole.
WHOLE = (("bindings.json", BINDINGS), ("libllama.so", b"library"))


def head(libraries=LIBRARY, **changed):
    return "manifest.json", json.dumps(manifest(libraries, **changed)).encode()
