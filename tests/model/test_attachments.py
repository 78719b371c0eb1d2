"""Pictures and sound, through llm as a person calls it, and through llama-cpp-python's own bindings of libmtmd."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from llm_kvsplit import media, registry
from llm_kvsplit.engine import loaded
from llm_kvsplit.engine.context import Context, ContextOptions
from llm_kvsplit.engine.projector import Projector, ProjectorOptions
from llm_kvsplit.engine.weights import LoadOptions, Weights
from llm_kvsplit.kvtypes import CachePair
from tests.support import library, sighted
from tests.support.media import JPEG, OTHER_PNG, PNG, tone
from tests.support.projectors import write_llava

GREEDY = ("-o", "temperature", "0", "-o", "max_tokens", "16", "-o", "n_threads", "2")
MARKER = "<__media__>"


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return sighted.write(tmp_path_factory.mktemp("sighted"))


@pytest.fixture
def registered(models, user_path):
    for each in models.values():
        each.register()
    return models


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    file = tmp_path_factory.mktemp("sound") / "tone.wav"
    file.write_bytes(tone(1.5))
    return file


def reference(model, prompt: str, *files: Path, n: int = 16) -> str:
    command = [
        sys.executable,
        "-m",
        "tests.support.mtmd_reference",
        str(model.model),
        str(model.mmproj),
        str(n),
        prompt,
    ]
    environment = {**os.environ, "LLAMA_CPP_LIB_PATH": str(library.BUILD), "MTMD_CPP_LIB": str(library.BUILD)}
    done = subprocess.run(
        [*command, *map(str, files)], env=environment, capture_output=True, text=True, errors="replace"
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def attached(*files: Path) -> list[str]:
    return [word for file in files for word in ("-a", str(file))]


@pytest.mark.feature("pictures")
@pytest.mark.parametrize(
    ("name", "files"),
    [("llava", (PNG,)), ("llava", (JPEG, PNG)), ("tiles", (JPEG,)), ("mrope", (JPEG, OTHER_PNG)), ("both", (PNG,))],
    ids=lambda value: value if isinstance(value, str) else "+".join(file.name for file in value),
)
def test_an_answer_about_pictures_is_that_of_llama_cpp_pythons_bindings(llm, registered, name, files):
    answer = llm("-m", name, *attached(*files), *GREEDY, "What is this?").stdout
    prompt = f"<user>What is this?{MARKER * len(files)}<assistant>"
    assert answer == reference(registered[name], prompt, *files) + "\n"


@pytest.mark.feature("sound")
def test_an_answer_about_sound_is_that_of_llama_cpp_pythons_bindings(llm, registered, sound):
    for name in ("ultravox", "both"):
        answer = llm("-m", name, *attached(sound), *GREEDY, "What is this?").stdout
        assert answer == reference(registered[name], f"<user>What is this?{MARKER}<assistant>", sound) + "\n"


def test_a_picture_makes_a_difference_and_so_does_its_place(llm, registered):
    def answer(*words):
        return llm("-m", "llava", *words, *GREEDY, "What is this?").stdout

    answers = [answer(*attached(*files)) for files in ((PNG,), (OTHER_PNG,), (PNG, OTHER_PNG), (OTHER_PNG, PNG), ())]
    assert len(set(answers)) == len(answers)


def test_a_picture_without_a_text_and_a_system_prompt(llm, registered):
    answer = llm("-m", "llava", *attached(PNG), *GREEDY, "-s", "Be brief.").stdout
    assert answer == reference(registered["llava"], f"<system>Be brief.<user>{MARKER}<assistant>", PNG) + "\n"


def test_the_marker_in_a_text_is_text(llm, registered, logged):
    """libmtmd would take it for a picture, and refuse a prompt with one too many."""
    for question, files in ((f"What is {MARKER}?", (PNG,)), (f"{MARKER}{MARKER}", ())):
        llm("-m", "llava", *attached(*files), *GREEDY, question)
        # A token for each letter, for each role, and 16 for a picture.
        assert logged()["response_json"]["prompt_tokens"] == len(question) + 2 + 16 * len(files)


@pytest.mark.parametrize("name", ["llava", "tiles", "mrope", "both"])
def test_another_process_starts_from_the_stored_state(llm, registered, logged, sound, name):
    """The second question has the first one's picture before it, and one of its own; the third has no attachment."""
    files = (JPEG, sound if name == "both" else PNG)
    llm("-m", name, *attached(files[0]), *GREEDY, "What is this, would you say?")
    stored = llm("-c", *attached(files[1]), *GREEDY, "And this?").stdout
    response = logged()["response_json"]
    first = response["session"]["restored_tokens"]
    assert first > 16 and response["prompt_tokens"] > first
    last = llm("-c", *GREEDY, "And both?").stdout
    assert logged()["response_json"]["session"]["restored_tokens"] > first

    llm("logs", "off")
    shutil.rmtree(registry.registry_file().parent / "sessions")
    llm("-m", name, *attached(files[0]), *GREEDY, "--log", "-o", "kv_sessions", "false", "What is this, would you say?")
    anew = llm("-c", *attached(files[1]), *GREEDY, "--log", "-o", "kv_sessions", "false", "And this?").stdout
    assert logged()["response_json"]["reused_tokens"] == 0
    assert (anew, llm("-c", *GREEDY, "-o", "kv_sessions", "false", "And both?").stdout) == (stored, last)


def test_every_pair_of_types(llm, registered, logged):
    names = {16: "f16", 8: "q8_0", 4: "iq4_nl"}
    for keys, values in ((16, 16), (8, 8), (8, 4), (4, 8)):
        bits = ("-o", "kv_key_bits", str(keys), "-o", "kv_value_bits", str(values))
        llm("-m", "llava", *attached(PNG), *GREEDY, *bits, "What is this, would you say?")
        cache = logged()["response_json"]["kv_cache"]
        assert (cache["key_type"], cache["value_type"]) == (names[keys], names[values])
        llm("-c", *GREEDY, *bits, "And?")
        assert logged()["response_json"]["session"]["restored_tokens"] > 16


def test_another_picture_is_another_beginning(models):
    """The numbers that stand for a picture come from its bytes, and from the projector."""
    weights = Weights(LoadOptions(models["llava"].model))
    try:
        projectors = [
            Projector(weights, ProjectorOptions(models[name].mmproj, use_gpu=False)) for name in ("llava", "both")
        ]
        parts = [("<user>", True), media.Medium("a", PNG.read_bytes()), ("?", True)]
        other = [("<user>", True), media.Medium("a", OTHER_PNG.read_bytes()), ("?", True)]
        tokens = projectors[0].tokens(parts)
        assert tokens == projectors[0].tokens([parts[0], media.Medium("b", PNG.read_bytes()), parts[2]])
        for another in (projectors[0].tokens(other), projectors[1].tokens(parts)):
            assert len(another) == len(tokens) == 18
            assert [a == b for a, b in zip(tokens, another)] == [True, *[False] * 16, True]
        context = Context(weights, ContextOptions(CachePair.from_bits(16, 16), 256, 2))
        projectors[0].tokens(parts)
        projectors[0].evaluate(context, tokens, lambda: False)
        assert context.tokens == tokens
        assert context.keep_prefix([*tokens[:9], 1, 2]) == 1, "half a picture was kept"
        for projector in projectors:
            projector.close()
        context.close()
    finally:
        weights.close()


def test_attachments_llm_is_told_of(llm, registered):
    listed = llm("models", "--options", "-q", "llava").stdout
    assert "image/gif, image/jpeg, image/png" in listed and "audio" not in listed
    assert "audio/wav" in llm("models", "--options", "-q", "ultravox").stdout
    assert "Attachment" not in llm("models", "--options", "-q", "kvsplit-demo").stdout


def test_adding_a_model_takes_the_projector_beside_it(run, models, tmp_path, capfd):
    model = shutil.copy(models["llava"].model, tmp_path / "seeing.gguf")
    assert "through" not in run("add", model, "--name", "blind")
    shutil.copy(models["both"].mmproj, tmp_path / "mmproj-F16.gguf")
    assert "It takes pictures and sound through mmproj-F16.gguf." in run("add", model)
    assert registry.get("seeing").media == ("image", "audio")
    assert "takes pictures and sound" in run("models")
    assert "through" not in run("add", model, "--name", "unseeing", "--mmproj", "none")
    shutil.copy(models["llava"].mmproj, tmp_path / "mmproj-BF16.gguf")
    assert "Several projectors lie beside it" in run("add", model, "--name", "several")
    assert registry.get("several").mmproj is None
    assert "through mmproj-BF16" in run("add", model, "--name", "given", "--mmproj", str(tmp_path / "mmproj-BF16.gguf"))


def test_projectors_that_do_not_fit(run, models, tmp_path):
    model = shutil.copy(models["llava"].model, tmp_path / "seeing.gguf")

    def refused(mmproj):
        output = run("add", model, "--name", "refused", "--mmproj", str(mmproj), code=1)
        assert output.startswith("Error: ") and output.count("\n") == 1, output
        return output

    other = write_llava(tmp_path / "mmproj-other.gguf", 64)
    assert "another model's projector: it makes vectors of 64 values, and this model takes 128" in refused(other)
    assert "is no projector" in refused(model)
    assert "does not exist" in refused(tmp_path / "none.gguf")
    assert "The projector beside it is not used" in run("add", model)
    assert registry.get("seeing").mmproj is None
    other.write_bytes(models["llava"].mmproj.read_bytes()[:-1000])
    assert "bytes are missing" in refused(other)
    # A table of positions for fewer patches than a picture has: libmtmd's own arithmetic is the first to see it.
    write_llava(other, sighted.WIDTH, side=56, positions=9)
    assert "it crashed on it (SIGABRT)" in refused(other)


def errors(llm, *words):
    done = llm(*words, *GREEDY, "What?", code=1)
    assert done.stderr.startswith("Error: ") and done.stderr.count("\n") == 1, done.stderr
    return done.stderr


def test_attachments_that_cannot_be_read(llm, registered, tmp_path, sound):
    broken, text, cut, empty = (tmp_path / name for name in ("broken.png", "text.png", "cut.wav", "empty.png"))
    broken.write_bytes(PNG.read_bytes()[:1000])
    text.write_text("hello")
    cut.write_bytes(sound.read_bytes()[:-1])
    empty.touch()
    image, wav = "image/png", "audio/wav"
    assert "broken.png cannot be read: it is damaged" in errors(llm, "-m", "llava", "-a", str(broken))
    assert "none of PNG" in errors(llm, "-m", "llava", "--at", str(text), image)
    assert "empty.png is empty" in errors(llm, "-m", "llava", "--at", str(empty), image)
    assert "cut.wav cannot be read" in errors(llm, "-m", "both", "--at", str(cut), wav)
    assert "holds sound, and this model's projector takes pictures alone" in errors(
        llm, "-m", "llava", "--at", str(sound), image
    )
    assert "has no projector (mmproj)" in errors(llm, "-m", "kvsplit-demo", "-a", str(PNG))
    url = "http://127.0.0.1:1/a.png"
    assert f"{url} could not be fetched" in errors(llm, "-m", "llava", "--at", url, image)


def test_an_attachment_that_has_gone_and_a_model_that_takes_none(llm, registered, tmp_path):
    picture = Path(shutil.copy(PNG, tmp_path / "picture.png"))
    llm("-m", "llava", "-a", str(picture), *GREEDY, "What is this?")
    registry.add(registry.Entry("blind", registered["llava"].model))
    assert "blind has no projector (mmproj)" in errors(llm, "-c", "-m", "blind")
    picture.unlink()
    assert "picture.png cannot be read (No such file or directory)" in errors(llm, "-c", "-m", "llava")
    registry.add(registry.Entry("lost", registered["llava"].model, mmproj=tmp_path / "gone", media=("image",)))
    assert "gone does not exist" in errors(llm, "-m", "lost", "-a", str(PNG))


def test_a_picture_larger_than_the_context(llm, registered):
    message = errors(llm, "-m", "mrope", *attached(JPEG, OTHER_PNG), "-o", "n_ctx", "256")
    assert "of them for attachments, and the context holds 256" in message


def test_sound_of_a_sample(llm, registered, tmp_path):
    file = tmp_path / "click.wav"
    file.write_bytes(tone(1 / 16000 + 1e-9, 16000))
    assert "holds no sound" in errors(llm, "-m", "both", "-a", str(file))


def test_one_process_keeps_its_projector(registered):
    import llm as llm_library

    conversation = llm_library.get_model("llava").conversation()
    attachment = llm_library.Attachment(content=PNG.read_bytes(), type="image/png")
    options = {"temperature": 0, "max_tokens": 8}
    try:
        conversation.prompt("What is this?", attachments=[attachment], **options).text()
        projector = loaded._loaded.projector
        conversation.prompt("And?", **options).text()
        assert loaded._loaded.projector is projector
        assert conversation.responses[-1].response_json["reused_tokens"] > 16
    finally:
        loaded.close()
