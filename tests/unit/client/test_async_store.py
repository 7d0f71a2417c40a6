"""The stub of the asynchronous operations says what the contracts say."""

import importlib.util
import inspect
from pathlib import Path

from asm.client.aio import AsyncClient
from asm.client.blocking import Client
from asm.operations import OPERATIONS

TOOL = Path(__file__).parents[2] / "tools" / "async_store.py"


def test_the_stub_is_what_the_contracts_make():
    spec = importlib.util.spec_from_file_location("async_store_tool", TOOL)
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    assert tool.normal(tool.STUB.read_text()) == tool.normal(tool.render()), f"run python {TOOL}"


def test_both_clients_have_every_operation_as_the_contract_has_it():
    for operation in OPERATIONS.values():
        for client in (Client, AsyncClient):
            method = getattr(client, operation.name)
            assert inspect.signature(method) == operation.signature
            assert method.__doc__
        assert inspect.iscoroutinefunction(getattr(AsyncClient, operation.name))
