"""Write asm/core/forms.pyi from the fields of the values: python tests/tools/forms.py."""

import ast
import inspect
import textwrap
import typing
from pathlib import Path

import asm.core.forms
from asm.core import kinds
from asm.core.values import Event, Run, Session

STUB = Path(asm.core.forms.__file__).with_suffix(".pyi")
HEAD = """\
\"\"\"Made from asm.core.values by tests/tools/forms.py.\"\"\"

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Self

from asm.core.kinds import AnyEventType, AnyRunStatus, AnySessionStatus, RunStatus, SessionStatus
"""
NAMED = {repr(kind): name for name, kind in vars(kinds).items() if name.startswith("Any") and kind is not typing.Any}
"""The types that are written by their names."""


def render():
    """Return the text of the stub."""
    forms = {kind: [kind.new, *filter(None, [vars(kind).get("changed")])] for kind in (Session, Run, Event)}
    return "\n".join([HEAD, *(form(kind, functions) for kind, functions in forms.items())])


def form(kind, functions):
    """Return the class that declares some functions of a value."""
    body = "\n".join(declaration(function) for function in functions)
    return f"class {kind.__name__}Form:\n{textwrap.indent(body, '    ')}"


def declaration(function):
    """Return a function without its body."""
    parameters = [item for item in inspect.signature(function).parameters.values() if item.kind is item.KEYWORD_ONLY]
    shown = ", ".join(f"{item.name}: {written(item.annotation)}{default(item)}" for item in parameters)
    decorator, itself = ("@classmethod\n", "cls") if inspect.ismethod(function) else ("", "self")
    doc = textwrap.indent(f'"""{function.__doc__}\n"""', "    ")
    return f"{decorator}def {function.__name__}({itself}, *, {shown}) -> Self:\n{doc}\n"


def written(annotation):
    """Return a type as it is written."""
    if repr(annotation) in NAMED:
        return NAMED[repr(annotation)]
    if isinstance(annotation, type) and typing.get_origin(annotation) is None:
        return annotation.__name__
    text = repr(annotation)
    for module in ("collections.abc.", "typing.", "datetime."):
        text = text.replace(module, "")
    return text


def default(parameter):
    """Return how the default of a parameter is written."""
    if parameter.default is parameter.empty:
        return ""
    if parameter.default is ...:
        return " = ..."
    value = parameter.default
    return f" = {type(value).__name__}.{value.name}" if hasattr(value, "name") else f" = {value!r}"


def normal(text):
    """Return what a stub says, whatever its formatting."""
    return ast.dump(ast.parse(text))


if __name__ == "__main__":
    STUB.write_text(render())
