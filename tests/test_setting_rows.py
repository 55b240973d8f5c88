"""Rows: every field of the settings has one or says why not; defaults, keys, reading and the docs' tables follow from them."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import types
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import pytest

from shared import setting_rows as env
from shared.errors import SettingsError
from shared.setting_rules import NOT_SUPPORTED, RULES, STREAM_RULES
from shared.settings import DEFAULTS, ITEM_KEYS, REQUIRED, ROWS, SETTINGS_CLASSES, Settings, StreamSettings
from shared.settings_reader import Reading

ROOT = Path(__file__).parent.parent
GOOD = {
    "REDIS_HOST": "h",
    "STREAM_NAME": "s",
    "STREAM_CONSUMER_GROUP_NAME": "g",
    "MONITORING_CONSUMER_NAME": "c",
    "MIN_IDLE_TIME_SEC": "1",
}
MADE_OF_MORE = {"STREAMS", "REDIS_HOST", "REDIS_AUTH"}
"""Variables whose parsed value is not the field's: the reader makes that from it and others."""


def table_script() -> types.ModuleType:
    spec = importlib.util.spec_from_file_location("settings_table", ROOT / "docs" / "settings_table.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def forgotten_fields(settings_class: type[Any]) -> list[str]:
    return [
        field.name for field in dataclasses.fields(settings_class) if not {"row", "without_row"} & set(field.metadata)
    ]


@pytest.mark.parametrize("settings_class", SETTINGS_CLASSES)
def test_every_field_of_the_settings_has_a_row_or_says_why_it_has_none(settings_class: type[Any]) -> None:
    assert forgotten_fields(settings_class) == []


def test_a_field_that_was_forgotten_would_be_found() -> None:
    """Control: a class with one field that has neither."""

    @dataclasses.dataclass
    class More:
        ttl_s: int = dataclasses.field(metadata=env.get("TTL", "0", int, "kept for so long"))
        port: int = dataclasses.field(metadata=env.without_row("of the host"))
        forgotten: int = 0

    assert forgotten_fields(More) == ["forgotten"]


def test_fields_without_a_row_are_those_that_no_variable_of_their_own_fills() -> None:
    without = {
        field.name: field.metadata["without_row"]
        for settings_class in SETTINGS_CLASSES
        for field in dataclasses.fields(settings_class)
        if "without_row" in field.metadata
    }
    assert set(without) == {"port", "other_hosts", "tls_name", "redis", "own_groups"}
    assert all(without.values())


def test_every_row_stands_at_one_field_and_every_key_at_one_stream_setting() -> None:
    rows = [row for settings_class in SETTINGS_CLASSES for _, row in env.rows_of(settings_class)]
    assert len(rows) == len({row.variable for row in rows}) == len(ROWS)
    assert {row.item_key: row.variable for _, row in env.rows_of(StreamSettings)} == ITEM_KEYS
    of_all = [row for row in rows if row.variable not in ITEM_KEYS.values()]
    assert all(row.item_key is None for row in of_all)


def test_every_row_says_its_effect_in_one_table_cell() -> None:
    for row in ROWS.values():
        assert row.effect
        assert not {"|", "\n"} & set(row.effect + row.unit), row.variable


@pytest.mark.parametrize("settings_class", SETTINGS_CLASSES)
def test_a_row_is_parsed_to_what_its_field_says(settings_class: type[Any]) -> None:
    hints = get_type_hints(settings_class)
    for name, row in env.rows_of(settings_class):
        if row.variable not in MADE_OF_MORE:
            text = GOOD.get(row.variable, row.default)
            assert isinstance(row.parse(str(text)), plain_types(hints[name])), row.variable


def plain_types(hint: Any) -> tuple[type[Any], ...]:
    alternatives = get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    return tuple(get_origin(one) or one for one in alternatives)


def test_milliseconds_come_from_seconds() -> None:
    for name, row in env.rows_of(StreamSettings):
        assert name.endswith("_ms") == (row.unit == "s"), row.variable
        if row.unit == "s":
            assert row.parse("7") == 7000


def test_every_rule_has_nothing_to_say_about_the_defaults_and_bears_bad_values() -> None:
    good, bad = Reading(GOOD), Reading(dict.fromkeys(DEFAULTS, "\0"))
    for rule in (*RULES, *STREAM_RULES):
        assert list(rule(good)) == [], rule.__name__
        list(rule(bad))


def test_a_problem_that_every_item_of_streams_meets_is_told_once() -> None:
    items = json.dumps([{"name": name, "rate_limit": 5} for name in ("a}", "b}")])  # whose rule reads REDIS_CLUSTER
    with pytest.raises(SettingsError) as caught:
        Settings.from_env({**GOOD, "STREAM_NAME": "", "REDIS_CLUSTER": "perhaps", "STREAMS": items})
    assert caught.value.problems == ("REDIS_CLUSTER: expected true or false",)


# --- the docs' tables -------------------------------------------------------------------------------------------------------


def test_the_tables_in_the_docs_are_what_the_rows_say() -> None:
    script = table_script()
    for path in script.PAGES:
        page = path.read_text(encoding="utf-8")
        assert script.rewritten(page) == page, f"run python docs/settings_table.py: {path.name} is out of date"


def test_both_pages_hold_every_setting_and_the_docs_what_is_not_supported() -> None:
    script = table_script()
    readme, configuration = (path.read_text(encoding="utf-8") for path in script.PAGES)
    for variable in DEFAULTS:
        assert f"\n| `{variable}` | " in readme
        assert f"\n| `{variable}` | " in configuration
    for variable in NOT_SUPPORTED:
        assert f"\n| `{variable}` | " in configuration


def test_a_default_or_an_effect_that_changed_would_show_in_both_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Control: with another row the pages are out of date, and writing them anew mends that."""
    script = table_script()
    row = ROWS["PAGE_SIZE"]
    monkeypatch.setitem(ROWS, "PAGE_SIZE", row._replace(default="999"))
    for path in script.PAGES:
        page = path.read_text(encoding="utf-8")
        assert script.rewritten(page) == page.replace("| `PAGE_SIZE` | `1000` |", "| `PAGE_SIZE` | `999` |") != page


def test_required_settings_come_first_in_the_table() -> None:
    lines = list(table_script().settings_table())[2:]
    required = [" required " in line for line in lines]
    assert required == sorted(required, reverse=True)
    assert sum(required) == sum(default is REQUIRED for default in DEFAULTS.values())
