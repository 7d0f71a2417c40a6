"""The format of an artifact's file, and that no change to it goes unnoticed."""

import hashlib
import struct
import zlib
from datetime import UTC, datetime

import pytest

from asm.adapters import FileArtifactStore
from asm.adapters.artifact_file import FileReader, header_size, pack_header
from asm.core.errors import Error
from asm.core.values import ArtifactInfo
from asm.testing.samples import refused

MIB = 1024 * 1024


@pytest.fixture
def store(tmp_path):
    with FileArtifactStore(root=tmp_path) as made:
        yield made


@pytest.fixture
def file(store, tmp_path):
    """The file of a small artifact."""
    store.put("ключ", b"some data")
    return next(path for path in (tmp_path / "objects").rglob("*") if path.is_file())


def test_the_file_is_as_documented(store, file):
    content, info = file.read_bytes(), store.stat("ключ")
    magic, size, digest, moment, key_size = struct.unpack_from(">8sQ32sqH", content)
    assert magic == b"ASMFILE\x01"
    assert size == 9
    assert digest == hashlib.sha256(b"some data").digest()
    assert datetime.fromtimestamp(moment / 1_000_000, UTC) == info.updated_at
    assert key_size == 8
    assert content[58:66].decode() == "ключ"
    assert content[66:70] == struct.pack(">I", zlib.crc32(content[:66]))
    assert content[70:] == b"some data"


def test_a_file_of_this_version_is_read_by_every_later_one(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(
        bytes.fromhex(
            "41534d46494c45010000000000000004"
            "3a6eb0790f39ac87c94f3856b2dd2c5d110e6811602261a9a923d3bb23adc8b7"
            "0006475ef6574e6e00036b65795e8735fd64617461"
        )
    )
    with FileReader(path, "key") as reader:
        assert reader.info.key == "key"
        assert reader.info.updated_at == datetime(2026, 1, 2, 3, 4, 5, 678_702, UTC)
        assert reader.readall() == b"data"


@pytest.mark.parametrize("key", ["k", "ключ", "x" * 1024, "🙂" * 256])
@pytest.mark.parametrize("moment", [datetime(1, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC)])
def test_headers_round_trip(tmp_path, key, moment):
    info = ArtifactInfo(key=key, byte_size=0, checksum_sha256=hashlib.sha256(b"").hexdigest(), updated_at=moment)
    packed = pack_header(info)
    assert len(packed) == header_size(key)
    (tmp_path / "file").write_bytes(packed)
    with FileReader(tmp_path / "file") as reader:
        assert reader.info == info
        assert reader.readall() == b""


def test_a_changed_byte_anywhere_is_noticed(store, file):
    content = file.read_bytes()
    for position in range(len(content)):
        for mask in (0x01, 0x80):
            changed = bytearray(content)
            changed[position] ^= mask
            file.write_bytes(changed)
            with refused("storage_read_failed", reason="damaged"):
                store.get("ключ")
            with refused("storage_read_failed", reason="damaged"), store.open("ключ") as reader:
                reader.read()
            if position < 70:
                with refused("storage_read_failed", reason="damaged"):
                    store.stat("ключ")
                with refused("storage_read_failed", reason="damaged", path=str(file)):
                    store.list()
    file.write_bytes(content)
    assert store.get("ключ") == b"some data"


def test_a_file_of_any_other_length_is_noticed(store, file):
    content = file.read_bytes()
    for changed in (*(content[:length] for length in range(len(content))), content + b"x", content * 2):
        file.write_bytes(changed)
        for read in (store.get, store.stat, store.open):
            with refused("storage_read_failed", reason="damaged"):
                read("ключ")
        with refused("storage_read_failed", reason="damaged", path=str(file)):
            store.list()


@pytest.mark.parametrize("position", [0, MIB, 3 * MIB - 1])
def test_a_reader_never_gets_the_last_of_wrong_data(store, tmp_path, position):
    data = bytes(range(256)) * 4096 * 3
    store.put("key", data)
    path = next(path for path in (tmp_path / "objects").rglob("*") if path.is_file())
    with path.open("r+b") as changed:
        changed.seek(65 + position)
        changed.write(b"\xff\x00"[position % 2 : position % 2 + 1])
    got = b""
    with store.open("key") as file:
        with refused("storage_read_failed", reason="damaged"):
            while piece := file.read(100_000):
                got += piece
        assert len(got) < len(data)
        for _ in range(2):
            with refused("storage_read_failed", reason="damaged"):
                file.read()


def test_a_file_that_shrinks_while_it_is_read(store, tmp_path):
    store.put("key", bytes(3 * MIB))
    path = next(path for path in (tmp_path / "objects").rglob("*") if path.is_file())
    with store.open("key") as file:
        assert file.read(10) == bytes(10)
        with path.open("r+b") as torn:
            torn.truncate(2 * MIB)
        with pytest.raises(Error, match="bytes too early"):
            file.read()


def test_the_reader_does_not_lend_its_descriptor(store, file):
    with store.open("ключ") as reader, pytest.raises(OSError, match="fileno"):
        reader.fileno()


def test_what_is_read_in_order_is_checked_whatever_else_is_read_in_between(store, tmp_path):
    data = bytes(range(256)) * 4096 * 3
    store.put("key", data)
    path = next(path for path in (tmp_path / "objects").rglob("*") if path.is_file())
    with path.open("r+b") as changed:
        changed.seek(65 + 10)
        changed.write(b"\xff")
    with FileReader(path) as reader:
        reader.seek(MIB)
        assert reader.readall() == data[MIB:]
        reader.seek(0)
        begin = reader.read(MIB)
        assert begin != data[:MIB]
        reader.seek(-10, 2)
        assert reader.read(10) == data[-10:]
        reader.seek(MIB // 2)
        with refused("storage_read_failed", reason="damaged"):
            reader.readall()
