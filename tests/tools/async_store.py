"""Write asm/client/async_store.pyi from the contracts: python tests/tools/async_store.py."""

import ast
from pathlib import Path

import asm.client
import asm.ports
from asm.operations import CONTRACTS

STUB = Path(asm.client.__file__).with_name("async_store.pyi")
HEAD = '"""Made from asm.ports by tests/tools/async_store.py."""'
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
    imports = ["from asm.client.aio import AsyncReader", *sorted(imported(modules))]
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


def normal(text: str) -> str:
    """Return what a stub says, whatever its formatting."""
    return ast.dump(ast.parse(text))


if __name__ == "__main__":
    STUB.write_text(render())
