"""Scripts by name: what their headers declare is what they are given."""

from __future__ import annotations

import re

import pytest

from monitor import scripts
from monitor.actions.requeue_script import WIDE
from monitor.outcomes import ABANDONED, BAD_ID, BY_WIRE, CAPS, FAULTS_EXPLAINED, NOT_JSON_ID, REQUEUED_TOO_OFTEN
from monitor.scripts import Script, claim_script, requeue_script, settle_script
from shared.redis_client import ServerLink

SCRIPT = """\
-- @key key                the key
-- @arg word               a word
-- @arg number (number)    a number
-- @arg is_on (flag)       a flag
-- @rest rest_at           the others
return { key, word, number + 1, is_on and 'on' or 'off', ARGV[rest_at] or 'none', #ARGV - rest_at + 1 }
"""


@pytest.fixture
def declared(monkeypatch: pytest.MonkeyPatch) -> Script:
    monkeypatch.setattr(scripts, "_text", lambda name: SCRIPT)
    return Script.declared("any.lua")


@pytest.mark.parametrize(("is_on", "word"), [(True, b"on"), (False, b"off")])
async def test_a_script_finds_its_arguments_by_their_names(
    declared: Script, link: ServerLink, is_on: bool, word: bytes
) -> None:
    arguments = declared.named(is_on=is_on, number=41, word="w")
    assert await declared.run(link, ("k",), (*arguments, "a", "b")) == [b"k", b"w", 42, word, b"a", 2]
    assert await declared.run(link, ("k",), arguments) == [b"k", b"w", 42, word, b"none", 0]


@pytest.mark.parametrize("values", [{}, {"word": 1, "number": 2}, {"word": 1, "number": 2, "is_on": 3, "more": 4}])
def test_an_argument_that_is_missing_or_unknown_is_an_error_before_anything_is_sent(
    declared: Script, values: dict[str, int]
) -> None:
    with pytest.raises(TypeError, match="expected the arguments word, number, is_on"):
        declared.named(**values)


def test_a_new_argument_shifts_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    longer = SCRIPT.replace("-- @arg word ", "-- @arg first   new\n-- @arg word ")
    monkeypatch.setattr(scripts, "_text", lambda name: longer)
    assert "local word = ARGV[2]" in Script.declared("any.lua").text
    assert Script.declared("any.lua").named(first=0, word=1, number=2, is_on=True) == (0, 1, 2, 1)


@pytest.mark.parametrize("script", [settle_script, requeue_script, claim_script])
def test_every_declared_argument_is_used(script: type[Script]) -> None:
    text = script().text  # type: ignore[attr-defined]
    for name in script().arguments:  # type: ignore[attr-defined]
        code = re.sub(r"--.*", "", text)
        assert len(re.findall(rf"\b{name}\b", code)) > 1, f"{name} is declared and not used"


def test_each_word_that_a_script_says_of_an_entry_is_in_the_table() -> None:
    text = settle_script().text
    said = {
        word.encode()
        for word in re.findall(r"name\(id, '(\w+)'\)|return '(stored|kept|superseded)'", text)
        for word in word
        if word
    }
    assert said == set(BY_WIRE) - {b"requeued"}


PYTHONS_ALONE = {NOT_JSON_ID, BAD_ID}
"""Faults of member paths, which no script reads."""
OTHERS = {REQUEUED_TOO_OFTEN, ABANDONED}
"""Faults of other actions."""


def test_each_fault_that_a_script_names_is_in_the_table_and_each_of_the_table_in_a_script() -> None:
    """A word that the table lacks would count as an unknown error, and its entry would wait for MAX_ATTEMPTS."""
    text = settle_script().text
    said = set(re.findall(r"return nil, '(\w+)'|at_fault\('(\w+)'|and '(\w+)' or 'error:'", text))
    assert {word for words in said for word in words if word} == set(FAULTS_EXPLAINED) - PYTHONS_ALONE - CAPS - OTHERS


def test_each_word_that_requeue_says_of_an_entry_is_an_outcome_or_a_fault_of_the_table() -> None:
    said = {word.encode() for word in re.findall(r"(?:name|refuse)\(\w+, '(\w+)'\)", requeue_script().text)}
    assert said == {b"gone", b"lost", REQUEUED_TOO_OFTEN.encode(), WIDE}
    assert REQUEUED_TOO_OFTEN in FAULTS_EXPLAINED
