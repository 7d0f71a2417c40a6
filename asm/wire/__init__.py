"""What travels between the processes: names, frames, messages, and how a call of a contract becomes one.

``PROTOCOL.md`` beside this file describes it for a client in another language.
"""
