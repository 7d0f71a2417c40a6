"""The examples of the README run as they stand."""

import ast
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import asm

README = Path(__file__).parents[2] / "README.md"
BLOCKS = re.findall(r"^```python\n(.*?)^```", README.read_text(), re.MULTILINE | re.DOTALL)


def block(text):
    """The only example with this text in it."""
    (found,) = [item for item in BLOCKS if text in item]
    return found


def run(*arguments, cwd):
    environment = {**os.environ, "ASM_RUNTIME_DIR": str(cwd / "r"), "PYTHONPATH": str(cwd)}
    return subprocess.run([sys.executable, *arguments], cwd=cwd, env=environment, capture_output=True, text=True, timeout=100)


@pytest.mark.parametrize("code", BLOCKS, ids=lambda code: code.splitlines()[0])
def test_every_example_is_python(code):
    ast.parse(code)


def test_a_tree_of_its_own_and_its_use(tmp_path):
    """The part with ``start_link``, and what a program does with the name that it serves."""
    more = textwrap.indent(block("store.follow") + block("store.search_sessions"), "    ")
    use = textwrap.indent(block("with asm.connect") + more, "    ")  # in a scope of its own: it has a variable of the same name
    (tmp_path / "example.py").write_text(block("CompositeSessionStore.start_link") + f"\n\ndef use():\n{use}\n\nuse()\n")
    ran = run("example.py", cwd=tmp_path)
    assert (ran.returncode, ran.stderr) == (0, "")


def test_a_store_of_ones_own_passes_the_suite(tmp_path):
    (tmp_path / "shelf.py").write_text(block("# shelf.py"))
    (tmp_path / "test_shelf.py").write_text(block("# test_shelf.py"))
    ran = run("-m", "pytest", "-q", "-p", "no:cacheprovider", "test_shelf.py", cwd=tmp_path)
    assert ran.returncode == 0, ran.stdout


def test_the_data_of_an_artifact_is_found_with_a_shell(tmp_path, s3_server):
    """In a file, and in an object."""
    (script,) = re.findall(r"^```sh\n(key=.*?)^```", README.read_text(), re.MULTILINE | re.DOTALL)
    data, bucket = b"\0some\ndata\n", s3_server.new_bucket()
    with asm.FileArtifactStore(root=tmp_path / "var/dev/artifacts") as store:
        store.put("patch-1", data)
    ran = subprocess.run(["sh", "-ec", script], cwd=tmp_path, capture_output=True, check=True)
    assert ran.stdout == data
    with asm.S3ArtifactStore(bucket=bucket, prefix="asm/artifacts/", endpoint_url=s3_server.url) as store:
        store.put("patch-1", data)
    name, command = re.search(r'aws s3 cp "s3://my-bucket/(.*)" - (\| head [^#]*)', script).groups()
    whole = s3_server.client.get_object(Bucket=bucket, Key=name)["Body"].read()
    size = script.splitlines()[0]
    assert subprocess.run(["sh", "-ec", f"{size}\ncat {command}"], input=whole, capture_output=True, check=True).stdout == data


def test_the_quick_start_has_two_command_lines():
    start = README.read_text().split("## Quick start")[1].split("\n## ")[0]
    blocks = re.findall(r"^```\w*\n(.*?)^```", start, re.MULTILINE | re.DOTALL)
    assert len(blocks) == 2
    assert all(len(item.splitlines()) == 1 for item in blocks)
