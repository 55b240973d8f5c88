"""Handlers that ship: HANDLER=webhook and HANDLER=sql. Their packages are in requirements-handlers.txt."""
