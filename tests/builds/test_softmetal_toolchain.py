"""What softmetal keeps in the cache folder, with several checkouts at once."""

import os
import shutil
import subprocess
import sys

import pytest

from softmetal import toolchain

pytestmark = [pytest.mark.build, pytest.mark.timeout(600)]

PRINT = "from softmetal import toolchain; print(toolchain.wrappers()['cc'], toolchain.device_library())"


def test_softmetal_checkouts_share_what_is_the_same_and_do_not_meet_where_they_differ(tmp_path):
    cache = tmp_path / "cache"
    clang = toolchain.folder() / f"ziglang-{toolchain._ZIGLANG}"
    toolchain.clang()
    (cache / "softmetal").mkdir(parents=True)
    (cache / "softmetal" / clang.name).symlink_to(clang)
    checkouts = [tmp_path / name for name in ("one", "same", "other")]
    for checkout in checkouts:
        shutil.copytree(toolchain.HERE, checkout / "softmetal", ignore=shutil.ignore_patterns("__pycache__"))
    with (checkouts[2] / "softmetal/objc/Foundation/Foundation.h").open("a") as header:
        header.write("#define OF_THE_OTHER 2\n")

    running = [
        subprocess.Popen(
            [sys.executable, "-c", PRINT],
            env={**os.environ, "KVSPLIT_CACHE": str(cache), "PYTHONPATH": str(checkout)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for checkout in checkouts
    ]
    (one, device), same, (other, others_device) = (process.communicate()[0].split() for process in running)
    assert [one, device] == same
    assert one != other and device == others_device

    for checkout in checkouts:  # nothing of them is needed any more
        shutil.rmtree(checkout)
    source = tmp_path / "source.m"
    source.write_text("#include <Foundation/Foundation.h>\nint of_the_other = OF_THE_OTHER;\n")
    compiled = {
        name: subprocess.run([program, "-c", source, "-o", tmp_path / "object"], capture_output=True).returncode
        for name, program in (("one", one), ("other", other))
    }
    assert compiled == {"one": 1, "other": 0}


def test_softmetal_an_exception_that_upstream_catches_compiles(tmp_path):
    source = tmp_path / "source.m"
    source.write_text(
        "#include <Foundation/Foundation.h>\n"
        "int length(id x) { @try { [x init]; return 0; } @catch (NSException * e) { return (int) [[e reason] length]; } }\n"
    )
    command = [toolchain.wrappers()["cc"], "-fPIC", "-c", source, "-o", tmp_path / "source.o"]
    assert subprocess.run(command, capture_output=True, text=True).returncode == 0
    # Every symbol that this needs is the device's, or the C library's.
    command = [
        os.environ.get("CXX", "c++"),
        "-shared",
        "-Wl,-z,defs",
        tmp_path / "source.o",
        toolchain.device_library(),
    ]
    linked = subprocess.run([*command, "-o", tmp_path / "source.so"], capture_output=True, text=True)
    assert linked.returncode == 0, linked.stderr
