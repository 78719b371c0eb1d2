"""Pictures and sound that others made, and a sound that is computed."""

import io
import math
import struct
import wave
from pathlib import Path

import matplotlib

_DATA = Path(matplotlib.get_data_path())
PNG = _DATA / "images" / "matplotlib_large.png"
OTHER_PNG = _DATA / "images" / "home_large.png"
JPEG = _DATA / "sample_data" / "grace_hopper.jpg"


def tone(seconds: float = 1.0, rate: int = 8000) -> bytes:
    """A WAV file."""
    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(rate)
        samples = [int(9000 * math.sin(440 * 2 * math.pi * i / rate)) for i in range(int(seconds * rate))]
        out.writeframes(struct.pack(f"<{len(samples)}h", *samples))
    return file.getvalue()
