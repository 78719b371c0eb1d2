"""Make the files of a release that ``llm kvsplit backend install`` downloads.

``pack_backends.py pack BUILD FOLDER`` puts a build's folder into an archive, with an entry for the list beside it.
``pack_backends.py list FOLDER`` makes ``backends.json`` and ``SHA256SUMS`` of all archives that lie in FOLDER then.
The same build gives the same archive on any machine.
"""

import gzip
import hashlib
import io
import json
import sys
import tarfile
from pathlib import Path


def pack(build: Path, folder: Path) -> Path:
    """``FOLDER/ID-PLATFORM.tar.gz`` and its entry, ``….tar.gz.json``; the archive."""
    from llm_kvsplit.builds.download import here  # here, so that ``list`` needs nothing installed

    manifest = json.loads((build / "manifest.json").read_text())
    folder.mkdir(parents=True, exist_ok=True)
    archive = folder / f"{manifest['id']}-{here()}.tar.gz"
    with open(archive, "wb") as raw, gzip.GzipFile("", "wb", mtime=0, fileobj=raw) as packed:  # noqa: SIM117
        with tarfile.open(fileobj=packed, mode="w", format=tarfile.USTAR_FORMAT) as opened:
            for name in (
                "manifest.json",
                "bindings.json",
                *sorted(manifest["libraries"]),
            ):  # the manifest first: it says what may follow
                data = (build / name).read_bytes()
                member = tarfile.TarInfo(name)
                member.size, member.mode = len(data), 0o644
                opened.addfile(member, io.BytesIO(data))
    entry = {
        "file": archive.name,
        "id": manifest["id"],
        "platform": here(),
        "upstream_commit": manifest["upstream_commit"],
        "size": archive.stat().st_size,
        "sha256": hashlib.sha256(archive.read_bytes()).hexdigest(),
    }
    archive.with_name(f"{archive.name}.json").write_text(json.dumps(entry, indent=1) + "\n")
    return archive


def write_list(folder: Path) -> None:
    """``backends.json`` and ``SHA256SUMS`` for the archives in a folder; their entries go."""
    entries = sorted(folder.glob("*.tar.gz.json"))
    builds = [json.loads(entry.read_text()) for entry in entries]
    (folder / "backends.json").write_text(json.dumps({"schema": 1, "builds": builds}, indent=1) + "\n")
    files = [*(each["file"] for each in builds), "backends.json"]
    sums = [f"{hashlib.sha256((folder / name).read_bytes()).hexdigest()}  {name}\n" for name in files]
    (folder / "SHA256SUMS").write_text("".join(sums))
    for entry in entries:
        entry.unlink()


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["pack", build, folder]:
            print(pack(Path(build), Path(folder)))
        case ["list", folder]:
            write_list(Path(folder))
        case _:
            sys.exit(__doc__)
