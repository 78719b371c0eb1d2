import pygit2
import pytest

from kvsplit_patch import gitdiff, sources, store
from kvsplit_patch.errors import PatchError
from tests.support.worlds import make_tree

pytestmark = pytest.mark.usefixtures("cache")


def test_a_source_folder_is_the_tree_byte_for_byte(tmp_path):
    files = {
        "a/b.c": b"x\r\ny\n",
        ".gitattributes": b"* text eol=lf\n",
        "run": (gitdiff.EXECUTABLE, b"#!\n"),
        "link": (gitdiff.LINK, b"a/b.c"),
    }
    folder = sources.materialize(make_tree(files))
    assert (folder / "a/b.c").read_bytes() == b"x\r\ny\n"
    assert (folder / "link").is_symlink() and (folder / "run").stat().st_mode & 0o777 == 0o555
    assert (folder / "a/b.c").stat().st_mode & 0o777 == 0o444
    assert sources.materialize(make_tree(files)) == folder
    assert not [path for path in folder.parent.iterdir() if path != folder]


def test_a_tree_that_reaches_out_is_refused(tmp_path):
    """Written object by object, since libgit2 would not make such a tree itself."""
    repo = store.open_store()
    blob = repo.create_blob(b"x").raw
    bad = repo.odb.write(pygit2.enums.ObjectType.TREE, b"100644 ..\0" + blob)
    with pytest.raises(PatchError, match="do not use this source"):
        sources.materialize(str(bad))
    inner = repo.odb.write(pygit2.enums.ObjectType.TREE, b"100644 f\0" + blob)
    link = repo.create_blob(str(tmp_path).encode()).raw
    twice = repo.odb.write(pygit2.enums.ObjectType.TREE, b"120000 a\0" + link + b"40000 a\0" + inner.raw)
    with pytest.raises(PatchError, match="do not use this source"):
        sources.materialize(str(twice))
    assert not (tmp_path / "f").exists()
