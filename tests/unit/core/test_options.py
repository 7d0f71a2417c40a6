"""The options of a store, read from its constructor: what each may be, what is refused, and in which words."""

from typing import Annotated, Any, Literal

import pytest

from asm.core import checks
from asm.core.arguments import Flag
from asm.core.errors import Error
from asm.core.options import REQUIRED, options, options_of


class Shelf:
    """A store whose options say how they are checked."""

    @options
    def __init__(self, *, root: Annotated[str, checks.identifier], width: Annotated[int, checks.whole(1, 9)] = 3) -> None:
        self.given = {"root": root, "width": width}


class Corner(Shelf):
    """One that hands on what it does not know."""

    @options
    def __init__(self, *, lit: Flag = False, **others: Any) -> None:
        super().__init__(**others)
        self.given |= {"lit": lit}


class Inherited(Shelf):
    """One without a constructor of its own."""


class Foreign:
    """Somebody else's, who knows nothing of checks."""

    def __init__(
        self,
        url: str,
        retries: int = 3,
        pause: float = 0.5,
        style: Literal["new", "old"] = "new",
        proxy: str | None = None,
        verify: bool = True,
        pool: "dict[str, Any] | None" = None,
    ):
        self.url = url


class Open:
    """Somebody else's, who takes anything."""

    def __init__(self, **anything):
        self.anything = anything


class Empty:
    """One that takes nothing."""


def problems(store, **given):
    return [error.message for error in options_of(store).problems(given)]


def test_what_is_given_is_returned_in_its_normal_form_with_the_defaults_of_the_rest():
    assert options_of(Shelf).check({"root": "r"}) == {"root": "r", "width": 3}
    assert Shelf(root="r", width=9).given == {"root": "r", "width": 9}
    assert [(option.name, option.annotation, option.default) for option in options_of(Shelf).known.values()] == [
        ("root", str, REQUIRED),
        ("width", int, 3),
    ]


@pytest.mark.parametrize(
    ("given", "field", "text"),
    [
        ({}, "root", "root is required by Shelf"),
        ({"root": ""}, "root", "root is required and must not be empty"),
        ({"root": "r", "width": 10}, "width", "width must be a whole number from 1 to 9, not 10"),
        ({"root": "r", "width": "secret"}, "width", "width must be a whole number from 1 to 9, not str"),
        ({"root": "r", "widht": 1}, "widht", "widht is no option of Shelf; it takes: root, width"),
    ],
)
def test_the_constructor_and_the_check_before_it_refuse_the_same(given, field, text):
    for refuses in (lambda: Shelf(**given), lambda: options_of(Shelf).check(given)):
        with pytest.raises(Error) as caught:
            refuses()
        assert (caught.value.code, caught.value.message, caught.value.details["field"]) == ("validation_error", text, field)


def test_what_a_subclass_may_not_take_is_not_missed():
    assert options_of(Shelf).pick({"width": 2, "gate": 1}) == {"width": 2}
    assert options_of(Shelf).pick({"root": "r"}) == {"root": "r", "width": 3}
    with pytest.raises(Error, match="width must be"):
        options_of(Shelf).pick({"width": 0})


def test_all_problems_are_told():
    assert problems(Shelf, width=0, height=1) == [
        "height is no option of Shelf; it takes: root, width",
        "root is required by Shelf",
        "width must be a whole number from 1 to 9, not 0",
    ]


def test_a_subclass_has_the_options_that_it_hands_on():
    assert list(options_of(Corner).known) == ["root", "width", "lit"]
    assert Corner(lit=True, root="r").given == {"root": "r", "width": 3, "lit": True}
    assert problems(Corner, root="r", lit=1, width=0, hight=1) == [
        "hight is no option of Corner; it takes: root, width, lit",
        "lit must be True or False, not 1",
        "width must be a whole number from 1 to 9, not 0",
    ]
    assert problems(Inherited, wide=1) == [
        "wide is no option of Inherited; it takes: root, width",
        "root is required by Inherited",
    ]
    with pytest.raises(Error, match="root is required by Inherited"):
        Inherited()


def test_the_options_of_somebody_elses_store_are_what_its_constructor_takes():
    assert problems(Foreign, url="u", pause=1, style="old", proxy=None, verify=False, pool={"size": 1}) == []
    assert problems(Foreign, url=1, retries=True, pause="x", style="odd", proxy=2, verify=1, color="red") == [
        "color is no option of Foreign; it takes: url, retries, pause, style, proxy, verify, pool",
        "url must be a string, not int",
        "retries must be a whole number, not bool",
        "pause must be a number, not str",
        "style must be 'new' or 'old', not 'odd'",
        "proxy must be a string, not int",
        "verify must be true or false, not int",
    ]
    assert problems(Open, whatever=1) == []
    assert problems(Empty, whatever=1) == ["whatever is no option of Empty; it takes no options"]


def test_options_that_are_checked_are_keywords():
    with pytest.raises(TypeError, match="must be keywords"):

        class Positional:
            @options
            def __init__(self, root: str) -> None:
                """Take it."""
