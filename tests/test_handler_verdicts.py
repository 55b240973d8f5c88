"""What a handler's result means: only None and a mapping acknowledge anything."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from monitor.handling.verdicts import LONGEST_REASON, LeftOut, Raised, Verdict, verdicts_of, verdicts_of_error
from stream_janitor import Dead, Done, Entry, Retry, Unavailable


def entry(entry_id: str = "1-0", *pairs: tuple[bytes, bytes]) -> Entry:
    return Entry(entry_id, pairs, "orders", "billing", 2, "crashed", 60.0)


ENTRIES = [entry("1-0"), entry("2-0")]


def said(result: object) -> list[Verdict]:
    return list(verdicts_of(result, ENTRIES).values())


def test_none_means_that_all_are_done() -> None:
    assert said(None) == [Done(), Done()]


@pytest.mark.parametrize("key", ["1-0", b"1-0"])
@pytest.mark.parametrize("done", [Done, Done()])
def test_a_mapping_says_of_each_what_became_of_it_and_what_it_leaves_out_is_not_done(key: object, done: object) -> None:
    assert said({key: done}) == [Done(), LeftOut()]
    assert said({}) == [LeftOut(), LeftOut()]
    assert said({key: Retry(after_s=5, reason="locked"), "2-0": Dead("no such customer")}) == [
        Retry(5, "locked"),
        Dead("no such customer"),
    ]


async def coroutine() -> None: ...


SAYS_NOTHING: list[Callable[[], object]] = [
    lambda: False,
    lambda: True,
    list,
    lambda: ["1-0", "2-0"],
    lambda: [Done(), Done()],
    lambda: Done(),
    lambda: Done,
    lambda: "ok",
    lambda: 0,
    lambda: (done for done in ()),
    lambda: Unavailable,
]


@pytest.mark.parametrize("result", SAYS_NOTHING)
def test_anything_else_acknowledges_nothing(result: Callable[[], object]) -> None:
    assert all(isinstance(verdict, Raised) for verdict in said(result()))


@pytest.mark.parametrize("value", [None, True, False, "done", 1, [], asyncio.CancelledError])
def test_a_mapping_s_value_that_says_nothing_acknowledges_nothing_and_costs_no_other(value: object) -> None:
    first, second = said({"1-0": value, "2-0": Done})
    assert isinstance(first, Raised)
    assert second == Done()


def test_a_coroutine_that_nobody_awaited_acknowledges_nothing() -> None:
    left = coroutine()
    assert all(isinstance(verdict, Raised) for verdict in said(left))
    assert isinstance(said({"1-0": left})[0], Raised)
    left.close()


def test_a_runner_that_takes_every_return_for_success_is_caught() -> None:
    """Control: 'it did not raise, so it is done' would acknowledge all that says nothing."""

    def naive(result: object) -> list[Verdict]:
        return [Done() for _ in ENTRIES]

    assert all(naive(result()) != said(result()) for result in SAYS_NOTHING)


def test_an_exception_is_told_by_its_class_and_never_by_its_text() -> None:
    (verdict, _) = verdicts_of_error(ValueError("kanarie"), ENTRIES).values()
    assert verdict == Raised("handler raised ValueError")


class Group(Exception):
    """As Python 3.11's ExceptionGroup looks from outside."""

    def __init__(self, *exceptions: BaseException) -> None:
        self.exceptions = exceptions


@pytest.mark.parametrize(
    "error", [Unavailable("down", 9), Group(Unavailable("down", 9)), Group(Group(Unavailable("down", 9)))]
)
def test_unavailable_is_understood_raised_and_in_groups(error: Exception) -> None:
    for verdict in verdicts_of_error(error, ENTRIES).values():
        assert isinstance(verdict, Unavailable)
        assert (verdict.reason, verdict.after_s, verdict.__traceback__) == ("down", 9, None)


def test_a_group_with_another_error_in_it_is_an_attempt() -> None:
    error = Group(Unavailable("down"), ValueError())
    assert set(verdicts_of_error(error, ENTRIES).values()) == {Raised("handler raised Group")}


def test_unavailable_is_understood_returned_for_all_and_for_one() -> None:
    assert [str(verdict) for verdict in said(Unavailable("down"))] == ["down", "down"]
    done, away = said({"1-0": Done, "2-0": Unavailable("down")})
    assert done == Done()
    assert isinstance(away, Unavailable)


def test_a_reason_is_one_line_that_fits_into_a_report() -> None:
    first, second = said({"1-0": Dead("two\nlines\x1b[31m"), "2-0": Retry(reason="x" * 1000)})
    assert isinstance(first, Dead)
    assert first.reason == "two lines [31m"
    assert isinstance(second, Retry)
    assert len(second.reason) == LONGEST_REASON


def test_a_mapping_of_ones_own_is_read_as_any() -> None:
    class Lazy(dict[str, object]):
        def items(self) -> object:  # type: ignore[override]
            raise LookupError("the user's own code")

    with pytest.raises(LookupError):  # the runner calls this inside its own try
        verdicts_of(Lazy(), ENTRIES)


# --- entries and results --------------------------------------------------------------------------------------------------


def test_an_entry_shows_every_pair_and_of_a_name_held_twice_the_last() -> None:
    one = entry("1-0", (b"a", b"1"), (b"a", b"2"), (b"\xff", b"\x00"))
    assert one.pairs == ((b"a", b"1"), (b"a", b"2"), (b"\xff", b"\x00"))
    assert dict(one.fields) == {b"a": b"2", b"\xff": b"\x00"}
    assert (one.text("a"), one.text(b"a"), one.json("a")) == ("2", "2", 2)


def test_an_entry_cannot_be_changed_and_does_not_print_what_it_holds() -> None:
    one = entry("1-0", (b"a", b"kanarie"))
    with pytest.raises(AttributeError):
        one.deliveries = 3  # type: ignore[misc]
    with pytest.raises(TypeError):
        one.fields[b"a"] = b"2"  # type: ignore[index]
    assert "kanarie" not in repr(one)
    assert hash(one) == hash(entry("1-0", (b"a", b"kanarie")))


@pytest.mark.parametrize(
    ("read", "error", "words"),
    [
        (lambda one: one.text("missing"), KeyError, "no field 'missing'"),
        (lambda one: one.text("bytes"), ValueError, "field 'bytes' is not valid UTF-8"),
        (lambda one: one.json("words"), ValueError, "field 'words' is not valid JSON"),
        (lambda one: one.json("deep"), ValueError, "field 'deep' is not valid JSON"),
        (lambda one: one.text(b"\xff"), KeyError, r"no field '\\\\xff'"),
    ],
)
def test_a_field_that_cannot_be_read_is_named_and_never_quoted(
    read: Callable[[Entry], object], error: type[Exception], words: str
) -> None:
    one = entry("1-0", (b"bytes", b"kanarie\xff"), (b"words", b"kanarie"), (b"deep", b"[" * 100_000))
    with pytest.raises(error) as raised:
        read(one)
    assert words in str(raised.value)
    seen: BaseException | None = raised.value
    assert seen is not None
    assert "kanarie" not in f"{seen!r} {vars(seen)!r}"
    assert seen.__suppress_context__ or seen.__context__ is None


@pytest.mark.parametrize("after_s", [-1, float("nan"), float("inf")])
@pytest.mark.parametrize("make", [lambda after_s: Retry(after_s), lambda after_s: Unavailable("down", after_s)])
def test_seconds_that_are_none_are_refused_where_they_are_written(
    make: Callable[[float], object], after_s: float
) -> None:
    with pytest.raises(ValueError, match="number of seconds"):
        make(after_s)
