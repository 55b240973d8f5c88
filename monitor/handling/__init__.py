"""Runs the user's own code on abandoned entries, away from the sweep's event loop.

``find`` turns HANDLER into what to call, ``runner`` calls it in one of the process's slots, ``verdicts`` says what its result
means. Nothing here knows Redis.
"""
