import os
import tempfile

import pytest

#: No test sees the models, states and builds of the person who runs it.
NOBODY = tempfile.TemporaryDirectory(prefix="llm-kvsplit-tests-")
os.environ["LLM_USER_PATH"] = NOBODY.name
# llm starts anew in many tests; without compiled bytecode each start costs a second.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)


def pytest_addoption(parser):
    parser.addoption("--build", action="store_true", help="also run the tests that compile llama.cpp (minutes)")
    parser.addoption(
        "--long", action="store_true", help="also run the tests that need many releases or further builds (an hour)"
    )


def pytest_collection_modifyitems(config, items):
    compile_too = config.getoption("--build") or os.environ.get("CI")
    for item in items:
        if "build" in item.keywords and not compile_too:
            item.add_marker(pytest.mark.skip(reason="compiles llama.cpp: run with --build"))
        if "long" in item.keywords and not config.getoption("--long"):
            item.add_marker(pytest.mark.skip(reason="needs many releases or further builds: run with --long"))


@pytest.fixture
def user_path(tmp_path, monkeypatch):
    """An llm user directory for one test, where nothing is registered."""
    folder = tmp_path / "user"
    (folder / "kvsplit").mkdir(parents=True)
    monkeypatch.setenv("LLM_USER_PATH", str(folder))
    return folder


@pytest.fixture
def no_builds(user_path, monkeypatch):
    """The same, without the build that serves the other tests; the folder where builds are looked for."""
    monkeypatch.delenv("KVSPLIT_BUILDS", raising=False)
    return user_path / "kvsplit" / "backends"
