"""What of a picture or of sound is looked at before libmtmd sees it."""

import io
import struct
import wave

import pytest
from PIL import Image

from llm_kvsplit import media
from llm_kvsplit.errors import KvsplitError
from llm_kvsplit.media import AUDIO, IMAGE, Medium
from tests.support.media import JPEG, OTHER_PNG, PNG, tone
from tests.support.tiny_gguf import gguf_bytes

BOTH = (IMAGE, AUDIO)


def picture(form: str, size: tuple[int, int] = (31, 17), **options) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, (200, 30, 90)).save(file, form, **options)
    return file.getvalue()


def refused(content: bytes, takes=BOTH) -> str:
    with pytest.raises(KvsplitError) as refusal:
        media.check(Medium("a file", content), takes)
    assert refusal.value.message.startswith("a file ")
    return refusal.value.message


@pytest.mark.parametrize("path", [PNG, OTHER_PNG, JPEG], ids=lambda path: path.name)
def test_sizes_of_others_pictures(path):
    assert media.image_size(path.read_bytes()) == Image.open(path).size


@pytest.mark.parametrize(
    "content",
    [
        picture("PNG"),
        picture("GIF"),
        picture("JPEG"),
        picture("JPEG", progressive=True),
        picture("JPEG", exif=b"Exif\0\0" * 9),
    ],
    ids=["PNG", "GIF", "JPEG", "progressive", "exif"],
)
def test_sizes_of_every_format(content):
    assert media.image_size(content) == (31, 17)
    media.check(Medium("a file", content), BOTH)


def test_samples_are_whole():
    for kind, content in media.SAMPLES.items():
        assert media.kind(content) == kind
        media.check(Medium("a sample", content), BOTH)
    assert Image.open(io.BytesIO(media.SAMPLES[IMAGE])).convert("RGB").getpixel((0, 0)) == (90, 120, 150)
    with wave.open(io.BytesIO(media.SAMPLES[AUDIO])) as sound:
        assert sound.getnframes() == 8000


@pytest.mark.parametrize("form", ["PNG", "GIF", "JPEG"])
def test_a_picture_cut_within_its_header(form):
    content = picture(form)
    for length in range(8, 20):
        if media.kind(content[:length]) and media.image_size(content[:length]) is None:
            assert "damaged, or cut short" in refused(content[:length])
    assert media.image_size(content[:9]) is None


def test_what_cannot_be_read():
    assert "is empty" in refused(b"")
    assert "none of PNG" in refused(b"hello")
    assert "none of PNG" in refused(b"RIFF\0\0\0\0WEBPVP8 ")
    assert "takes pictures alone" in refused(tone(), (IMAGE,))
    assert "takes sound alone" in refused(picture("PNG"), (AUDIO,))


def test_pictures_that_would_take_any_memory():
    content = bytearray(picture("PNG"))
    content[16:24] = struct.pack(">II", 100_000, 100_000)
    assert "100000 x 100000 pixels" in refused(bytes(content))
    content[16:24] = struct.pack(">II", 0, 7)
    assert "damaged" in refused(bytes(content))


def test_sound_of_every_kind():
    media.check(Medium("a file", tone(1.5, 44_100)), BOTH)
    media.check(Medium("a file", b"ID3\3\0\0\0\0\0\0" + b"\xff\xfb\x90\0" + bytes(500)), BOTH)


def promising(**changed: int) -> bytes:
    """A WAV with other numbers in its header."""
    content = bytearray(tone())
    places = {"form": (20, "<H"), "channels": (22, "<H"), "rate": (24, "<I"), "align": (32, "<H"), "length": (40, "<I")}
    for name, value in changed.items():
        struct.pack_into(places[name][1], content, places[name][0], value)
    return bytes(content)


@pytest.mark.parametrize(
    "content",
    [
        promising(length=2**31),
        promising(rate=1),
        promising(channels=0),
        promising(align=0),
        promising(form=2),
        tone()[:30],
        tone()[:-1],
        tone()[:36] + struct.pack("<4sII", b"fact", 4, 2**31) + tone()[36:],
        b"ID3\3\0\0\0\0\0\0" + b"\xff\xfb\x90\0" + bytes(32) + struct.pack(">4sII", b"Xing", 1, 2**31) + bytes(400),
        b"ID3\3\0\0\x7f\x7f\x7f\x7f" + bytes(90),
    ],
    ids=["length", "rate", "channels", "align", "ADPCM", "no data", "a byte less", "fact", "Xing", "a tag alone"],
)
def test_sound_whose_header_promises_too_much(content):
    assert "damaged, or cut short" in refused(content)


def test_sound_of_many_hours():
    assert "longer than 2 hours" in refused(_hours(3))


def _hours(hours: int) -> bytes:
    samples = hours * 3600 * 1000
    return struct.pack(
        "<4sI8sIHHIIHH4sI", b"RIFF", 36 + samples, b"WAVEfmt ", 16, 1, 1, 1000, 1000, 1, 8, b"data", samples
    ) + bytes(samples)


def test_what_a_projector_takes(tmp_path):
    file = tmp_path / "mmproj.gguf"
    clip = {"general.architecture": "clip", "general.type": "mmproj"}
    for vision, audio, takes in ((True, False, (IMAGE,)), (False, True, (AUDIO,)), (True, True, BOTH)):
        file.write_bytes(gguf_bytes({**clip, "clip.has_vision_encoder": vision, "clip.has_audio_encoder": audio}))
        assert media.projector_takes(file) == takes
    file.write_bytes(gguf_bytes({**clip, "clip.has_text_encoder": True}))
    with pytest.raises(KvsplitError, match="neither pictures nor sound"):
        media.projector_takes(file)
    file.write_bytes(gguf_bytes())
    with pytest.raises(KvsplitError, match="is no projector"):
        media.projector_takes(file)
