"""What the settings say of actions that do not go together with others."""

from __future__ import annotations

import json

import pytest

from shared.errors import SettingsError
from shared.settings import Settings, StreamSettings

LEAST = {
    "REDIS_HOST": "example.redis.cache.windows.net",
    "STREAM_NAME": "orders",
    "STREAM_CONSUMER_GROUP_NAME": "g",
    "MONITORING_CONSUMER_NAME": "janitor",
    "MIN_IDLE_TIME_SEC": "10",
}
OTHERS = ("requeue", "handle", "dead_letter", "observe")


def stream(**changes: str) -> StreamSettings:
    (one,) = Settings.from_env({**LEAST, **changes}).streams
    return one


def problems(**changes: str) -> tuple[str, ...]:
    with pytest.raises(SettingsError) as caught:
        Settings.from_env({**LEAST, **changes})
    return caught.value.problems


def test_requeueing_goes_back_to_the_same_stream_five_times_unless_the_settings_say_otherwise() -> None:
    one = stream(ACTION="requeue")
    assert (one.requeue_target, one.max_requeues, one.requeue_with_other_groups) == ("orders", 5, False)
    other = stream(ACTION="requeue", REQUEUE_TO="retries", MAX_REQUEUES="7", REQUEUE_WITH_OTHER_GROUPS="true")
    assert (other.requeue_target, other.max_requeues, other.requeue_with_other_groups) == ("retries", 7, True)


@pytest.mark.parametrize("text", ["off", "OFF", "0"])
def test_the_limit_of_requeues_can_be_off(text: str) -> None:
    assert stream(ACTION="requeue", MAX_REQUEUES=text).max_requeues == 0


@pytest.mark.parametrize("action", OTHERS)
@pytest.mark.parametrize(("variable", "value"), [("MAX_ATTEMPTS", "10"), ("RECOVERED_CHANNEL", "c")])
def test_what_is_stores_own_is_refused_by_name_with_another_action(action: str, variable: str, value: str) -> None:
    (problem,) = problems(ACTION=action, **{variable: value})
    assert problem.startswith(f"{variable}: ")
    assert f"ACTION is {action}" in problem


@pytest.mark.parametrize("action", ["store", "handle", "dead_letter"])
@pytest.mark.parametrize(
    ("variable", "value"), [("REQUEUE_TO", "x"), ("MAX_REQUEUES", "6"), ("REQUEUE_WITH_OTHER_GROUPS", "true")]
)
def test_what_is_requeues_own_is_refused_by_name_with_another_action(action: str, variable: str, value: str) -> None:
    assert problems(ACTION=action, **{variable: value}) == (f"{variable} is set, but ACTION is {action}, not requeue",)


@pytest.mark.parametrize(
    ("changes", "variable"),
    [
        ({"ACTION": "requeue", "ON_CONFLICT": "newer"}, "ON_CONFLICT"),
        ({"ACTION": "requeue", "REQUEUE_TO": "orders:dead"}, "REQUEUE_TO"),
        ({"ACTION": "requeue", "REQUEUE_TO": "d", "DEAD_LETTER_STREAM": "d"}, "REQUEUE_TO"),
        ({"ACTION": "dead_letter", "DEAD_LETTER_STREAM": "off"}, "DEAD_LETTER_STREAM"),
        ({"ACTION": "dead_letter", "SETTLE_MODE": "script"}, "SETTLE_MODE"),
    ],
)
def test_what_cannot_combine_is_refused_by_name(changes: dict[str, str], variable: str) -> None:
    (problem,) = problems(**changes)
    assert problem.startswith(variable)


@pytest.mark.parametrize("action", ["store", "requeue", "dead_letter", "observe"])
def test_an_item_of_streams_has_its_own_action(action: str) -> None:
    environment = {name: value for name, value in LEAST.items() if name != "STREAM_NAME"}
    items = [{"name": "a"}, {"name": "b", "action": action}]
    settings = Settings.from_env({**environment, "STREAMS": json.dumps(items)})
    assert [one.action for one in settings.streams] == ["store", action]


def test_an_item_is_named_where_it_does_not_go_with_its_action() -> None:
    items = [{"name": "a"}, {"name": "b", "action": "dead_letter", "max_attempts": 3}]
    (problem,) = problems(STREAM_NAME="", STREAMS=json.dumps(items))
    assert problem.startswith("STREAMS[1].max_attempts: ")


def test_a_limit_of_requeues_of_its_own_is_an_items_too() -> None:
    items = [{"name": "s:%d", "partitions": 2, "action": "requeue", "requeue_to": "r:%d", "max_requeues": "off"}]
    environment = {**LEAST, "STREAM_NAME": "", "STREAMS": json.dumps(items)}
    assert [(one.requeue_target, one.max_requeues) for one in Settings.from_env(environment).streams] == [
        ("r:0", 0),
        ("r:1", 0),
    ]
