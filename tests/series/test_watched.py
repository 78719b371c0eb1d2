"""What a rebase shows of upstream's changes that merge without a conflict."""

import pytest

from tests.support.worlds import make_world, run

pytestmark = pytest.mark.usefixtures("cache")

FILLER = [f"int filler_{number};" for number in range(12)]


def source(*functions: str) -> bytes:
    """A C file of functions with room between them, so that a change of one is no change of another."""
    return "\n".join(part for function in functions for part in (function, *FILLER)).encode() + b"\n"


ASK_K = "bool use_f16(op * t) {\n    return t->k->type == F16;\n}"
ASK_BOTH = "bool use_f16(op * t) {\n    return t->k->type == F16 && t->v->type == F16;\n}"
OTHER = "int size(op * t) {\n    return t->n;\n}"
#: What upstream adds: a second place that asks the type of K alone, which nothing in the patch conflicts with.
PLANTED = "bool use_tensor(op * t) {\n    return t->k->type == F16;\n}"
HARMLESS = "bool same(op * t) {\n    return t->k->type == t->v->type;\n}"


@pytest.fixture
def world(tmp_path):
    upstream = {
        "base": {"ops.c": source(ASK_K, OTHER)},
        "second": {"ops.c": source(ASK_K, OTHER, PLANTED, HARMLESS)},
        "inside": {
            "ops.c": source(ASK_K.replace("{\n", "{\n    count(t);\n" + "    //\n" * 8, 1), OTHER + "\nint more;")
        },
    }
    patches = {"both": {"ops.c": source(ASK_BOTH, OTHER)}}
    return make_world(tmp_path / "project", upstream, patches, both={"watch_for": ("k->type without v->type",)})


def test_a_second_place_that_asks_what_the_patch_asks_is_shown(world):
    plan = run("rebase", "--plan", "second")
    assert "both                 clean" in plan
    (line,) = [line for line in plan.splitlines() if "ops.c:" in line]
    number = source(ASK_K, OTHER, PLANTED).decode().splitlines().index("bool use_tensor(op * t) {") + 2
    assert line.split() == ["both", f"ops.c:{number}", "return", "t->k->type", "==", "F16;"]
    assert "a patch watches for" in run("rebase", "second")


def test_nothing_is_shown_where_nothing_of_the_kind_is_new(world):
    assert "watches for" not in run("rebase", "--plan", "inside")


def test_upstreams_change_to_a_function_that_a_patch_changes_is_shown(world):
    plan = run("rebase", "--plan", "--diff", "inside")
    shown = plan.partition("both: ops.c\n")[2]
    assert "+    count(t);" in shown
    assert "int more" not in shown
    assert "ops.c\n@@" not in run("rebase", "--plan", "--diff", "second")


def test_the_field_survives_an_export(world):
    assert "Watch-For: k->type without v->type\n" in (world.patchset / "both.patch").read_text()
    before = world.files()
    run("export")
    assert world.files() == before
