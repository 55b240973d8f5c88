from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from redis.exceptions import ResponseError

from demo.redis import RedisServer
from monitor.context import ResumeState, SweepContext
from monitor.index import IndexInfo, RefusedDocuments, SearchIndex, field_types
from monitor.report import SweepReport
from monitor.sweep import Sweep
from shared.redis_client import Command, RedisLink
from tests.conftest import Scene, Sweeper, new_scene, raw_client, wire

NUMERIC = "id TEXT n NUMERIC place GEO"


def found(scene: Scene, query: str = "*") -> int:
    reply = scene.raw.execute_command("FT.SEARCH", scene.index, query, "NOCONTENT", "LIMIT", 0, 0)
    return int(reply[b"total_results"])


def info(scene: Scene) -> dict[bytes, object]:
    reply: dict[bytes, object] = scene.raw.execute_command("FT.INFO", scene.index)
    return reply


# --- the index as a whole -------------------------------------------------------------------------------------------------


async def test_a_missing_index_is_created_over_the_prefix_with_the_schema(
    scene: Scene, sweep: Sweeper, mode: str
) -> None:
    scene.add_tweets(3)
    scene.abandon()
    report = await sweep(scene.settings(SETTLE_MODE=mode))
    assert (report.index, report.unsearchable) == ("ok", 0)
    assert (found(scene), found(scene, "@location:India @hashtags:{a}"), found(scene, "hello")) == (3, 3, 3)
    assert info(scene)[b"index_definition"][b"prefixes"] == [scene.prefix.encode()]  # type: ignore[index]


async def test_an_index_is_created_although_nothing_is_pending(scene: Scene, sweep: Sweeper) -> None:
    assert (await sweep(scene.settings())).index == "ok"
    assert found(scene) == 0


async def test_an_index_that_was_dropped_is_created_again_and_covers_what_was_stored_before(
    scene: Scene, sweep: Sweeper
) -> None:
    scene.add_tweets(3)
    scene.abandon()
    settings = scene.settings()
    await sweep(settings)
    scene.raw.execute_command("FT.DROPINDEX", scene.index)
    assert (await sweep(settings)).index == "ok"
    while info(scene)[b"indexing"]:
        pass
    assert found(scene) == 3


async def test_four_janitors_that_miss_the_index_at_once_make_one(scene: Scene, sweep: Sweeper) -> None:
    import asyncio

    reports = await asyncio.gather(*(sweep(scene.settings()) for _ in range(4)))
    assert [report.index for report in reports] == ["ok"] * 4


async def test_an_index_over_another_prefix_is_said_in_every_report_and_left_as_it_is(
    scene: Scene, sweep: Sweeper
) -> None:
    scene.raw.execute_command(
        "FT.CREATE", scene.index, "ON", "HASH", "PREFIX", 1, "elsewhere:", "SCHEMA", *scene_schema(scene)
    )
    before = info(scene)[b"index_definition"]
    for _ in range(2):
        report = await sweep(scene.settings())
        assert report.index == f"{scene.index} covers 'elsewhere:', not HASH_PREFIX {scene.prefix!r}"
        assert report.index in str(report)
        assert not report.is_quiet
    assert info(scene)[b"index_definition"] == before


@pytest.mark.parametrize("prefixes", [["{}"], ["other:", "{}"], ["s"], [""], ["*"]])
async def test_an_index_that_covers_the_prefix_along_with_others_is_fine(
    scene: Scene, sweep: Sweeper, prefixes: list[str]
) -> None:
    named = [prefix.format(scene.prefix) for prefix in prefixes]
    scene.raw.execute_command(
        "FT.CREATE", scene.index, "ON", "HASH", "PREFIX", len(named), *named, "SCHEMA", *scene_schema(scene)
    )
    scene.add_tweets(2)
    scene.abandon()
    report = await sweep(scene.settings())
    assert (report.index, report.unsearchable) == ("ok", 0)


def scene_schema(scene: Scene) -> Sequence[str]:
    return scene.settings().streams[0].index_schema or ()


@pytest.mark.parametrize(
    ("held", "named"),
    [
        ("id TEXT user TEXT text TEXT location TEXT hashtags TEXT", "hashtags"),
        ("id TEXT user TEXT", "text, location, hashtags"),
        ("id NUMERIC user TAG text TEXT location TEXT hashtags TAG", "id, user"),
    ],
)
async def test_an_index_of_another_schema_names_the_fields(scene: Scene, sweep: Sweeper, held: str, named: str) -> None:
    scene.raw.execute_command(
        "FT.CREATE", scene.index, "ON", "HASH", "PREFIX", 1, scene.prefix, "SCHEMA", *held.split()
    )
    report = await sweep(scene.settings())
    assert report.index == f"{scene.index} has another schema than INDEX_SCHEMA: {named}"


async def test_an_index_with_more_fields_than_the_schema_is_fine(scene: Scene, sweep: Sweeper) -> None:
    scene.raw.execute_command(
        "FT.CREATE", scene.index, "ON", "HASH", "PREFIX", 1, scene.prefix, "SCHEMA", *scene_schema(scene), "more", "GEO"
    )
    assert (await sweep(scene.settings())).index == "ok"


async def test_a_schema_that_the_server_refuses_is_said_and_entries_are_recovered_all_the_same(
    scene: Scene, sweep: Sweeper, mode: str
) -> None:
    scene.add_tweets(3)
    scene.abandon()
    report = await sweep(scene.settings(SETTLE_MODE=mode, INDEX_SCHEMA="id NOSUCHTYPE"))
    assert (report.processed, report.error) == (3, None)
    assert "is missing and could not be created" in report.index


async def test_with_schema_off_no_index_is_asked_about_or_made(scene: Scene, sweep: Sweeper, mode: str) -> None:
    scene.add_tweets(3)
    scene.abandon()
    janitor = sweep.janitor(scene.settings(SETTLE_MODE=mode, INDEX_SCHEMA="off"))
    seen = wire(janitor)
    (report,) = await janitor.tick()
    assert (report.index, report.processed) == ("off", 3)
    assert not [command for command in seen.commands if str(command[0]).startswith("FT.")]
    assert "index" not in str(report)


async def test_without_the_search_module_entries_are_recovered_and_the_report_says_so(
    own_scene: Scene, sweep: Sweeper, mode: str
) -> None:
    own_scene.environment.pop("INDEX_SCHEMA")
    own_scene.add_tweets(3)
    own_scene.abandon()
    report = await sweep(own_scene.settings(SETTLE_MODE=mode))
    assert (report.processed, report.error, own_scene.pending()) == (3, None, 0)
    assert report.index == "this server has no search module; entries are recovered all the same"
    idle = await sweep(own_scene.settings(SETTLE_MODE=mode))
    assert idle.index == report.index


async def test_a_user_who_may_not_look_at_the_index_recovers_entries_and_is_told(sweep: Sweeper) -> None:
    with RedisServer() as server:
        client = raw_client(server)
        scene = new_scene(client, server.environment)
        client.execute_command("ACL", "SETUSER", "j", "on", ">pw", "~*", "+@all", "-ft.info")
        scene.add_tweets(3)
        scene.abandon()
        report = await sweep(scene.settings(REDIS_USERNAME="j", REDIS_PASSWORD="pw"))
        assert (report.processed, report.error) == (3, None)
        assert "no right" in report.index
        client.close()


async def test_an_index_dropped_midway_costs_no_entry(scene: Scene, sweep: Sweeper, mode: str) -> None:
    scene.add_tweets(300)
    scene.abandon()
    janitor = sweep.janitor(scene.settings(SETTLE_MODE=mode, PAGE_SIZE="100"))
    await janitor.tick()
    scene.add_tweets(300, first=1000)
    scene.abandon()
    seen = wire(janitor)

    def drop(command: Command) -> None:
        if len(seen.sent("XPENDING")) == 2 and not dropped:
            dropped.append(scene.raw.execute_command("FT.DROPINDEX", scene.index))

    dropped: list[object] = []
    seen.before = drop
    (report,) = await janitor.tick()
    assert (report.processed, report.error, report.unsearchable, dropped) == (300, None, 0, [b"OK"])


@pytest.mark.parametrize(
    ("schema", "types"),
    [
        ("id TEXT", {"id": "TEXT"}),
        ("text TEXT tag TAG", {"text": "TEXT", "tag": "TAG"}),
        ("hashtags TAG SEPARATOR , id text", {"hashtags": "TAG", "id": "TEXT"}),
        ("n NUMERIC SORTABLE text TEXT NOSTEM", {"n": "NUMERIC", "text": "TEXT"}),
        ("long AS short TEXT WEIGHT 2.0 geo GEO", {"long": "TEXT", "geo": "GEO"}),
        ("hashtags TAG SEPARATOR , text TEXT", {"hashtags": "TAG", "text": "TEXT"}),
        (
            "user TEXT WEIGHT 2.0 text TEXT PHONETIC dm:en weight NUMERIC",
            {"user": "TEXT", "text": "TEXT", "weight": "NUMERIC"},
        ),
        ("a TEXT SORTABLE UNF NOINDEX b TAG CASESENSITIVE", {"a": "TEXT", "b": "TAG"}),
        ("", {}),
    ],
)
def test_the_fields_of_a_schema_are_read_as_the_server_reads_them(schema: str, types: dict[str, str]) -> None:
    assert field_types(schema.split()) == types


# --- documents that the index refused ---------------------------------------------------------------------------------------


async def _store(
    scene: Scene, sweep: Sweeper, mode: str, count: int, bad: set[int], **changes: str
) -> tuple[SweepReport, list[bytes]]:
    """Sweep ``count`` entries, those numbered in ``bad`` with a value that a NUMERIC field cannot hold."""
    pipeline = scene.raw.pipeline(transaction=False)
    for number in range(count):
        value = f"canary-{number}" if number in bad else str(number)
        pipeline.execute_command("XADD", scene.stream, f"{next(scene._ids)}-0", "id", number, "n", value)
    ids: list[bytes] = pipeline.execute()
    scene.abandon()
    report = await sweep(scene.settings(SETTLE_MODE=mode, INDEX_SCHEMA=NUMERIC, SWEEP_BUDGET_SEC="19", **changes))
    assert (report.processed, report.error) == (count, None)
    return report, ids


def _named(report: SweepReport) -> set[str]:
    return {
        entry_id
        for label, named in report.reasons.items()
        if label.startswith("unsearchable")
        for entry_id in named.entry_ids
    }


@pytest.mark.parametrize(
    ("count", "bad"),
    [
        (1, {0}),
        (10, {0}),
        (10, {9}),
        (10, {3, 7}),
        (20, set(range(20))),
        (600, {0, 599}),
        (1300, set(range(0, 1300, 100))),
    ],
    ids=["only", "first", "last", "two", "all", "across 500", "spread"],
)
async def test_refused_documents_are_found_and_named_in_the_same_sweep(
    scene: Scene, sweep: Sweeper, mode: str, count: int, bad: set[int]
) -> None:
    report, ids = await _store(scene, sweep, mode, count, bad)
    assert report.unsearchable == len(bad)
    assert _named(report) == {ids[number].decode() for number in bad}
    assert found(scene) == count - len(bad)
    assert scene.pending() == 0
    assert len(scene.hashes()) == count, "the data stays"


@pytest.mark.parametrize(
    "bad",
    [{0}, {5999}, {4999, 5000, 5001}, set(range(0, 6000, 600)), set(range(2000, 3000))],
    ids=["first", "last", "at the window's edge", "spread", "a thousand"],
)
async def test_refused_documents_are_found_among_more_than_five_thousand(
    scene: Scene, sweep: Sweeper, mode: str, bad: set[int]
) -> None:
    report, ids = await _store(scene, sweep, mode, 6000, bad)
    assert report.unsearchable == len(bad)
    if len(bad) <= 20:
        assert _named(report) == {ids[number].decode() for number in bad}
    else:
        (named,) = [named for label, named in report.reasons.items() if "refused by the index" in label]
        assert (named.count, len(named.entry_ids)) == (len(bad) - 1, 20), "one of them has the index's own reason"


async def test_documents_that_a_bad_value_took_out_of_the_index_are_found(
    scene: Scene, sweep: Sweeper, mode: str
) -> None:
    await _store(scene, sweep, mode, 5, set())
    bad = scene.add("id", "3", "n", "canary")
    scene.abandon()
    report = await sweep(scene.settings(SETTLE_MODE=mode, INDEX_SCHEMA=NUMERIC))
    assert (report.unsearchable, _named(report), found(scene)) == (1, {bad.decode()}, 4)


async def test_an_old_refusal_is_not_reported_again(scene: Scene, sweep: Sweeper, mode: str) -> None:
    await _store(scene, sweep, mode, 5, {1, 2})
    scene.add("id", "new", "n", "5")
    scene.abandon()
    report = await sweep(scene.settings(SETTLE_MODE=mode, INDEX_SCHEMA=NUMERIC))
    assert (report.processed, report.unsearchable, _named(report)) == (1, 0, set())


async def test_while_the_index_refuses_nothing_no_document_is_looked_up(
    scene: Scene, sweep: Sweeper, mode: str
) -> None:
    scene.add_tweets(600)
    scene.abandon()
    janitor = sweep.janitor(scene.settings(SETTLE_MODE=mode))
    seen = wire(janitor)
    await janitor.tick()
    assert seen.sent("FT.SEARCH") == []
    assert len(seen.sent("FT.INFO")) == 3, "before, when it was created, and after"


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("n", "canary", "Invalid numeric value (field n)"),
        ("n", "", "Invalid numeric value (field n)"),
        ("n", "12: canary", "Invalid numeric value (field n)"),
        ("n", "canary'canary", "Invalid numeric value (field n)"),
        ("n", b"\xff\xfe canary", "Invalid numeric value (field n)"),
        ("place", "canary", "Invalid geo string (field place)"),
        ("place", "canary, canary", "Invalid geo string (field place)"),
        ("place", "500,500", "Invalid geo coordinates (field place)"),
    ],
)
async def test_the_indexs_own_reason_is_given_without_the_value(
    scene: Scene, sweep: Sweeper, mode: str, field: str, value: str | bytes, reason: str
) -> None:
    scene.add("id", "1", "n", "5")
    bad = scene.add("id", "2", field, value)
    scene.abandon()
    report = await sweep(scene.settings(SETTLE_MODE=mode, INDEX_SCHEMA=NUMERIC))
    assert report.reasons[f"unsearchable: {reason}"].entry_ids == (bad.decode(),)
    assert "canary" not in str(report)


async def test_the_indexs_last_reason_is_given_to_no_other_entry(scene: Scene, sweep: Sweeper, mode: str) -> None:
    first = scene.add("id", "1", "n", "canary")
    second = scene.add("id", "2", "n", "canary")
    scene.abandon()
    report = await sweep(scene.settings(SETTLE_MODE=mode, INDEX_SCHEMA=NUMERIC))
    assert report.reasons["unsearchable: refused by the index"].entry_ids == (first.decode(),)
    assert report.reasons["unsearchable: Invalid numeric value (field n)"].entry_ids == (second.decode(),)


async def test_the_reason_of_an_older_refusal_is_not_given_to_a_newer_entry_of_the_same_key(
    scene: Scene, sweep: Sweeper, mode: str
) -> None:
    settings = scene.settings(SETTLE_MODE=mode, INDEX_SCHEMA=NUMERIC)
    scene.add("id", "1", "n", "canary")
    scene.abandon()
    await sweep(settings)
    mine = scene.add("id", "1", "n", "5", "place", "canary")
    scene.add("id", "2", "n", "5", "place", "canary")
    scene.abandon()
    report = await sweep(settings)
    assert report.reasons["unsearchable: refused by the index"].entry_ids == (mine.decode(),)


@pytest.mark.parametrize("on_conflict", ["overwrite", "newer"])
async def test_entries_of_one_id_do_not_hide_a_later_refusal(
    scene: Scene, link: RedisLink, mode: str, on_conflict: str
) -> None:
    """A good and then a bad entry of one id: one refusal, but both entries' document is missing.

    Counting both against the one would leave the next window's refusal unlooked at.
    """
    scene.add("id", "twin", "n", "1")
    scene.add("id", "twin", "n", "canary")
    for number in range(8):
        scene.add("id", number, "n", str(number))
    bad = scene.add("id", "later", "n", "canary")
    for number in range(20, 25):
        scene.add("id", number, "n", str(number))
    scene.abandon()
    settings = scene.settings(SETTLE_MODE=mode, INDEX_SCHEMA=NUMERIC, ON_CONFLICT=on_conflict, CONCURRENCY="1")
    report = await _sweep_with_window(link, settings, page_size=5, window=5)
    assert bad.decode() in _named(report)


async def test_an_old_refusal_of_a_kept_hash_does_not_hide_a_later_one(
    scene: Scene, link: RedisLink, mode: str
) -> None:
    scene.raw.execute_command("FT.CREATE", scene.index, "PREFIX", 1, scene.prefix, "SCHEMA", *NUMERIC.split())
    scene.raw.execute_command("HSET", scene.prefix + "kept", "id", "kept", "n", "canary")
    scene.add("id", "kept", "n", "5")
    first = scene.add("id", "first", "n", "canary")
    for number in range(8):
        scene.add("id", number, "n", str(number))
    later = scene.add("id", "later", "n", "canary")
    scene.abandon()
    settings = scene.settings(SETTLE_MODE=mode, INDEX_SCHEMA=NUMERIC, ON_CONFLICT="keep", CONCURRENCY="1")
    report = await _sweep_with_window(link, settings, page_size=5, window=5)
    assert {first.decode(), later.decode()} <= _named(report)


async def _sweep_with_window(link: RedisLink, settings: object, page_size: int, window: int) -> SweepReport:
    """A sweep that looks at the index every ``window`` entries, so that few entries fill several windows."""
    before, RefusedDocuments.WINDOW = RefusedDocuments.WINDOW, window  # type: ignore[misc]
    try:
        sweep = Sweep(SweepContext(link, settings.streams[0], page_size, 1, 10.0), ResumeState())  # type: ignore[attr-defined]
        report = await sweep.run()
    finally:
        RefusedDocuments.WINDOW = before  # type: ignore[misc]
    assert report.error is None
    return report


async def test_a_lost_reply_about_the_index_loses_no_refusal(scene: Scene, link: RedisLink) -> None:
    settings = scene.settings(INDEX_SCHEMA=NUMERIC).streams[0]
    index = SearchIndex(link, settings)
    before = await index.create()
    bad = scene.add("id", "1", "n", "canary")
    scene.raw.execute_command("HSET", scene.prefix + "1", "id", "1", "n", "canary")
    refused = RefusedDocuments(index, before)
    await refused.note([bad])
    ask = index.ask

    async def fail() -> IndexInfo:
        raise ConnectionError

    index.ask = fail  # type: ignore[method-assign]
    with pytest.raises(ConnectionError):
        await refused.look()
    index.ask = ask  # type: ignore[method-assign]
    tally = await refused.look()
    assert tally.unsearchable == 1


async def test_entries_that_were_trimmed_meanwhile_are_left_out_of_the_question(scene: Scene, link: RedisLink) -> None:
    index = SearchIndex(link, replace(scene.settings(INDEX_SCHEMA=NUMERIC).streams[0]))
    await index.create()
    entry_id = scene.add("id", "1", "n", "canary")
    scene.raw.execute_command("HSET", scene.prefix + "1", "id", "1", "n", "canary")
    assert await index.refused([entry_id, b"1-1"]) == [(entry_id, scene.prefix.encode() + b"1")]


# --- indexes of others, and names that are aliases ------------------------------------------------------------------------


def create(scene: Scene, name: str, *options: str) -> None:
    scene.raw.execute_command(
        "FT.CREATE", name, "ON", "HASH", "PREFIX", 1, scene.prefix, *options, "SCHEMA", "id", "TEXT"
    )


def indexes(scene: Scene) -> list[bytes]:
    return [name for name in scene.raw.execute_command("FT._LIST") if name.startswith(scene.stream.encode())]


async def test_an_index_with_a_filter_is_said_and_left_as_it_is(scene: Scene, sweep: Sweeper) -> None:
    create(scene, scene.index, "FILTER", "@id=='1'")
    for number in range(5):
        scene.add("id", number)
    scene.abandon()
    report = await sweep(scene.settings(INDEX_SCHEMA="id TEXT"))
    assert (report.processed, report.index) == (
        5, f"{scene.index} has a FILTER: what does not match it is stored, and no search finds it",
    )  # fmt: skip


async def test_no_index_is_created_beside_another_one_of_exactly_this_prefix(scene: Scene, sweep: Sweeper) -> None:
    """The alias is missing for a moment: an index under its name would undo the swap."""
    create(scene, f"{scene.index}-v2")
    scene.add("id", 1)
    scene.abandon()
    report = await sweep(scene.settings(INDEX_SCHEMA="id TEXT"))
    assert (report.processed, indexes(scene)) == (1, [f"{scene.index}-v2".encode()])
    assert f"{scene.index}-v2 covers its hashes already" in report.index
    scene.raw.execute_command("FT.ALIASADD", scene.index, f"{scene.index}-v2")
    assert (await sweep(scene.settings(INDEX_SCHEMA="id TEXT"))).index == "ok"
    scene.raw.execute_command("FT.DROPINDEX", f"{scene.index}-v2")


async def test_a_name_that_was_an_alias_is_never_given_to_an_index_of_ours(scene: Scene, sweep: Sweeper) -> None:
    create(scene, f"{scene.index}-v1")
    scene.raw.execute_command("FT.ALIASADD", scene.index, f"{scene.index}-v1")
    janitor = sweep.janitor(scene.settings(INDEX_SCHEMA="id TEXT"))
    (report,) = await janitor.tick()
    assert report.index == "ok"
    scene.raw.execute_command("FT.DROPINDEX", f"{scene.index}-v1")
    (report,) = await janitor.tick()
    assert "was an alias" in report.index
    assert indexes(scene) == []


async def test_without_a_look_at_the_others_the_swap_is_undone(scene: Scene, link: RedisLink) -> None:
    """Control: what a sweep did, creating whatever is missing."""
    create(scene, f"{scene.index}-v2")
    scene.raw.execute_command("FT.CREATE", scene.index, "ON", "HASH", "PREFIX", 1, scene.prefix, "SCHEMA", "id", "TEXT")
    assert len(indexes(scene)) == 2
    for name in indexes(scene):
        scene.raw.execute_command("FT.DROPINDEX", name)


async def test_an_index_without_a_prefix_covers_everything_and_does_not_count(scene: Scene, sweep: Sweeper) -> None:
    scene.raw.execute_command("FT.CREATE", f"{scene.index}-all", "ON", "HASH", "SCHEMA", "id", "TEXT")
    assert (await sweep(scene.settings())).index == "ok"
    scene.raw.execute_command("FT.DROPINDEX", f"{scene.index}-all")


async def test_index_create_never_creates_none(scene: Scene, sweep: Sweeper) -> None:
    report = await sweep(scene.settings(INDEX_CREATE="never"))
    assert (report.index, indexes(scene)) == (f"{scene.index} is missing, and INDEX_CREATE is never", [])


async def test_where_the_others_may_not_be_looked_at_the_index_is_created_and_that_is_said(
    scene: Scene, sweep: Sweeper, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="monitor")
    janitor = sweep.janitor(scene.settings())
    call = janitor._link.call

    async def refuse(*command: Any) -> Any:
        if command[0] == "FT._LIST":
            raise ResponseError("NOPERM this user has no permissions to run the 'ft._list' command")
        return await call(*command)

    janitor._link.call = refuse  # type: ignore[method-assign]
    (report,) = await janitor.tick()
    assert report.index == "ok"
    assert "whether another index covers its hashes is not known (NOPERM)" in caplog.text
