"""Pictures and sound as files: what they are, which of them libmtmd's readers can be given, and which a model takes.

A model takes them through a *projector* (mmproj), a second GGUF file. This module looks at bytes alone.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from .errors import KvsplitError
from .gguf_format import read_file

IMAGE, AUDIO = "image", "audio"
#: What llm calls the files of each kind (MIME types), for the formats that stb_image and miniaudio read in libmtmd.
TYPES = {
    IMAGE: frozenset({"image/png", "image/jpeg", "image/gif"}),
    AUDIO: frozenset({"audio/wav", "audio/x-wav", "audio/mpeg", "audio/mp3"}),
}
#: The smallest of each: a GIF of 1 x 1 pixels, and a second of silence.
SAMPLES = {
    IMAGE: b"GIF89a"
    + bytes((1, 0, 1, 0, 0x80, 0, 0, 90, 120, 150, 0, 0, 0))
    + b","
    + bytes((0, 0, 0, 0, 1, 0, 1, 0, 0, 2, 2, 0x44, 1, 0))
    + b";",
    AUDIO: struct.pack("<4sI8sIHHIIHH4sI", b"RIFF", 8036, b"WAVEfmt ", 16, 1, 1, 8000, 8000, 1, 8, b"data", 8000)
    + b"\x80" * 8000,
}
#: Words for messages.
NAMES = {IMAGE: "pictures", AUDIO: "sound"}
#: Where a projector's header says that it takes each kind.
_KEYS = {IMAGE: "clip.has_vision_encoder", AUDIO: "clip.has_audio_encoder"}
#: Decoding a JPEG takes up to twelve bytes a pixel. No model looks at more than a few million of them.
MAX_PIXELS = 64_000_000
#: Half a GB of samples at 16 kHz.
MAX_SECONDS = 7200
#: Samples as numbers (also with a longer header), as floats, and in the two telephone codes.
_PLAIN_WAV = (1, 3, 6, 7, 0xFFFE)
_LOWEST_RATE = 1000
#: Bytes of an MP3's shortest frame (8 kbit/s at 24 kHz), of what may stand before the count of frames in its first, and of
#: a second at the most that is usual (320 kbit/s).
_SHORTEST_FRAME, _FIRST_FRAME, _MP3_BYTES = 24, 200, 40_000


@dataclass(frozen=True)
class Medium:
    """A picture, or sound, of a conversation."""

    #: For messages: its path or address.
    name: str
    content: bytes


def kind(content: bytes) -> str | None:
    """Told by the first bytes, as libmtmd tells it; None for anything else."""
    if content.startswith((b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF8")):
        return IMAGE
    if content[:4] == b"RIFF" and content[8:12] == b"WAVE":
        return AUDIO
    mp3 = content.startswith(b"ID3") or (content[:1] == b"\xff" and content[1:2] >= b"\xe0")
    return AUDIO if mp3 else None


def check(medium: Medium, takes: tuple[str, ...]) -> None:
    """Raises KvsplitError for a file that libmtmd cannot read, or would read at any cost in memory.

    Its readers believe what a header says of its length, and a process that cannot have the memory dies of it.
    """
    what = kind(medium.content)
    if not medium.content:
        raise KvsplitError(f"{medium.name} is empty: give a file with something in it.")
    if what is None:
        raise KvsplitError(f"{medium.name} is none of PNG, JPEG, GIF, WAV and MP3: convert it to one of them.")
    if what not in takes:
        raise KvsplitError(
            f"{medium.name} holds {NAMES[what]}, and this model's projector takes {_listed(takes)} alone."
        )
    (_check_image if what == IMAGE else _check_audio)(medium)


def _listed(takes: tuple[str, ...]) -> str:
    return " and ".join(NAMES[each] for each in takes)


def damaged(medium: Medium) -> KvsplitError:
    return KvsplitError(f"{medium.name} cannot be read: it is damaged, or cut short.")


def _check_image(medium: Medium) -> None:
    size = image_size(medium.content)
    if size is None or not all(size):
        raise damaged(medium)
    if size[0] * size[1] > MAX_PIXELS:
        raise KvsplitError(
            f"{medium.name} has {size[0]} x {size[1]} pixels, more than {MAX_PIXELS // 10**6} million: make it smaller."
        )


def image_size(content: bytes) -> tuple[int, int] | None:
    """Width and height, as the header of a PNG, GIF or JPEG has them; None where it is cut short."""
    try:
        if content.startswith(b"\x89PNG"):
            return struct.unpack_from(">II", content, 16)
        if content.startswith(b"GIF8"):
            return struct.unpack_from("<HH", content, 6)
        return _jpeg_size(content)
    except struct.error:
        return None


def _jpeg_size(content: bytes) -> tuple[int, int] | None:
    at = 2
    while True:
        marker, length = struct.unpack_from(">HH", content, at)
        if marker == 0xFFFF:  # padding
            at += 1
        elif 0xFFC0 <= marker <= 0xFFCF and marker not in (0xFFC4, 0xFFC8, 0xFFCC):  # a frame, of any compression
            height, width = struct.unpack_from(">HH", content, at + 5)
            return width, height
        elif marker < 0xFF01 or length < 2:
            return None
        else:
            at += 2 + length


def _check_audio(medium: Medium) -> None:
    content = medium.content
    seconds = _wav_seconds(content) if content[:4] == b"RIFF" else _mp3_seconds(content)
    if seconds is None:
        raise damaged(medium)
    if seconds > MAX_SECONDS:
        raise KvsplitError(f"{medium.name} is longer than {MAX_SECONDS // 3600} hours: give a part of it.")


def _wav_seconds(content: bytes) -> float | None:
    """None where a header promises more than the file holds, or something that is no plain WAV."""
    chunks = {name: (at, length) for name, at, length in _chunks(content)}
    try:
        at, _ = chunks[b"fmt "]
        form, channels, rate, align = struct.unpack_from("<HHI4xH", content, at)
        at, length = chunks[b"data"]
        n_samples = length // align
        promised = struct.unpack_from("<I", content, chunks[b"fact"][0])[0] if b"fact" in chunks else 0
    except (KeyError, struct.error, ZeroDivisionError):
        return None
    plain = form in _PLAIN_WAV and channels and align >= channels and rate >= _LOWEST_RATE
    return n_samples / rate if plain and at + length <= len(content) and promised <= n_samples else None


def _chunks(content: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Name, place and length of each chunk of a RIFF file."""
    at = 12
    while at + 8 <= len(content):
        name, length = struct.unpack_from("<4sI", content, at)
        yield name, at + 8, length
        at += 8 + length + length % 2


def _mp3_seconds(content: bytes) -> float | None:
    """At least so many, for an MP3 as it usually is; None where its header promises more frames than it has room for."""
    start = 0
    if content.startswith(b"ID3"):  # a tag whose length is written in sevens of bits
        start = 10 + sum((byte & 0x7F) << 7 * (3 - i) for i, byte in enumerate(content[6:10]))
    for name in (b"Xing", b"Info"):
        at = content.find(name, start, start + _FIRST_FRAME)
        if at >= 0 and len(content) >= at + 12:
            flags, promised = struct.unpack_from(">II", content, at + 4)
            if flags & 1 and promised > len(content) // _SHORTEST_FRAME:
                return None
    return (len(content) - start) / _MP3_BYTES if start < len(content) else None


def projector_takes(path: Path) -> tuple[str, ...]:
    """The kinds that a projector's header names. Raises KvsplitError for another file, and for one that names none."""
    meta = read_file(path).meta
    if meta.get("general.architecture") != "clip":
        raise KvsplitError(f"{path} is no projector (mmproj): give the one that was published with the model.")
    takes = tuple(each for each, key in _KEYS.items() if meta.get(key) is True)
    if not takes:
        raise KvsplitError(f"{path} is a projector for neither pictures nor sound: give the one of this model.")
    return takes


def projectors_beside(model: Path) -> list[Path]:
    """The files in the model's folder that are named as projectors usually are."""
    return sorted(path for path in model.parent.glob("*.gguf") if "mmproj" in path.name.lower() and path != model)
