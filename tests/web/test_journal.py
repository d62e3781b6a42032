"""What has happened at the site, as entries on the disk, within bounds, and the time in which nobody watched."""

import json
import time
from pathlib import Path
from typing import Any

import pytest

from edge_agent.tools.watch.site import Row, Site
from edge_agent.web.journal import MAX_PER_MINUTE, Entry, Journal, as_csv
from edge_agent.web.recorders import ChangeRecorder, EventRecorder
from tests.tools.watch import boards
from tests.web.pages import ORIGIN, Page, said

WALL = boards.WALL
DAY_S = 86_400


class Plant:
    """A board and the recorder that watches it."""

    def __init__(self, folder: Path) -> None:
        self.journal = Journal(folder)
        self.recorder = ChangeRecorder(self.journal)
        self.recorder.restore()
        self.site = Site("edgeai/v1", "hall1")
        self.wall = WALL

    def say(self, topic: str, payload: bytes, *, gets_retained: bool = True) -> None:
        # A will that is not retained counts a moment later.
        self.site.receive(said(f"press-04/{topic}", payload, is_retained=topic == "state"), self.wall)
        self.look(gets_retained=gets_retained)

    def look(self, *, gets_retained: bool = True) -> None:
        self.wall += 1
        self.recorder.update(self.site.rows(time.monotonic()), self.wall, gets_retained=gets_retained)

    @property
    def entries(self) -> list[tuple[str, str | None, str | None]]:
        return [(entry.what, entry.name, entry.text) for entry in self.journal.read(limit=100)[::-1]]


def online(folder: Path) -> Plant:
    plant = Plant(folder)
    plant.say("state", boards.state())
    plant.say("health", boards.health())
    return plant


def alarm(message: str = "84.4 °C") -> bytes:
    document = {"severity": "critical", "message": message, "session": "s1", "since": boards.ts(WALL)}
    return json.dumps(document).encode()


def test_only_a_change_of_a_level_is_an_entry(tmp_path: Path) -> None:
    plant = online(tmp_path)
    plant.look()
    assert plant.entries == []
    plant.say("health", boards.health(overall="degraded", reasons=["thermal"]))
    plant.say("health", boards.health(overall="degraded", reasons=["thermal"]))
    assert plant.entries == [("level", "degraded", "thermal")]


def test_other_reasons_of_the_same_level_are_an_entry_once_a_minute(tmp_path: Path) -> None:
    plant = online(tmp_path)
    for reasons in (["thermal"], ["queue-full"], ["thermal"], ["queue-full", "limited"]):
        plant.say("health", boards.health(overall="degraded", reasons=reasons))
    assert plant.entries == [("level", "degraded", "thermal")]
    plant.wall += 60
    plant.look()
    # The next process knows them.
    later = Plant(tmp_path)
    later.wall += 120
    later.say("state", boards.state())
    later.say("health", boards.health(overall="degraded", reasons=["limited", "queue-full"]))
    assert later.entries == [("level", "degraded", "thermal"), ("level", "degraded", "queue-full; limited")]


def test_a_critical_level_has_its_alarm_as_its_reason(tmp_path: Path) -> None:
    plant = online(tmp_path)
    plant.say("alarm/overheating", alarm())
    plant.wall += 60
    plant.say("health", boards.health(overall="critical", reasons=["overheating"]))
    levels = [entry for entry in plant.entries if entry[0] == "level"]
    assert levels == [("level", "critical", "overheating")]


def test_a_degraded_board_that_gets_critical_is_so_for_what_is_critical_alone(tmp_path: Path) -> None:
    plant = online(tmp_path)
    plant.say("health", boards.health(overall="degraded", reasons=["promise-unproven"]))
    plant.say("alarm/overheating", alarm())
    severity = {"overheating": 2, "promise-unproven": 1}
    reasons = ["overheating", "promise-unproven"]
    plant.wall += 60
    plant.say("health", boards.health(overall="critical", reasons=reasons, severity=severity))
    plant.say("alarm/overheating", b"")
    for _ in range(2):
        plant.wall += 60
        plant.say("health", boards.health(overall="degraded", reasons=["promise-unproven"]))
    assert [entry for entry in plant.entries if entry[0] == "level"] == [
        ("level", "degraded", "promise-unproven"),
        ("level", "critical", "overheating"),
        ("level", "degraded", "promise-unproven"),
    ]


def test_an_alarm_that_ends_is_no_other_reason_of_a_level_that_stays(tmp_path: Path) -> None:
    plant = online(tmp_path)
    plant.say("alarm/odd-inputs", alarm().replace(b"critical", b"warning"))
    plant.wall += 60
    plant.say("health", boards.health(overall="degraded", reasons=["promise-unproven"]))
    plant.say("alarm/odd-inputs", b"")
    for _ in range(2):
        plant.wall += 60
        plant.look()
    levels = [entry for entry in plant.entries if entry[0] == "level"]
    assert [why for _, _, why in levels] == ["odd-inputs", "odd-inputs; promise-unproven"]


def test_a_board_that_is_not_ok_when_it_is_first_heard_is_an_entry(tmp_path: Path) -> None:
    plant = Plant(tmp_path)
    plant.say("state", boards.state())
    plant.say("health", boards.health(overall="degraded", reasons=["promise-unproven"]))
    assert plant.entries == [("level", "degraded", "promise-unproven")]


def test_a_new_reason_of_an_offline_board_is_an_entry_but_a_new_age_is_not(tmp_path: Path) -> None:
    plant = Plant(tmp_path)
    plant.say("health", boards.health())
    plant.say("state", boards.will())
    plant.wall += 60
    plant.look()
    plant.say("state", boards.state("offline", reason="model-load-failed: gone"))
    whys = [(why or "").split("; ")[0] for what, name, why in plant.entries if (what, name) == ("level", "offline")]
    assert whys == ["connection-lost", "model-load-failed: gone"]


def test_an_alarm_is_an_entry_when_it_is_raised_and_when_it_ends(tmp_path: Path) -> None:
    plant = online(tmp_path)
    plant.say("alarm/overheating", alarm())
    plant.look()
    plant.say("alarm/overheating", b"")
    assert [entry for entry in plant.entries if entry[0] != "level"] == [
        ("alarm", "overheating", "84.4 °C"),
        ("alarm-end", "overheating", None),
    ]


def test_another_version_or_configuration_of_a_board_is_an_entry(tmp_path: Path) -> None:
    plant = online(tmp_path)
    for config, folder in (("aaaa0000c", "v1"), ("aaaa0000c", "v1"), ("aaaa0000c", "v2"), ("bbbb0000c", "v2")):
        info = {"versions": {"edge_agent": "0.2.0", "folder": folder}, "config_sha256": config}
        plant.say("info", json.dumps(info).encode())
    assert plant.entries == [
        ("event", "version-changed", "now v2, before v1"),
        ("event", "config-changed", "now bbbb0000, before aaaa0000"),
    ]


@pytest.mark.parametrize("state", [boards.will(), boards.state("stopped"), boards.state("offline", reason="starting")])
def test_an_alarm_of_a_board_that_was_killed_or_stopped_has_not_ended_but_is_void(tmp_path: Path, state: bytes) -> None:
    plant = online(tmp_path)
    plant.say("alarm/overheating", alarm())
    plant.say("state", state.replace(b'"s1"', b'"s2"'))
    assert [entry[:2] for entry in plant.entries if entry[0].startswith("alarm-")] == [("alarm-void", "overheating")]
    assert not Plant(tmp_path).recorder._known("press-04").alarms


def test_the_alarm_of_a_board_whose_model_does_not_load_is_an_entry(tmp_path: Path) -> None:
    plant = online(tmp_path)
    plant.say("state", boards.state("offline", reason="model-load-failed: no such file"))
    plant.say("alarm/model-load-failed", alarm("copy the bundle there again"))
    assert ("alarm", "model-load-failed", "copy the bundle there again") in plant.entries


def test_another_process_goes_on_from_what_the_journal_says(tmp_path: Path) -> None:
    online(tmp_path).say("alarm/overheating", alarm())
    later = online(tmp_path)
    later.recorder.on_connected()
    assert [name for what, name, _ in later.entries if what == "alarm-end"] == ["overheating"]
    assert [name for what, name, _ in later.entries if what == "level"] == ["critical", "ok"]
    before = later.entries
    assert online(tmp_path).entries == before


def test_where_the_broker_sends_no_retained_alarms_one_that_was_not_heard_has_not_ended(tmp_path: Path) -> None:
    online(tmp_path).say("alarm/overheating", alarm())
    later = Plant(tmp_path)
    later.say("state", boards.state(), gets_retained=False)
    later.say("health", boards.health(), gets_retained=False)
    assert not any(what == "alarm-end" for what, _, _ in later.entries)
    later.say("alarm/overheating", alarm(), gets_retained=False)
    later.say("alarm/overheating", b"", gets_retained=False)
    assert ("alarm-end", "overheating", None) in later.entries


def test_a_time_without_a_process_is_an_entry_with_its_begin_and_end(tmp_path: Path) -> None:
    first = Journal(tmp_path)
    first.start(WALL)
    first.stop(WALL + 100)
    second = Journal(tmp_path)
    second.start(WALL + 700)
    gap = next(entry for entry in second.read(limit=10) if entry.what == "page-was-off")
    assert (gap.at, gap.until) == (WALL + 100, WALL + 700)
    assert [entry.what for entry in second.recent(0)] == ["page-started", "page-was-off", "page-started"]


def test_a_process_that_was_killed_was_there_within_a_minute_before(tmp_path: Path) -> None:
    first = Journal(tmp_path)
    first.start(WALL)
    for second in range(0, 130, 10):
        first.tick(WALL + second)
    after = Journal(tmp_path)
    after.start(WALL + 1000)
    gap = next(entry for entry in after.read(limit=10) if entry.what == "page-was-off")
    assert gap.at == WALL + 120
    after.add(Entry(at=WALL + 1030, what="feedback", device="press-04"))
    last = Journal(tmp_path)
    last.start(WALL + 2000)
    assert [entry.at for entry in last.read(limit=10) if entry.what == "page-was-off"] == [WALL + 1030, WALL + 120]


def test_a_clock_that_was_set_back_makes_no_gap(tmp_path: Path) -> None:
    Journal(tmp_path).start(WALL)
    later = Journal(tmp_path)
    later.start(WALL - 5000)
    assert all(entry.what == "page-started" for entry in later.read(limit=10))


def test_entries_are_read_by_time_board_and_kind_newest_first(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    for number in range(10):
        what = "alarm" if number % 2 else "level"
        journal.add(Entry(at=WALL + number * DAY_S / 2, what=what, device=f"b{number % 3}", name=str(number)))

    def names(**query: Any) -> list[str | None]:
        return [entry.name for entry in journal.read(**{"limit": 100, **query})]

    assert names() == list("9876543210")
    assert names(limit=2) == ["9", "8"]
    assert names(device="b1") == ["7", "4", "1"]
    assert names(what=frozenset({"alarm"}), device="b0") == ["9", "3"]
    assert names(since=WALL + DAY_S, until=WALL + 2 * DAY_S) == ["3", "2"]


def test_days_and_bytes_are_bounded_and_the_oldest_goes_first(tmp_path: Path) -> None:
    journal = Journal(tmp_path, max_bytes=50_000, max_file_bytes=5_000)
    for day in range(120):
        at = WALL + day * DAY_S
        journal.add(Entry(at=at, what="level", device="a", name=str(day)))
        journal.tick(at)
    days = [entry.name for entry in journal.read(limit=1000)]
    assert days[0] == "119"
    assert len(days) == 91
    for number in range(2000):
        at = WALL + 120 * DAY_S + 60 * number
        journal.add(Entry(at=at, what="event", device="a", text="x" * 200))
        journal.tick(at)
    size = sum(path.stat().st_size for path in tmp_path.glob("*.jsonl"))
    assert 30_000 < size <= 50_000


def test_bytes_are_bounded_also_within_a_minute(tmp_path: Path) -> None:
    journal = Journal(tmp_path, max_bytes=50_000, max_file_bytes=5_000)
    for number in range(1000):
        journal.add(Entry(at=WALL, what="event", device=f"b{number}", text="x" * 200))
    assert 30_000 < sum(path.stat().st_size for path in tmp_path.glob("*.jsonl")) <= 50_000


def test_a_board_that_says_something_all_the_time_leaves_room_for_others(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    for _ in range(1000):
        journal.add(Entry(at=WALL, what="event", device="noisy", name="x"))
    journal.add(Entry(at=WALL, what="event", device="calm", name="x"))
    entries = journal.read(limit=10_000)
    assert entries[0].device == "calm"
    assert entries[1].name == "left-out"
    assert len(entries) == MAX_PER_MINUTE + 2


def test_however_many_events_a_board_publishes_its_levels_alarms_commands_and_switches_are_kept(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    kept = [("level", "offline"), ("alarm", "overheating"), ("alarm-end", "overheating"), ("event", "model-switched")]
    kept += [("event", "command"), ("event", "worker-restarted")]
    for name in ["x"] * 100 + ["command"] * MAX_PER_MINUTE:
        journal.add(Entry(at=WALL, what="event", device="press-04", name=name))
    for what, name in kept:
        journal.add(Entry(at=WALL, what=what, device="press-04", name=name))
    assert [(entry.what, entry.name) for entry in journal.read(limit=len(kept))[::-1]] == kept


def test_a_switch_or_fallback_names_the_folders_and_versions_of_both_models_and_who_sent_it(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    rows: dict[str, Row] = {row.device: row for row in online(tmp_path).site.rows(time.monotonic())}
    events = EventRecorder("edgeai/v1", "hall1", rows, journal)
    old, new = ({"name": "pump-demo", "folder": f"pumps-{n}", "version": n, "sha256": "c0c9"} for n in (1, 2))
    document = {"model": "default", "how": "switch", "old": old, "new": new, "by": "ana@pc-7"}
    events.receive(said("press-04/event/model-switched", json.dumps(document).encode()), WALL)
    bare = {**document, "old": {"name": "qwen", "folder": None, "version": None}, "how": "rollback"}
    events.receive(said("press-04/event/model-switched", json.dumps(bare).encode()), WALL)
    fallback = {"model": "default", "old": {"folder": "pumps-2"}, "new": old}
    events.receive(said("press-04/event/model-fallback", json.dumps(fallback).encode()), WALL)
    events.receive(said("press-04/event/model-switched", json.dumps({**document, "new": old}).encode()), WALL)
    repaired, fallen_back, rolled_back, switched = journal.read(limit=4)
    assert switched.text == "old pumps-1 (version 1), new pumps-2 (version 2)"
    assert switched.by == "ana@pc-7"
    assert rolled_back.text == "old qwen, new pumps-2 (version 2) (rollback)"
    assert fallen_back.text == "old pumps-2, new pumps-1 (version 1)"
    assert repaired.text == "the same bundle again: pumps-1 (version 1)"


def test_the_messages_of_doctor_are_no_entries(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    rows: dict[str, Row] = {row.device: row for row in online(tmp_path).site.rows(time.monotonic())}
    events = EventRecorder("edgeai/v1", "hall1", rows, journal)
    for name in ("doctor", "doctor-answer"):
        events.receive(said(f"press-04/event/{name}", b'{"token": "0a"}'), WALL)
    assert journal.read(limit=10) == []


def test_a_line_that_a_power_failure_cut_is_skipped_and_followed_by_a_whole_one(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.add(Entry(at=WALL, what="level", device="a", name="1"))
    (file,) = tmp_path.glob("*.jsonl")
    file.write_bytes(file.read_bytes() + b'\n{"at": 17')
    journal.add(Entry(at=WALL, what="level", device="a", name="2"))
    assert [entry.name for entry in Journal(tmp_path).read(limit=10)] == ["2", "1"]


@pytest.mark.expects_warning
def test_a_full_disk_is_said_once_and_entries_stay_in_memory(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    journal = Journal(tmp_path / "gone")
    for number in range(3):
        journal.add(Entry(at=WALL, what="level", device="a", name=str(number)))
    assert [entry.name for entry in journal.recent(0)] == ["2", "1", "0"]
    assert len(caplog.records) == 1


def test_events_are_entries_of_boards_that_are_on_the_page(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    rows: dict[str, Row] = {row.device: row for row in online(tmp_path).site.rows(time.monotonic())}
    events = EventRecorder("edgeai/v1", "hall1", rows, journal)
    payload = b'{"ts": "2026-11-28T09:52:30.148Z", "restarts": 1, "pid": 3588, "reason": "killed by SIGKILL"}'
    events.receive(said("press-04/event/worker-restarted", payload), WALL)
    events.receive(said("press-99/event/worker-restarted", payload), WALL)
    reload = b'{"op": "reload", "by": "ana", "applied": ["tasks", "log"], "needs_restart": []}'
    events.receive(said("press-04/event/command", reload), WALL)
    lost = b'{"task": "t", "promised": 0.9, "why": "audits", "asked": 0, "audits": 0, "held_out": 0}'
    events.receive(said("press-04/event/promise-lost", lost), WALL)
    promise, command, entry = journal.read(limit=10)
    assert promise.text == "task: t; promised: 0.9; why: audits"
    assert (command.name, command.by) == ("command", "ana")
    assert command.text == "op: reload; applied: tasks, log; needs_restart: -"
    assert (entry.device, entry.name) == ("press-04", "worker-restarted")
    assert entry.text == "restarts: 1; pid: 3588; reason: killed by SIGKILL"


def test_no_cell_of_the_csv_is_a_formula_and_control_characters_are_escaped() -> None:
    text = as_csv([Entry(at=WALL, what="event", device="a", name="=1+1", text="\x1b[31m\nred;=1; -2", by=" @ana")])
    assert text.splitlines()[1] == "2026-11-25T12:00:00.000Z,,a,event,'=1+1,\\x1b[31m\\nred;'=1;' -2,,' @ana"


@pytest.fixture
def page(tmp_path: Path) -> Page:
    page = Page(folder=tmp_path)
    page.hear(said("press-04/state", boards.state()), said("press-04/health", boards.health(at=time.time())))
    page.hear(said("press-04/alarm/overheating", alarm()))
    return page


def test_who_has_seen_an_alarm_is_kept_and_the_alarm_stays(page: Page) -> None:
    body = {"device": "press-04", "alarm": "overheating", "by": "Ana"}
    response = page.client.post("/api/v1/seen", body, headers=ORIGIN)
    assert response.status_code == 200
    (entry,) = page.client.get("/api/v1/journal").json()["journal"]
    assert (entry["what"], entry["device"], entry["name"], entry["by"]) == ("seen", "press-04", "overheating", "Ana")
    page.update()
    (shown,) = page.changes()["boards"][0]["alarms"]
    assert shown["seen"] == {"by": "Ana", "at": entry["at"]}
    assert page.changes()["boards"][0]["alarms"][0]["name"] == "overheating"
    assert page.client.get("/api/v1/boards/press-04").json()["journal"] == [entry]


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"device": "press-04", "alarm": "none"}, 404),
        ({"device": "press-99", "alarm": "overheating"}, 404),
        ({"device": "press-04"}, 400),
        ({"device": "press-04", "alarm": 1}, 400),
        ({"device": "press-04", "alarm": "overheating", "by": "\u202e"}, 400),
        ({"device": "press-04", "alarm": "overheating", "by": "x" * 65}, 400),
    ],
)
def test_what_is_no_alarm_cannot_be_seen(page: Page, body: dict[str, Any], status: int) -> None:
    assert page.client.post("/api/v1/seen", body, headers=ORIGIN).status_code == status
    assert page.client.get("/api/v1/journal").json()["journal"] == []


def test_what_people_answer_is_listed_only_where_it_is_asked_for(page: Page) -> None:
    page.live.journal.add(Entry(at=time.time(), what="feedback", device="press-04", name="triage", text="x", by="Ana"))
    listed = [page.client.get(f"/api/v1/journal{query}") for query in ("", "?what=feedback", "?format=csv")]
    assert [len(listed[0].json()["journal"]), len(listed[1].json()["journal"])] == [0, 1]
    assert ",feedback,triage,x," in listed[2].text
    assert page.client.get("/api/v1/boards/press-04").json()["journal"] == []


def test_the_journal_can_be_taken_as_csv(page: Page) -> None:
    page.client.post("/api/v1/seen", {"device": "press-04", "alarm": "overheating"}, headers=ORIGIN)
    response = page.client.get("/api/v1/journal", params={"format": "csv"})
    assert response.headers["Content-Type"].startswith("text/csv")
    assert "attachment" in response.headers["Content-Disposition"]
    assert ",press-04,seen,overheating," in response.text


@pytest.mark.parametrize("query", ["from=x", "to=-1", "limit=nan", "from=1e99"])
def test_a_query_that_means_nothing_is_refused(page: Page, query: str) -> None:
    assert page.client.get(f"/api/v1/journal?{query}").status_code == 400
