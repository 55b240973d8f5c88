"""The command line: what an operator does by hand. Never imported by the function app or on the timer's path."""
