"""What type checkers and editors read of ``new`` and ``changed`` is what the fields of the values say."""

import importlib.util
import inspect
import re
from pathlib import Path

import pytest

from asm.core.errors import Error
from asm.core.values import Event, Run, Session

TOOL = Path(__file__).parents[2] / "tools" / "forms.py"


def test_the_stub_is_what_the_fields_make():
    spec = importlib.util.spec_from_file_location("forms_tool", TOOL)
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    assert tool.normal(tool.STUB.read_text()) == tool.normal(tool.render()), f"run python {TOOL}"


def test_help_tells_the_fields():
    assert str(inspect.signature(Event.new)).startswith("(*, type: ")
    assert list(inspect.signature(Session.new).parameters) == [
        "agent_id",
        *(name for name in Session._names if name != "agent_id"),
    ]
    assert list(inspect.signature(Run.changed).parameters) == ["self", *Run._names]
    assert ":param sequence_number: given by the store" in Event.new.__doc__
    assert (Event.new.__qualname__, Event.new.__module__) == ("Event.new", "asm.core.values")
    assert not hasattr(Event, "changed")  # an event never changes


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (Session.new, r"Session: missing a required (keyword-only )?argument: 'agent_id'"),  # as this version of Python says it
        (lambda: Session.new("agent"), "Session: too many positional arguments"),
        (lambda: Event.new(type="odd", session_id="s", colour=1), "Event: got an unexpected keyword argument 'colour'"),
        (lambda: Event.new(type="odd", session_id="s"), "Event.type is 'odd'; it must be one of"),
        (lambda: Run.new(session_id="s").changed(colour=1), "Run has no field 'colour'"),
    ],
)
def test_a_call_that_is_wrong_is_told_in_words_of_a_call(make, text):
    with pytest.raises(Error) as caught:
        make()
    assert re.match(text, caught.value.message)
