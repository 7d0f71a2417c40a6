"""JSON text that is written in steps."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asm.adapters import encoding
from asm.core.frozen import FrozenList, FrozenMap

SCALARS = (
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False) | st.text()
)
JSON = st.recursive(SCALARS, lambda inside: st.lists(inside) | st.dictionaries(st.text(), inside), max_leaves=60)


def plainly(value):
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


@given(value=JSON, large=st.integers(2, 20))
def test_in_steps_it_is_the_same_text(value, large):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encoding, "LARGE", large)
        assert encoding.dumps(value) == plainly(value)


def frozen(value):
    if isinstance(value, dict):
        return FrozenMap({key: frozen(item) for key, item in value.items()})
    return FrozenList(map(frozen, value)) if isinstance(value, list) else value


@pytest.mark.parametrize(
    "value",
    [
        {"flat": list(range(100_000))},
        {"rows": [{"x": number} for number in range(50_000)]},
        {str(number): number for number in range(50_000)},
        {"wide": [list(range(1000))] * 100, "small": 1, "empty": [{}, []]},
    ],
    ids=["flat", "rows", "keys", "wide"],
)
def test_no_step_encodes_more_than_it_may(value, monkeypatch):
    encoded = []

    def encode(item):
        encoded.append(encoding._count(item))
        return plainly(item)

    monkeypatch.setattr(encoding, "_encode", encode)
    assert encoding.dumps(frozen(value)) == plainly(value)
    assert len(encoded) > 1
    assert max(encoded) <= encoding.LARGE
