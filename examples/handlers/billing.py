"""A handler for ACTION=handle: each order becomes a bill, once, however often its entry comes."""

import sqlite3

from stream_janitor import Dead, Done, Entry, Retry, Unavailable


def handle(entries: list[Entry]) -> dict[str, Done | Retry | Dead]:
    try:
        database = sqlite3.connect("bills.db", timeout=1)
        with database:
            database.execute("CREATE TABLE IF NOT EXISTS bills (source TEXT PRIMARY KEY, cents INTEGER NOT NULL)")
            return {entry.entry_id: bill(database, entry) for entry in entries}
    except sqlite3.OperationalError as error:
        raise Unavailable("the database is locked", after_s=5) from error


def bill(database: sqlite3.Connection, entry: Entry) -> Done | Dead:
    if b"cents" not in entry.fields:
        return Dead("no field cents")
    row = (f"{entry.stream}/{entry.entry_id}", int(entry.text("cents")))
    database.execute("INSERT OR IGNORE INTO bills VALUES (?, ?)", row)  # the same entry again is no second bill
    return Done()
