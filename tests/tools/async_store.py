"""Write asm/client/async_store.pyi from the contracts, and what handles have: python tests/tools/async_store.py."""

import ast
import inspect
from pathlib import Path

import asm.client
import asm.ports
from asm.operations import CONTRACTS

STUB = Path(asm.client.__file__).with_name("async_store.pyi")
HANDLES = Path(asm.client.__file__).with_name("handles.py")
HEAD = '"""Made from asm.ports and asm.client.handles by tests/tools/async_store.py."""'
RETURNS = {"BinaryIO": "AsyncReader"}
"""What an asynchronous operation returns instead."""


def render() -> str:
    """Return the text of the stub."""
    modules = [ast.parse(path.read_text()) for path in sorted(Path(asm.ports.__file__).parent.glob("*.py"))]
    protocols = {node.name: node for module in modules for node in module.body if isinstance(node, ast.ClassDef)}
    store = ast.ClassDef("AsyncStore", bases=[], keywords=[], decorator_list=[])
    store.body = [
        coroutine(item)
        for _, port in sorted(CONTRACTS.items(), key=lambda item: item[0] == "artifact")  # in which ``list`` is another thing
        for item in protocols[port.__name__].body
        if isinstance(item, ast.FunctionDef)
    ]
    (handles,) = (node for node in ast.parse(HANDLES.read_text()).body if getattr(node, "name", "") == "Handles")
    public = [item for item in handles.body if isinstance(item, ast.FunctionDef) and not item.name.startswith("_")]
    store.body += [beside(item) for item in public]
    imports = [
        "from collections.abc import AsyncGenerator, Awaitable, Callable",
        "from asm.client.aio import AsyncReader",
        *sorted(imported(modules)),
    ]
    return "\n".join([HEAD, "", *imports, "", ast.unparse(ast.fix_missing_locations(store)), ""])


def imported(modules: list[ast.Module]) -> set[str]:
    """Return how the names are imported that the contracts use."""
    names: dict[str, set[str]] = {}
    for module in modules:
        for node in module.body:
            if isinstance(node, ast.ImportFrom) and node.module.startswith("asm.core"):
                names.setdefault(node.module, set()).update(alias.name for alias in node.names)
    lines = {f"from {module} import {', '.join(sorted(found))}" for module, found in names.items()}
    return {*lines, "from asm.ports import ExecutionResult"}


def coroutine(method: ast.FunctionDef) -> ast.AsyncFunctionDef:
    """Return the declaration of an operation as a coroutine, with what an editor shows where it is called."""
    returns = ast.unparse(method.returns)
    result = ast.parse(RETURNS.get(returns, returns), mode="eval").body
    return ast.AsyncFunctionDef(method.name, method.args, body=method.body[:1], decorator_list=[], returns=result)


def beside(method: ast.FunctionDef) -> ast.AsyncFunctionDef | ast.FunctionDef:
    """Return the declaration of what handles have beside the operations: it awaits what it is given, and yields likewise."""
    for argument in method.args.args:
        match argument.annotation:
            case ast.Subscript(value=ast.Name("Callable"), slice=ast.Tuple(elts=[_, result])):
                kind = ast.unparse(result)
                argument.annotation = ast.parse(f"Callable[[{kind}], {kind} | Awaitable[{kind}]]", mode="eval").body
    match method.returns:
        case ast.Subscript(value=ast.Name("Generator"), slice=ast.Tuple(elts=[item, *_])):
            method.returns = ast.parse(f"AsyncGenerator[{ast.unparse(item)}]", mode="eval").body
            method.body = method.body[:1]
            return method
    return coroutine(method)


def normal(text: str) -> str:
    """Return what a stub says, whatever its formatting."""
    tree = ast.parse(text)
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            node.value = inspect.cleandoc(node.value)
    return ast.dump(tree)


if __name__ == "__main__":
    STUB.write_text(render())
