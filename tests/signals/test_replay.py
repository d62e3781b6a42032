"""`edge-agent signals replay` and `edge-agent rows --recorded`, from a file to lines and rows."""

import json
import random
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from edge_agent.core.clock import parse_timestamp, rfc3339
from edge_agent.signals.machine import Reading
from edge_agent.signals.recorder import Recorder, recorded_path, recorded_rows
from edge_agent.signals.rows import Fault, labelled, read_faults
from tests.helpers.processes import EDGE_AGENT, EdgeAgent, Ended
from tests.helpers.sparkplug import Payload
from tests.helpers.support import ECHO_CONFIG

# 2026-11-30T12:00:00Z
START = 1_796_040_000
CONFIG = (
    ECHO_CONFIG
    + """[tasks.pump]
kind = "classify"
labels = ["normal", "worn"]
signals = "pump"
[signals.pump]
window_s = 60
every_s = 10
min_coverage = 0
features = ["last", "mean"]
record_every_s = 60
[signals.pump.values]
vib = { topic = "plant/+/vib" }
"""
)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "config.toml").write_text(CONFIG, "utf-8")
    (tmp_path / "state").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def line(at: float, payload: str, topic: str = "plant/pump 7/vib", retained: int = 0) -> str:
    return f"{START + at:.9f} {retained} {payload.encode().hex()} {topic}\n"


def replay(edge_agent: EdgeAgent, text: str) -> Ended:
    Path("recording.txt").write_text(text, "utf-8")
    return edge_agent("signals", "replay", "recording.txt", "--config", "config.toml")


@pytest.mark.usefixtures("folder")
def test_a_recording_gives_the_readings_at_their_times(edge_agent: EdgeAgent) -> None:
    ended = replay(edge_agent, line(0, "9", retained=1) + line(0, "2") + line(5, "") + line(30, "4") + f"{START + 31} lost\n" + line(80, "5"))  # fmt: skip  # noqa: E501
    assert ended.returncode == 0
    lines = [json.loads(text) for text in ended.stdout.splitlines()]
    assert [known["machine"] for known in lines] == ["pump 7"] * 3
    assert all(known["trigger"] == "every" and known["signals"] == "pump" for known in lines)
    assert [known["ts"][:18] for known in lines] == ["2026-11-30T12:00:0", "2026-11-30T12:00:1", "2026-11-30T12:00:2"]
    assert {known["input"]["vib"]["last"] for known in lines} == {2.0}
    assert {known["task"] for known in lines} == {"pump"}
    assert '"not_taken":{"empty":1}' in ended.stderr


@pytest.mark.usefixtures("folder")
def test_readings_that_were_due_before_a_lost_connection_are_made(edge_agent: EdgeAgent) -> None:
    ended = replay(edge_agent, line(0, "2") + f"{START + 31} lost\n")
    assert len(ended.stdout.splitlines()) == 3


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (line(0, "1", topic="plant/vib"), "pump: no reading: no message gives a value"),
        (line(0, "x"), "pump: no reading: no payload could be read"),
        (line(0, "1") + line(1, ""), "pump: no reading: values must be known for 30 s first"),
        (line(0, "1") + f"{START + 1} lost\n", 'pump: no reading: at the end, "pump 7" has no vib'),
        (line(0, "1") + line(59, "1"), "pump: no reading: none was due"),
    ],
)
def test_a_recording_without_a_reading_says_why(folder: Path, edge_agent: EdgeAgent, text: str, words: str) -> None:
    more = CONFIG.replace("min_coverage = 0", "").replace("every_s = 10", "every_s = 86400")
    (folder / "config.toml").write_text(more, "utf-8")
    ended = replay(edge_agent, text)
    assert (ended.returncode, ended.stdout) == (0, "")
    assert words in ended.stderr


def test_a_recording_of_sparkplug_without_a_birth_says_so(folder: Path, edge_agent: EdgeAgent) -> None:
    of_metrics = CONFIG.replace("[signals.pump]\n", '[signals.pump]\nsource = "sparkplug"\n')
    (folder / "config.toml").write_text(of_metrics.replace('topic = "plant/+/vib"', 'metric = "Vib"'), "utf-8")
    data = Payload(metrics=[{"alias": 1, "float_value": 7.5}]).SerializeToString().hex()
    ended = replay(edge_agent, f"{START} 0 {data} spBv1.0/P/DDATA/n/d\n")
    assert "pump: no reading: the recording has no birth" in ended.stderr


@pytest.mark.usefixtures("folder")
def test_a_reader_that_ends_early_ends_the_replay_without_a_word() -> None:
    Path("recording.txt").write_text("".join(line(30 * number, "2") for number in range(300)), "utf-8")
    command = [*EDGE_AGENT, "signals", "replay", "recording.txt", "--config", "config.toml"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("1796040000 0 zz plant/a/vib\n", "line 1: should be a line of `mosquitto_sub"),
        ("1796040000 2 31 plant/a/vib\n", "line 1: should be a line of"),
        ("plant/a/vib 3\n", "line 1: should be a line of"),
        ("nan 0 31 plant/a/vib\n", "line 1: should be a line of"),
        ("1796040000000 0 31 plant/a/vib\n", "line 1: should be a line of"),
        (line(5, "1") + line(4, "1"), "line 2: should not be earlier"),
    ],
)
def test_a_line_that_cannot_be_read_is_named(edge_agent: EdgeAgent, text: str, words: str) -> None:
    ended = replay(edge_agent, text)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert words in ended.stderr


def record(folder: Path, ats: list[int], machine: str = "pump-7", table: str = "pump") -> None:
    readings = [
        Reading(table, machine, "every", START + at, {"vib": {"last": float(at), "mean_1m": 1.0}}) for at in ats
    ]
    Recorder(folder / "state", table, 1.0).add(readings)


def rows(edge_agent: EdgeAgent, *options: str) -> tuple[Ended, list[dict[str, Any]]]:
    ended = edge_agent("rows", "pump", "--config", "config.toml", "--force", *options)
    path = Path("rows.jsonl")
    return ended, [json.loads(text) for text in path.read_text("utf-8").splitlines()] if path.exists() else []


def test_the_logbook_labels_readings_except_just_before_its_edges(folder: Path, edge_agent: EdgeAgent) -> None:
    record(folder, [0, 50, 100, 130, 150, 190, 230, 250, 300, 420])
    record(folder, [200], machine="pump-8")
    book = "machine,from,to,answer\npump-7,2026-11-30T12:02:00Z,2026-11-30T12:05:00Z,worn\n"
    (folder / "faults.csv").write_text(book, "utf-8")
    ended, written = rows(edge_agent, "--faults", "faults.csv", "--else", "normal")
    assert ended.returncode == 0
    kept = [(row["machine"], row["input"]["vib"]["last"], row["answer"]) for row in written]
    assert kept == [
        ("pump-7", 0.0, "normal"),
        ("pump-7", 50.0, "normal"),
        ("pump-7", 150.0, "worn"),
        ("pump-7", 190.0, "worn"),
        ("pump-7", 230.0, "worn"),
        ("pump-7", 420.0, "normal"),
        ("pump-8", 200.0, "normal"),
    ]
    assert written[0]["ts"] == "2026-11-30T12:00:00.000Z"
    assert "left out 4: without an answer, or from 60 s before a start or an end to 15 s after it" in ended.stdout
    assert "few rows are within 60 s after a start or an end" in ended.stdout
    assert 'faults.csv ends at 2026-11-30T12:05:00.000Z; rows with "normal" after that: 1; add' in ended.stdout
    (folder / "config.toml").write_text(CONFIG.replace('["last", "mean"]', '["last"]'), "utf-8")
    assert "few rows" not in rows(edge_agent, "--faults", "faults.csv", "--else", "normal")[0].stdout
    (folder / "config.toml").write_text(CONFIG, "utf-8")
    record(folder, [140, 160, 320, 330])
    ended, written = rows(edge_agent, "--faults", "faults.csv")
    assert [row["answer"] for row in written] == ["worn"] * 5
    assert "ends at" not in ended.stdout
    ended, _ = rows(edge_agent, "--faults", "faults.csv", "--else", "normal")
    assert "few rows" not in ended.stdout


def test_a_mistyped_machine_does_not_make_its_fault_one_of_the_others(folder: Path, edge_agent: EdgeAgent) -> None:
    record(folder, [0, 190])
    (folder / "faults.csv").write_text("machine,from,to,answer\npump7,2026-11-30T12:02:00Z,,worn\n", "utf-8")
    ended, written = rows(edge_agent, "--faults", "faults.csv", "--else", "normal")
    assert (ended.returncode, written) == (1, [])
    assert 'no readings are recorded for "pump7"; similar names are "pump-7"; correct' in ended.stderr
    (folder / "faults.csv").write_text("machine,from,to,answer\nlathe,2026-11-30T12:02:00Z,,worn\n", "utf-8")
    ended, written = rows(edge_agent, "--faults", "faults.csv", "--else", "normal")
    assert 'no readings are recorded for "lathe"; those recorded are of "pump-7"; correct' in ended.stderr
    (folder / "faults.csv").write_text("machine,from,to,answer\npump7,2026-11-30T12:02:00Z,,worn\n", "utf-8")
    record(folder, [240], machine="pump7")
    ended, written = rows(edge_agent, "--faults", "faults.csv", "--else", "normal")
    assert ended.returncode == 0


def test_a_log_of_the_whole_plant_may_have_machines_and_answers_of_other_tables(
    folder: Path, edge_agent: EdgeAgent
) -> None:
    table = CONFIG[CONFIG.index("[signals.pump]") :].replace("signals.pump", "signals.line")
    (folder / "config.toml").write_text(CONFIG + table, "utf-8")
    record(folder, [0, 190])
    record(folder, [0], machine="line-1", table="line")
    book = "machine,from,to,answer\npump-7,2026-11-30T12:02:00Z,,worn\nline-1,2026-11-30T12:02:00Z,,jammed\n"
    (folder / "faults.csv").write_text(book, "utf-8")
    ended, written = rows(edge_agent, "--faults", "faults.csv", "--else", "normal")
    assert (ended.returncode, [row["answer"] for row in written]) == (0, ["normal", "worn"])
    assert 'faults.csv: skipped "line-1", whose readings are in other tables' in ended.stderr


def test_a_machine_without_readings_is_named_beside_the_json_object(folder: Path, edge_agent: EdgeAgent) -> None:
    record(folder, [190])
    logbook = "machine,from,to,answer\npump-7,2026-11-30T12:02:00Z,,worn\npump-8,2026-11-30T12:02:00Z,,worn\n"
    (folder / "faults.csv").write_text(logbook, "utf-8")
    ended, _ = rows(edge_agent, "--faults", "faults.csv", "--json")
    assert ended.document["labels"] == {"worn": 1}
    assert 'no readings are recorded for "pump-8"' in ended.stderr


def test_without_a_logbook_the_rows_have_no_answers(folder: Path, edge_agent: EdgeAgent) -> None:
    record(folder, [0, 60])
    ended, written = rows(edge_agent, "--recorded")
    assert ended.returncode == 0
    assert [set(row) for row in written] == [{"task", "ts", "machine", "input"}] * 2


@pytest.mark.parametrize(
    ("book", "words"),
    [
        ("machine,from,to\n", "faults.csv:1: should be machine,from,to,answer"),
        ("machine,from,to,answer\na,yesterday,,worn\n", "faults.csv:2: from and to should be times"),
        ("machine,from,to,answer\na,2026-01-02,2026-01-01,worn\n", "faults.csv:2: from and to should be times"),
        ("machine,from,to,answer\n,2026-01-02,,worn\n", "faults.csv:2: should have a machine"),
        ("machine,from,to,answer\na,2026-01-01,,worn\na,2026-01-02,,normal\n", 'intervals of "a" overlap'),
        ("machine,from,to,answer\na,2026-01-01,,broken\n", "answer: should be one of normal, worn"),
        ("machine,from,to,answer\na,2026-01-01,,worn, badly\n", "faults.csv:2: should have a machine and an answer"),
        (f'machine,from,to,answer\na,2026-01-01,,"{"x" * 200_000}', "faults.csv: field larger than field limit"),
    ],
)
def test_a_fault_in_the_logbook_is_named(folder: Path, edge_agent: EdgeAgent, book: str, words: str) -> None:
    record(folder, [0])
    (folder / "faults.csv").write_text(book, "utf-8")
    ended, _ = rows(edge_agent, "--faults", "faults.csv")
    assert ended.returncode == 1
    assert words in ended.stderr


@pytest.mark.usefixtures("folder")
def test_if_nothing_is_recorded_the_key_is_named(edge_agent: EdgeAgent) -> None:
    ended, _ = rows(edge_agent, "--recorded")
    assert ended.returncode == 1
    assert "no readings of [signals.pump] are recorded" in ended.stderr


@pytest.mark.usefixtures("folder")
def test_options_of_rows_that_would_mislead_are_refused(edge_agent: EdgeAgent) -> None:
    for options in ([], ["--recorded"]):
        ended = edge_agent("rows", "pump", "--else", "normal", "--config", "config.toml", *options)
        assert (ended.returncode, ended.stderr) == (64, "edge-agent: --else: requires --faults\n")
        ended = edge_agent("rows", "pump", "--out", "rows.csv", "--config", "config.toml", *options)
        assert (ended.returncode, "--out: should end in .jsonl" in ended.stderr) == (64, True)


def test_recorded_readings_take_no_more_disk_than_allowed(folder: Path) -> None:
    recorder = Recorder(folder, "pump", 0.01)
    for at in range(500):
        recorder.add([Reading("pump", "a", "every", START + at, {"vib": {"last": float(at)}})])
    path = recorded_path(folder, "pump")
    assert sum(file.stat().st_size for file in folder.glob("signals-pump.jsonl*")) <= 11_000
    assert path.stat().st_mode & 0o077 == 0
    kept = [row["input"]["vib"]["last"] for row in recorded_rows(folder, "pump")]
    assert kept == [float(at) for at in range(500 - len(kept), 500)]
    assert len(kept) > 50


def test_a_logbook_of_thousands_of_lines_labels_thousands_of_readings_in_seconds() -> None:
    dice = random.Random(5)
    edges = sorted(dice.sample(range(START, START + 10_000_000), 8000))
    spans = [*zip(edges[::2], edges[1::2], strict=True)]
    book = {"a": [Fault(start, end, str(start)) for start, end in spans]}
    recorded = [{"ts": rfc3339(START + at * 500), "machine": "a"} for at in range(20_000)]
    started_at = time.monotonic()
    answers = [row["answer"] for row in labelled(recorded, book, window_s=60, otherwise="-")]
    assert time.monotonic() - started_at < 3
    expected = []
    for row in recorded[:500]:
        at = parse_timestamp(row["ts"]) or 0.0
        if not any(-60 < at - edge < 15 for edge in edges[:1000]):
            expected.append(next((str(start) for start, end in spans[:500] if start <= at < end), "-"))
    assert answers[: len(expected)] == expected


def test_a_machine_may_have_any_character_that_a_topic_may_have(folder: Path) -> None:
    record(folder, [0], machine="pump\u20287")
    assert [row["machine"] for row in recorded_rows(folder / "state", "pump")] == ["pump\u20287"]


def test_a_line_that_a_power_cut_has_damaged_is_left_out(folder: Path) -> None:
    record(folder, [0, 60])
    path = recorded_path(folder / "state", "pump")
    path.write_bytes(path.read_bytes()[:-20] + b"\n\0\0\0")
    assert len(list(recorded_rows(folder / "state", "pump"))) == 1


def test_times_of_the_logbook_without_an_offset_are_local(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    try:
        path = tmp_path / "f.csv"
        path.write_text("machine,from,to,answer\na,2026-11-30 13:00,2026-11-30T12:30:00Z,worn\n", "utf-8")
        (fault,) = read_faults(path)["a"]
    finally:
        monkeypatch.undo()
        time.tzset()
    assert (fault.start, fault.end) == (START, START + 1800)
