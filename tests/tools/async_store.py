"""Write asm/client/async_store.pyi from the contracts: python tests/tools/async_store.py."""

import ast
from pathlib import Path

import asm.client
import asm.ports

STUB = Path(asm.client.__file__).with_name("async_store.pyi")
HEAD = '"""Made from asm/ports.py by tests/tools/async_store.py."""'
RETURNS = {"BinaryIO": "AsyncReader"}
"""What an asynchronous operation returns instead."""


def render() -> str:
    """Return the text of the stub."""
    tree = ast.parse(Path(asm.ports.__file__).read_text())
    aliases = sorted(
        node.targets[0].id for node in tree.body if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
    )
    aliases = [name for name in aliases if not name.startswith("__")]
    methods = [
        coroutine(item)
        for node in tree.body
        if isinstance(node, ast.ClassDef) and node.name in ("SessionStore", "ArtifactStore")
        for item in node.body
        if isinstance(item, ast.FunctionDef)
    ]
    imports = [
        "from asm.client.aio import AsyncReader",
        "from asm.core.values import ArtifactInfo, Event, Run, Session",
        f"from asm.ports import {', '.join(sorted([*aliases, 'ExecutionResult']))}",
    ]
    body = "\n".join("    " + line for method in methods for line in method.splitlines())
    return "\n".join([HEAD, "", *imports, "", "class AsyncStore:", body, ""])


def coroutine(method: ast.FunctionDef) -> str:
    """Return the declaration of an operation as a coroutine."""
    returns = ast.unparse(method.returns)
    return f"async def {method.name}({ast.unparse(method.args)}) -> {RETURNS.get(returns, returns)}: ..."


def normal(text: str) -> str:
    """Return what a stub says, whatever its formatting."""
    return ast.dump(ast.parse(text))


if __name__ == "__main__":
    STUB.write_text(render())
