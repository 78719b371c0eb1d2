"""The bundled demo model and its held-out text. tools/demo_model/README.md says how they were made."""

from pathlib import Path

_HERE = Path(__file__).parent

MODEL: Path = _HERE / "kvsplit-demo.gguf"
MODEL_SHA256 = "57a31f518091c5a0ee0a26d929a3bd74273f78013034d4f981a619d6c2528cb0"

SMOKE_TEXT: Path = _HERE / "smoke.txt"  # under LICENSE-PSF.txt
SMOKE_SHA256 = "db92d5b9a0f623e39462c80907e26db076a5f9ce62b800d4ea018a9b81c114f4"
