"""The fault suite: what this program promises, held against each fault that it is for. `python -m tests.faults --help`."""
