"""Stores by name: ``asm.registry``."""

import subprocess
import sys
import textwrap

import pytest

import asm.adapters
from asm.adapters import FileArtifactStore, InMemorySessionStore, SqlSessionStore
from asm.core.errors import Error
from asm.operations import OPERATIONS
from asm.registry import STORES, contract_of, load


@pytest.mark.parametrize(
    ("reference", "store"),
    [
        ("memory", InMemorySessionStore),
        ("sql", SqlSessionStore),
        ("file", FileArtifactStore),
        ("asm.adapters.memory:InMemorySessionStore", InMemorySessionStore),
    ],
)
def test_a_store_is_found_by_its_name_and_by_its_place(reference, store):
    assert load(reference) is store


def test_every_name_has_a_store():
    assert {name: contract_of(load(name)) for name in STORES} == {
        "memory": "session",
        "sql": "session",
        "file": "artifact",
        "s3": "artifact",
    }
    assert all(getattr(asm.adapters, reference.partition(":")[2]) is load(name) for name, reference in STORES.items())


def test_an_unknown_attribute_is_none():
    with pytest.raises(AttributeError, match="no attribute 'NoSuchStore'"):
        _ = asm.adapters.NoSuchStore


@pytest.mark.parametrize(
    ("reference", "text"),
    [
        ("redis", "there is no store 'redis'"),
        ("", "package.module:Class"),
        (None, "package.module:Class"),
        (5, "package.module:Class"),
        ("os.path", "package.module:Class"),
        ("os:", "package.module:Class"),
        (":Class", "package.module:Class"),
        ("a b:Class", "package.module:Class"),
        (".relative:Class", "package.module:Class"),
        ("os:a.b", "package.module:Class"),
        ("no_such_package.stores:Store", "no module 'no_such_package'"),
        ("asm.adapters.nowhere:Store", "no module 'asm.adapters.nowhere'"),
        ("asm.adapters.memory:Nothing", "no class 'Nothing'"),
        ("asm.adapters.memory:annotations", "no class 'annotations'"),
        ("builtins:dict", "dict is no store"),
    ],
)
def test_a_reference_to_nothing_says_what_exists(reference, text):
    with pytest.raises(Error, match=text) as caught:
        load(reference)
    assert caught.value.code == "validation_error"
    assert caught.value.details["field"] == "store"


@pytest.fixture
def importable(tmp_path, monkeypatch):
    """A function that makes a module from source text."""
    monkeypatch.syspath_prepend(tmp_path)
    made = []

    def make(name, source):
        (tmp_path / f"{name}.py").write_text(textwrap.dedent(source))
        made.append(name)

    yield make
    for name in made:
        sys.modules.pop(name, None)


def test_a_module_that_needs_what_is_not_installed(importable):
    importable("asm_test_needy", "import no_such_driver.sub\nclass Store: pass")
    with pytest.raises(Error, match="needs the package 'no_such_driver'") as caught:
        load("asm_test_needy:Store")
    assert caught.value.code == "dependency_not_available"
    assert isinstance(caught.value.__cause__, ModuleNotFoundError)


def test_a_module_that_fails_to_import(importable):
    importable("asm_test_broken", "raise RuntimeError('the reason')")
    with pytest.raises(Error, match="the reason") as caught:
        load("asm_test_broken:Store")
    assert caught.value.code == "validation_error"
    assert isinstance(caught.value.__cause__, RuntimeError)


def test_a_store_of_ones_own(importable):
    importable(
        "asm_test_own",
        """
        from asm.adapters import InMemorySessionStore
        class Store(InMemorySessionStore): pass
        """,
    )
    assert contract_of(load("asm_test_own:Store")) == "session"


def test_contracts_are_known_by_operations_and_not_by_descent():
    def operations(contract):
        return {name: lambda: None for name, operation in OPERATIONS.items() if operation.contract == contract}

    session, artifact = operations("session"), operations("artifact")
    assert contract_of(type("Sessions", (), session)) == "session"
    assert contract_of(type("Artifacts", (), artifact)) == "artifact"
    del session["flush"]
    with pytest.raises(Error, match="it lacks flush") as caught:
        contract_of(type("Unfinished", (), session))
    assert caught.value.details["lacks"]["session"] == ["flush"]
    with pytest.raises(Error, match="both contracts"):
        contract_of(type("Both", (), operations("session") | artifact))


@pytest.mark.parametrize("how", ["asm.adapters.SqlSessionStore", "asm.adapters.load('sql')"])
def test_without_sqlalchemy_the_extra_is_named_and_the_other_stores_work(how):
    program = f"""
    import sys
    sys.modules["sqlalchemy"] = None  # as if it were not installed
    import asm.adapters
    from asm.core.errors import Error
    asm.adapters.InMemorySessionStore().close()
    asm.adapters.FileArtifactStore
    try:
        {how}
    except Error as error:
        print(error.code, error.details["install"], type(error.__cause__).__name__)
        print(error)
    """
    out = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, check=True).stdout
    assert out.startswith('dependency_not_available pip install "asm-store[sql]" ModuleNotFoundError\n')
    assert "needs the package 'sqlalchemy', which is not installed" in out


def test_a_store_loads_no_other():
    program = """
    import sys
    import asm.adapters
    before = [name for name in sys.modules if name.startswith(("asm.adapters.", "sqlalchemy"))]
    asm.adapters.InMemorySessionStore
    print(before, "sqlalchemy" in sys.modules, "asm.adapters.files" in sys.modules)
    """
    out = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, check=True).stdout
    assert out == "[] False False\n"
