"""What is found in free-form maps."""

import pytest

from asm.adapters.matching import has_items, has_text

DATA = {"Text": "Straße", "list": [{"deep": ["ΟΔΟΣ"]}], "number": 12, "flag": True, "none": None}


@pytest.mark.parametrize("text", ["text", "STRASSE", "οδος", "dee", "", "number"])
def test_text_that_occurs(text):
    assert has_text(DATA, text.casefold())


@pytest.mark.parametrize("text", ["12", "true", "null", "textstra", '"', "{"])
def test_text_that_does_not(text):
    assert not has_text(DATA, text.casefold())


def test_an_empty_text_occurs_in_an_empty_map():
    assert has_text({}, "")
    assert not has_text({}, "a")


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ({}, True),
        ({"number": 12.0, "flag": True}, True),
        ({"none": None}, True),
        ({"list": [{"deep": ["ΟΔΟΣ"]}]}, True),
        ({"flag": 1}, False),
        ({"list": [{"deep": ["ΟΔΟΣ"], "more": 1}]}, False),
        ({"list": []}, False),
        ({"absent": None}, False),
        ({"number": "12"}, False),
    ],
)
def test_items(wanted, found):
    assert has_items(DATA, wanted) is found
