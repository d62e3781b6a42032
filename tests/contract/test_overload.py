"""Which requests are answered at ten times the engine's capacity, with mixed deadlines and priorities, and how soon."""

import threading
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from typing import Self

from rigs.bench.overload import Ending, offer, summarize, table
from rigs.load.asking import Load
from tests.helpers.site import Site, StartSite

# Four requests share a step of 80 ms, and a step begins with whatever is there, so about 25 requests run per second.
STEP_MS = 80
AT_ONCE = 4
CAPACITY_PER_S = 25
SECONDS = 4
PRIORITIES = (0, 5, 9)
DEADLINES_MS = (1000, 2000, 5000)


class Stall:
    """The longest time for which this machine kept a thread waiting that was ready to run."""

    def __init__(self) -> None:
        self.longest_s = 0.0
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def _watch(self) -> None:
        while not self._is_over.is_set():
            due = time.monotonic() + 0.005
            time.sleep(0.005)
            self.longest_s = max(self.longest_s, time.monotonic() - due)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join()


def offered(site: Site, mix: Sequence[tuple[int, int]], *, times: int, seconds: int) -> list[Ending]:
    """How the requests ended, with the agent's own times, as those of this process tell how busy the machine is."""
    with closing(Load(site.port, site.protocol)) as load:
        fates = offer(load, site.request("triage"), per_s=times * CAPACITY_PER_S, seconds=seconds, mix=mix)
    return [replace(fate, latency_ms=fate.agents_ms) for fate in fates]


def test_at_ten_times_capacity_the_admitted_are_in_time_and_the_others_hear_busy_at_once(start_site: StartSite) -> None:
    site = start_site("3.1.1", model=f"echo:step_ms={STEP_MS}")
    mix = [(priority, deadline_ms) for deadline_ms in DEADLINES_MS for priority in PRIORITIES]
    # From the first request on, although nothing has been measured before.
    with Stall() as stall:
        fates = offered(site, mix, times=10, seconds=SECONDS)
    rows = {level: summarize(level, [fate for fate in fates if fate.priority == level]) for level in PRIORITIES}
    everyone = summarize(None, fates)
    print(f"{table([*rows.values(), everyone])}\nthe longest stall: {stall.longest_s:.3f} s")
    assert {fate.status for fate in fates} <= {"ok", "busy", "expired"}
    assert {fate.code for fate in fates if fate.status == "busy"} <= {"queue_full", "deadline_unreachable"}
    # However busy the machine is, no answer is late.
    assert all(fate.is_in_time for fate in fates if fate.status == "ok")
    assert everyone.in_time_share is not None
    # What the machine takes from the engine nobody can foresee at an admission.
    assert everyone.in_time_share >= 0.95 or stall.longest_s > STEP_MS / 2000
    # The engine is not left idle by too much caution, however long a step takes on this machine.
    assert sum(fate.run_ms for fate in fates if fate.is_in_time) >= 0.6 * AT_ONCE * SECONDS * 1000
    # Urgent ones come first, and yet nobody is shut out.
    assert rows[0].in_time > 5 * max(rows[5].in_time, rows[9].in_time)
    assert rows[5].in_time + rows[9].in_time > 0
    assert everyone.busy_p50_ms is not None
    # A machine that does other things may stop the agent for a while, but not for a step of the engine.
    assert everyone.busy_p50_ms < STEP_MS
    assert all(fate.retry_after_s and fate.retry_after_s <= 10 for fate in fates if fate.status == "busy")

    reply = site.ask("triage", {"input": "normal", "id": "after", "priority": 9, "deadline_ms": 2000})
    assert reply["status"] == "ok"
    site.client.publish(f"{site.base}/cmd/health", b"")
    displaced, refused = everyone.displaced, everyone.offered - everyone.admitted
    site.client.wait_for(
        f"{site.base}/health",
        lambda health: (
            health["queue"]["displaced_total"] == displaced
            and health["queue"]["rejected_total"] == displaced + refused
            and health["queue"]["estimated_wait_ms"] == 0
        ),
    )


def test_the_least_urgent_is_answered_within_a_flood_of_the_most_urgent(start_site: StartSite) -> None:
    site = start_site("5", model=f"echo:step_ms={STEP_MS}")
    mix = [(0, 2000)] * 49 + [(9, 5000)]
    fates = offered(site, mix, times=3, seconds=3)
    print(table([summarize(priority, [fate for fate in fates if fate.priority == priority]) for priority in (0, 9)]))
    assert any(fate.is_in_time for fate in fates if fate.priority == 9)


def test_an_idle_agent_says_that_a_deadline_is_too_short_and_answers_who_is_back_in_time(start_site: StartSite) -> None:
    site = start_site("5", model="echo:step_ms=300", more="[engine]\nmax_active = 1\n")
    site.ask("triage", "normal")
    reply = site.ask("triage", {"input": "normal", "deadline_ms": 200})
    assert (reply["status"], reply["error"]["code"]) == ("busy", "deadline_unreachable")
    assert reply["error"]["retry_after_s"] > 0
    assert reply["timing"]["total_ms"] < 200
    assert site.ask("triage", {"input": "normal", "deadline_ms": 5000})["status"] == "ok"

    for number in range(5):
        site.client.publish(site.request("triage"), {"input": "normal", "id": number})
    hurried = {"input": "normal", "priority": 9, "deadline_ms": 1200}
    site.client.publish(site.request("triage"), {**hurried, "id": "first"})
    refused = site.client.wait_for(site.response("triage"), lambda reply: reply["id"] == "first").json
    assert (refused["status"], refused["error"]["code"]) == ("busy", "deadline_unreachable")
    retry_after_s = refused["error"]["retry_after_s"]
    assert 0 < retry_after_s < 5
    time.sleep(retry_after_s)
    site.client.publish(site.request("triage"), {**hurried, "id": "again"})
    answered = site.client.wait_for(site.response("triage"), lambda reply: reply["id"] == "again")
    assert answered.json["status"] == "ok"
