"""What Alembic runs to migrate: on a connection whose transaction has begun, or, to print, on none.

The transaction is that of :mod:`asm.adapters.sql.schema`, which commits it: all the versions in between, or none.
"""

from __future__ import annotations

from alembic import context

attributes = context.config.attributes
connection, version_table = attributes["connection"], attributes["version_table"]

if context.is_offline_mode():
    context.configure(
        dialect_name=connection.dialect.name, literal_binds=True, version_table=version_table, transactional_ddl=True
    )
else:
    context.configure(connection=connection, version_table=version_table)

with context.begin_transaction():
    context.run_migrations()
