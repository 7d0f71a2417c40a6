"""The values that cross every boundary of asm: sessions, runs, events, artifact facts and errors.

Nothing here does I/O and nothing here imports another part of ``asm``.
"""
