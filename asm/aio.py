"""The asyncio side of asm: ``async with asm.aio.connect("MyApp.Store") as store``."""

from asm.client.aio import AsyncClient, AsyncReader, connect

__all__ = ["AsyncClient", "AsyncReader", "connect"]
