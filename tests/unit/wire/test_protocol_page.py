"""The page that describes the protocol says what the code does."""

import importlib.util
import re
from pathlib import Path

import asm.wire
from asm.wire.frames import MAX_FRAME
from asm.wire.messages import decode
from asm.wire.streams import PIECE, WINDOW

PAGE = Path(asm.wire.__file__).with_name("PROTOCOL.md").read_text()
TOOL = Path(__file__).parents[2] / "tools" / "protocol_vectors.py"


def tool():
    spec = importlib.util.spec_from_file_location("protocol_vectors", TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_vectors_are_what_the_code_writes():
    vectors = tool()
    listed = re.findall(r"^([\[{].*)\n([0-9a-f]{16,})$", PAGE, re.MULTILINE)
    assert listed == [(vectors.meaning(data), data.hex()) for data in vectors.vectors()]


def test_the_vectors_say_what_stands_above_them():
    for said, hexadecimal in re.findall(r"^([\[{].*)\n([0-9a-f]{16,})$", PAGE, re.MULTILINE):
        data = bytes.fromhex(hexadecimal)
        assert int.from_bytes(data[:4], "big") == len(data) - 4
        assert tool().meaning(data) == said
        assert decode(data[4:])[0] in (0, 1, 2)


def test_the_limits_are_those_in_force():
    for limit in (MAX_FRAME, PIECE, WINDOW):
        assert f"{limit:,} bytes" in PAGE
