"""The janitor, seen: a server, a producer, flaky processors and a timer host on one machine."""
