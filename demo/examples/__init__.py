"""The examples that can be run, by name."""

from __future__ import annotations

from demo.example import Example
from demo.examples.email import EMAIL
from demo.examples.envelopes import ENVELOPES
from demo.examples.jobs import JOBS
from demo.examples.trades import TRADES
from demo.examples.tweets import TWEETS
from demo.examples.visits import VISITS

EXAMPLES: dict[str, Example] = {example.name: example for example in (TWEETS, EMAIL, TRADES, VISITS, ENVELOPES, JOBS)}
