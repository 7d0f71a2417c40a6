"""The client handles: stores in other processes, reached by name. Blocking here, asyncio in :mod:`asm.client.aio`."""
