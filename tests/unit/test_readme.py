"""The README and the table of features show what the code and the tests say."""

import subprocess
import sys
from pathlib import Path

README = Path(__file__).parents[2] / "README.md"
FEATURES = README.parent / "docs" / "use" / "features.md"
KEYS = README.parent / "docs" / "evidence" / "keys.md"


def test_the_tables_are_made_from_code_and_tests():
    subprocess.run([sys.executable, "-m", "cogapp", "--check", str(README), str(FEATURES), str(KEYS)], check=True)


def test_the_two_commands_are_there_word_for_word():
    text = README.read_text()
    assert (
        "\n    pip install uv && uv run llm -m kvsplit-demo -o kv_key_bits 8 -o kv_value_bits 4 'def fibonacci(n):'\n"
        in text
    )
    assert "\n    pip install uv && uv run pytest\n" in text
