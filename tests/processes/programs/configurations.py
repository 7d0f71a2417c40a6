"""The configurations of the trees under test: one session store, one artifact store, and a composite of both."""

MEMORY = 'store = "memory"'
SQLITE = 'store = "sql"\nurl = "sqlite:///var/asm.db"'
FILES = 'store = "file"\nroot = "var/artifacts"'


def configuration(sessions=SQLITE, artifacts=FILES, *, supervisor="", each="", more=""):
    """Return the configuration of a tree.

    :param sessions: what says which store keeps sessions.
    :param artifacts: what says which store keeps artifacts.
    :param supervisor: more keys of ``[supervisor]``.
    :param each: more keys of each child.
    :param more: more tables.
    """
    return f"""
[supervisor]
name = "dev"
{supervisor}

[[backend]]
name = "dev.sessions"
{sessions}
{each}

[[backend]]
name = "dev.artifacts"
{artifacts}
{each}

[composite]
name = "MyApp.Store"
session_store = "dev.sessions"
artifact_store = "dev.artifacts"
{each}

{more}
"""
