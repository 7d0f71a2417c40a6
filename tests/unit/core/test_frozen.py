import copy
import json
import pickle

import msgpack
import pytest

from asm.core.frozen import FrozenList, FrozenMap

MAP = FrozenMap(a=1, b=FrozenList([1, FrozenMap(c=2)]))
PLAIN = {"a": 1, "b": [1, {"c": 2}]}


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m.__setitem__("a", 2),
        lambda m: m.__delitem__("a"),
        lambda m: m.__ior__({"a": 2}),
        lambda m: m.clear(),
        lambda m: m.pop("a"),
        lambda m: m.popitem(),
        lambda m: m.setdefault("z", 1),
        lambda m: m.update(a=2),
    ],
)
def test_a_map_refuses_to_change(change):
    with pytest.raises(TypeError, match=r"FrozenMap cannot be changed; make a copy with dict"):
        change(MAP)
    assert MAP == PLAIN


@pytest.mark.parametrize(
    "change",
    [
        lambda items: items.__setitem__(0, 2),
        lambda items: items.__delitem__(0),
        lambda items: items.__iadd__([1]),
        lambda items: items.__imul__(2),
        lambda items: items.append(1),
        lambda items: items.clear(),
        lambda items: items.extend([1]),
        lambda items: items.insert(0, 1),
        lambda items: items.pop(),
        lambda items: items.remove(1),
        lambda items: items.reverse(),
        lambda items: items.sort(),
    ],
)
def test_a_list_refuses_to_change(change):
    with pytest.raises(TypeError, match=r"FrozenList cannot be changed; make a copy with list"):
        change(MAP["b"])
    assert MAP == PLAIN


def test_every_way_to_change_the_builtins_is_refused():
    reads = {"copy", "count", "fromkeys", "get", "index", "items", "keys", "values"}
    for frozen, builtin in ((FrozenMap, dict), (FrozenList, list)):
        methods = {name for name in vars(builtin) if not name.startswith("_")} - reads
        assert methods <= set(vars(frozen)), builtin


def test_they_read_as_the_builtins_do():
    assert MAP == PLAIN
    assert isinstance(MAP, dict)
    assert isinstance(MAP["b"], list)
    assert json.loads(json.dumps(MAP)) == PLAIN
    assert msgpack.unpackb(msgpack.packb(MAP)) == PLAIN
    assert {**MAP, "a": 3}["a"] == 3
    assert [*MAP["b"]] == PLAIN["b"]
    assert MAP | {"z": 1} == PLAIN | {"z": 1}


def test_copies_for_changing_are_plain():
    assert type(dict(MAP)) is dict
    assert type(list(MAP["b"])) is list
    assert type(MAP.copy()) is dict


def test_copies_of_what_never_changes_are_itself():
    assert copy.copy(MAP) is MAP
    assert copy.deepcopy(MAP) is MAP
    assert copy.copy(MAP["b"]) is MAP["b"]
    assert copy.deepcopy(MAP["b"]) is MAP["b"]


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_they_come_back_frozen_from_a_pickle(protocol):
    again = pickle.loads(pickle.dumps(MAP, protocol))
    assert again == PLAIN
    assert type(again) is FrozenMap
    assert type(again["b"]) is FrozenList
    assert type(again["b"][1]) is FrozenMap
