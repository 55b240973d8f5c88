"""The raw numbers of a run, kept as JSON, and the medians that table, chart and goals are made of."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median

from bench.cold_start import ColdStart
from bench.idle_ticks import IdleTicks
from bench.memory import Memory
from bench.rate_window import RateWindow
from bench.retained import RetainedRun
from bench.rounds import Round
from bench.small_stream import SmallStream

FOLDER = Path(__file__).parent / "results"
MAIN, GROWTH, RATE_LIMIT, SPREAD, CLUSTER = "methods", "growth", "rate-limit", "spread", "cluster"
REQUEUE = "requeue"


@dataclass(slots=True)
class Results:
    """One run of the benchmark."""

    machine: dict[str, object] = field(default_factory=dict)
    rounds: list[Round] = field(default_factory=list)
    idle_ticks: list[IdleTicks] = field(default_factory=list)
    cold_starts: list[ColdStart] = field(default_factory=list)
    small_streams: list[SmallStream] = field(default_factory=list)
    rate_windows: list[RateWindow] = field(default_factory=list)
    memory: list[Memory] = field(default_factory=list)
    retained: list[RetainedRun] = field(default_factory=list)

    def save(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(asdict(self), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> Results:
        raw = json.loads(path.read_text(encoding="utf-8"))
        return cls(
            machine=raw["machine"],
            rounds=[Round(**item) for item in raw["rounds"]],
            idle_ticks=[IdleTicks(**item) for item in raw["idle_ticks"]],
            cold_starts=[ColdStart(**item) for item in raw["cold_starts"]],
            small_streams=[SmallStream(**item) for item in raw.get("small_streams", ())],
            rate_windows=[RateWindow(**item) for item in raw.get("rate_windows", ())],
            memory=[Memory(**item) for item in raw.get("memory", ())],
            retained=[RetainedRun(**item) for item in raw.get("retained", ())],
        )

    def summary(self, section: str, method: str, indexed: bool, entries: int | None = None) -> Summary | None:
        """The medians of a method's rounds; None if it had none. `entries`: None means any."""
        rounds = [
            round_
            for round_ in self.rounds
            if (round_.section, round_.method, round_.indexed) == (section, method, indexed)
            and entries in (None, round_.entries)
        ]
        return Summary.of(rounds) if rounds else None

    def sizes(self, section: str) -> list[int]:
        return sorted({round_.entries for round_ in self.rounds if round_.section == section})


@dataclass(frozen=True, slots=True)
class Summary:
    """Medians over the valid rounds; if every attempt was void, over all, and `valid_rounds` is 0."""

    method: str
    indexed: bool
    entries: int
    valid_rounds: int
    void_rounds: int
    seconds: float
    entries_per_s: float
    client_cpu_us: float
    client_peak_mb: float
    server_cpu_us: float
    server_busy: float
    p50_ms: float
    p99_ms: float
    net_in_bytes: float
    net_out_bytes: float
    """An entry's."""

    @classmethod
    def of(cls, rounds: list[Round]) -> Summary:
        valid = [round_ for round_ in rounds if not round_.void]
        counted = valid or rounds
        entries = counted[0].entries
        return cls(
            method=counted[0].method,
            indexed=counted[0].indexed,
            entries=entries,
            valid_rounds=len(valid),
            void_rounds=len(rounds) - len(valid),
            seconds=median(round_.seconds for round_ in counted),
            entries_per_s=median(round_.entries_per_s for round_ in counted),
            client_cpu_us=_us_per_entry((round_.client_cpu_s for round_ in counted), entries),
            client_peak_mb=median(round_.client_peak_mb for round_ in counted),
            server_cpu_us=_us_per_entry((round_.server_cpu_s for round_ in counted), entries),
            server_busy=median(round_.server_busy for round_ in counted),
            p50_ms=median(round_.bystander["p50_ms"] for round_ in counted),
            p99_ms=median(round_.bystander["p99_ms"] for round_ in counted),
            net_in_bytes=median(round_.net_in_bytes for round_ in counted) / entries,
            net_out_bytes=median(round_.net_out_bytes for round_ in counted) / entries,
        )


def _us_per_entry(seconds: Iterable[float], entries: int) -> float:
    return 1_000_000 * median(seconds) / entries
