import math
import random
import tracemalloc
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from edge_agent.core.signal_tables import SignalsTable
from edge_agent.signals import state_file
from edge_agent.signals.machine import Reading
from edge_agent.signals.signal_table import SignalTable, new_table, receive

START = 1.8e9
ALL = {"vib": {"topic": "plant/+/vib"}, "temp": {"topic": "plant/+/temp"}}


def table(values: dict[str, Any] = ALL, **keys: Any) -> SignalTable:
    config = {"window_s": 60, "every_s": 10, "min_gap_s": 0, "min_coverage": 0, **keys, "values": values}
    return new_table("pump", SignalsTable.model_validate(config))


def send(to: SignalTable, topic: str, payload: object, at: float, *, is_retained: bool = False) -> list[Reading]:
    return list(to.receive(topic, str(payload).encode(), is_retained=is_retained, now=START + at))


def split(readings: Iterable[Reading]) -> tuple[list[Reading], list[Reading]]:
    """The readings that were made, and those that could not be made."""
    made, lacking = list[Reading](), list[Reading]()
    for reading in readings:
        (lacking if reading.lacking else made).append(reading)
    return made, lacking


def triggers(readings: list[Reading]) -> list[str]:
    return [reading.trigger for reading in readings]


def test_values_of_two_topics_become_one_reading_per_machine() -> None:
    pumps = table(features=["last", "mean"])
    send(pumps, "plant/a/vib", 2, 0)
    send(pumps, "plant/b/vib", 3, 0)
    send(pumps, "plant/a/temp", 70, 0)
    readings = list(pumps.advance(START + 11))
    assert [(reading.machine, reading.trigger) for reading in readings] == [("a", "every")]
    assert readings[0].input == {"vib": {"last": 2.0, "mean_1m": 2.0}, "temp": {"last": 70.0, "mean_1m": 70.0}}
    assert pumps.lacking() == {"b": ["temp"]}
    assert pumps.incomplete == 1


def test_each_machine_is_read_once_per_interval_at_its_own_time() -> None:
    pumps = table()
    for name in "abcdefgh":
        for value in ("vib", "temp"):
            send(pumps, f"plant/{name}/{value}", 1, 0)
    readings = list(pumps.advance(START + 30))
    assert sorted(reading.machine for reading in readings) == sorted("abcdefgh" * 3)
    assert [reading.at for reading in readings] == sorted(reading.at for reading in readings)
    assert len({round(reading.at % 10, 3) for reading in readings}) == 8


def test_a_value_holds_for_max_age_and_then_prevents_a_reading() -> None:
    values = {"vib": {"topic": "plant/+/vib", "max_age_s": 15}, "temp": {"topic": "plant/+/temp", "max_age_s": 0}}
    pumps = table(values, trigger={"above": {"temp": 100}})
    send(pumps, "plant/a/temp", 70, 0)
    send(pumps, "plant/a/vib", 2, 0)
    made, (told, *repeated) = split(pumps.advance(START + 100))
    assert made
    assert all(reading.at < START + 15 for reading in made)
    assert (told.input, told.at < START + 26) == ({}, True)
    assert told.lacking == (f"vib: silent for {told.at - START:.0f} s (max_age_s 15)",)
    assert pumps.lacking() == {"a": ["vib"]}
    # The lack is reported at each regular reading, but at no trigger again.
    assert [round(later.at - told.at) for later in repeated] == list(range(10, 10 * len(repeated) + 1, 10))
    assert (told.is_repeated, {later.is_repeated for later in repeated}) == (False, {True})
    assert send(pumps, "plant/a/temp", 200, 101) == []
    send(pumps, "plant/a/vib", 2, 102)
    made, (told, *_) = split(pumps.advance(START + 200))
    assert (len(made) > 0, told.is_repeated) == (True, False)


def test_a_reading_that_cannot_be_made_says_why() -> None:
    pumps = table({"vib": {"topic": "plant/+/vib", "path": ["v"]}, "temp": {"topic": "plant/+/temp"}}, min_coverage=0.5)

    def causes(at: float) -> tuple[str, ...]:
        machine = pumps.machines["a"]
        return machine.incomplete_reading(machine.lacking(START + at), "every", START + at).lacking

    send(pumps, "plant/a/vib", '{"v":1}', 0)
    assert causes(1) == ("vib: known for only 1 % of the window (min_coverage 0.5)", "temp: missing: no message yet")
    send(pumps, "plant/a/temp", 70, 0)
    send(pumps, "plant/a/vib", '{"v":null}', 40)
    assert causes(41) == ("vib: missing: its last message has no usable number: null",)
    assert not pumps.not_taken
    pumps.on_connection_lost(START + 50)
    assert causes(51)[1] == "temp: missing: no message since the connection was lost"
    send(pumps, "plant/a/temp", 70, 60)
    assert causes(130) == (
        "vib: missing: its last message has no usable number: null; silent for 90 s (max_age_s 60)",
        "temp: silent for 70 s (max_age_s 60)",
    )


def test_a_message_without_a_value_is_named_although_no_value_came_since_the_connection_was_lost_or_the_agent_began(
    tmp_path: Path,
) -> None:
    values = {name: {"topic": "plant/+/all", "path": [name], "max_age_s": 30} for name in ("vib", "temp")}
    lost, restarted = table(values), table(values)
    send(lost, "plant/a/all", '{"vib":1}', 0)
    lost.on_connection_lost(START + 1)
    state_file.save(tmp_path / "state.json", {"pump": lost}, START + 2)
    state_file.load(tmp_path / "state.json", {"pump": restarted}, START + 3)
    for pumps, since in ((lost, "the connection was lost"), (restarted, "the agent was started")):
        machine = pumps.machines["a"]
        vib, _ = machine.incomplete_reading(machine.lacking(START + 4), "every", START + 4).lacking
        assert vib == f"vib: missing: no message since {since}"
        send(pumps, "plant/a/all", '{"hz":50}', 5)
        nothing = [f"{name}: missing: its last message has nothing at `{name}`" for name in values]
        assert machine.incomplete_reading(machine.lacking(START + 6), "every", START + 6).lacking == (*nothing,)
        late = machine.incomplete_reading(machine.lacking(START + 40), "every", START + 40).lacking
        assert late == (nothing[0] + ("; no number for 40 s (max_age_s 30)" if pumps is lost else ""), nothing[1])


def test_after_a_restart_no_silence_is_stated_because_messages_may_have_come_after_the_windows_were_saved(
    tmp_path: Path,
) -> None:
    killed, again = table(), table()
    send(killed, "plant/a/vib", 1, 0)
    state_file.save(tmp_path / "state.json", {"pump": killed}, START + 1)
    send(killed, "plant/a/vib", 1, 580)
    state_file.load(tmp_path / "state.json", {"pump": again}, START + 589)
    machine = again.machines["a"]
    vib, _ = machine.incomplete_reading(machine.lacking(START + 590), "every", START + 590).lacking
    assert vib == "vib: missing: no message since the agent was started"
    assert again.latest(START + 590, 1000)["machines"]["a"]["vib"] == (None, None)


def test_the_latest_values_have_their_ages_and_asking_for_them_changes_nothing() -> None:
    pumps = table({"vib": {"topic": "plant/+/vib", "max_age_s": 15}, "temp": {"topic": "plant/+/temp"}})
    unasked = table({"vib": {"topic": "plant/+/vib", "max_age_s": 15}, "temp": {"topic": "plant/+/temp"}})
    for each in (pumps, unasked):
        send(each, "plant/a/vib", 7.9000001, 0)
    assert pumps.latest(START + 14.96, 1000) == {
        "machines": {"a": {"vib": (7.9, 15.0), "temp": (None, None)}}, "left_out": 0,
    }  # fmt: skip
    assert pumps.latest(START + 20, 1000)["machines"]["a"]["vib"] == (None, 20.0)
    windows = [each.machines["a"].tracks["vib"].window.as_state() for each in (pumps, unasked)]
    assert windows[0] == windows[1]


def test_the_latest_values_of_machines_that_do_not_fit_are_left_out() -> None:
    pumps = table(max_machines=9)
    for name in "cab":
        send(pumps, f"plant/{name}/vib", 1, 0)
    shown = pumps.latest(START, len('{"a":{"vib":[1.0,0.0],"temp":[null,null]}}') * 2)
    assert (list(shown["machines"]), shown["left_out"]) == (["a", "b"], 1)


def test_an_optional_value_is_null_while_it_is_missing() -> None:
    pumps = table({"vib": {"topic": "plant/+/vib"}, "temp": {"topic": "plant/+/temp", "optional": True}})
    send(pumps, "plant/a/vib", 2, 0)
    (reading,) = pumps.advance(START + 10)
    assert set(reading.input["temp"].values()) == {None}


def test_there_is_no_reading_before_enough_of_the_window_is_known() -> None:
    pumps = table(min_coverage=0.5)
    for second in range(60):
        send(pumps, "plant/a/vib", 2, second)
        send(pumps, "plant/a/temp", 2, second)
    assert (pumps.incomplete, pumps.readings) == (3, 2)


def test_a_machine_that_was_heard_for_too_short_a_time_waits_and_lacks_nothing() -> None:
    pumps = table(min_coverage=0.5)
    for second in range(30):
        send(pumps, "plant/a/vib", 2, second)
        send(pumps, "plant/b/vib", 2, second)
        send(pumps, "plant/b/temp", 2, second)
    assert (pumps.waiting(), pumps.lacking()) == (2, {})
    list(pumps.advance(START + 35))
    assert (pumps.waiting(), pumps.lacking()) == (1, {})
    # It is half of the window, and the tenth that is left to spare.
    list(pumps.advance(START + 37))
    assert (pumps.waiting(), pumps.lacking()) == (0, {"a": ["temp"]})


def test_a_machine_that_had_a_reading_lacks_what_is_missing_at_once() -> None:
    pumps = table({"vib": {"topic": "plant/+/vib", "max_age_s": 5}}, every_s=1, window_s=600)
    send(pumps, "plant/a/vib", 2, 0)
    list(pumps.advance(START + 4))
    assert pumps.lacking() == {}
    list(pumps.advance(START + 6))
    assert (pumps.waiting(), pumps.lacking()) == (0, {"a": ["vib"]})


def test_a_change_makes_a_reading_but_the_first_value_does_not() -> None:
    pumps = table(ALL, trigger={"on_change": ["vib"], "dead_band": {"vib": 0.5}}, every_s=0)
    send(pumps, "plant/a/temp", 70, 0)
    values = [2.0, 2.4, 2.5, 2.6, 2.4, 2.0]
    fired = [triggers(send(pumps, "plant/a/vib", value, 1 + at)) for at, value in enumerate(values)]
    # Against the value of the last reading, so that a slow drift is noticed, too.
    assert fired == [[], [], [], ["vib changed"], [], ["vib changed"]]


def test_a_limit_fires_once_until_the_value_has_returned_by_the_hysteresis() -> None:
    pumps = table(ALL, trigger={"above": {"vib": 7}, "below": {"vib": 1}, "hysteresis": {"vib": 0.5}}, every_s=0)
    send(pumps, "plant/a/temp", 70, 0)
    values = [8, 9, 6.8, 8, 6.5, 7.5, 0.5, 1.2, 0.5, 2, 0.5]
    fired = [triggers(send(pumps, "plant/a/vib", value, 1 + at)) for at, value in enumerate(values)]
    above, below = ["vib above 7"], ["vib below 1"]
    assert fired == [above, [], [], [], [], above, below, [], [], [], below]


def test_a_trigger_within_the_gap_waits_for_its_end() -> None:
    pumps = table(ALL, trigger={"on_change": ["vib"]}, every_s=0, min_gap_s=5)
    send(pumps, "plant/a/temp", 70, 0)
    send(pumps, "plant/a/vib", 1, 0)
    assert triggers(send(pumps, "plant/a/vib", 2, 1)) == ["vib changed"]
    assert send(pumps, "plant/a/vib", 3, 2) == []
    assert send(pumps, "plant/a/vib", 4, 3) == []
    (reading,) = pumps.advance(START + 60)
    assert (reading.at, reading.input["vib"]["last"]) == (START + 6, 4.0)


def test_readings_are_as_frequent_as_every_s_even_if_the_gap_is_longer() -> None:
    pumps = table(ALL, every_s=0.5, min_gap_s=5)
    send(pumps, "plant/a/temp", 70, 0)
    send(pumps, "plant/a/vib", 1, 0)
    assert len(list(pumps.advance(START + 10))) == 20


def test_retained_messages_seed_a_value_that_says_so_and_trigger_nothing() -> None:
    values = {"vib": {"topic": "plant/+/vib", "retained": True, "features": ["last", "count", "age_s"]}}
    pumps = table({**values, "temp": {"topic": "plant/+/temp"}}, trigger={"on_change": ["vib"]})
    assert send(pumps, "plant/a/vib", 5, 0, is_retained=True) == []
    assert send(pumps, "plant/a/temp", 70, 0, is_retained=True) == []
    assert pumps.waiting() == 1
    send(pumps, "plant/a/temp", 70, 1)
    (reading,) = pumps.advance(START + 11)
    assert reading.input["vib"] == {"last": 5.0, "count_1m": 0.0, "age_s": None}
    assert pumps.machines["a"].tracks["vib"].latest(START + 11) == (5.0, None)
    send(pumps, "plant/a/vib", 6, 12)
    assert send(pumps, "plant/a/vib", 1, 13, is_retained=True) == []
    assert pumps.machines["a"].tracks["vib"].value == 6.0


def test_a_retained_value_has_been_silent_for_at_least_the_time_that_is_known() -> None:
    pumps = table({"vib": {"topic": "plant/+/vib", "retained": True, "max_age_s": 30}})
    send(pumps, "plant/a/vib", 5, 0, is_retained=True)
    vib = pumps.machines["a"].tracks["vib"]
    vib.settle(START + 40)
    assert vib.why_lacking(START + 40, 0.5) == "silent for at least 40 s (max_age_s 30)"
    send(pumps, "plant/a/vib", 5, 41)
    assert vib.latest(START + 43) == (5.0, 2.0)
    vib.settle(START + 80)
    assert vib.why_lacking(START + 80, 0.5) == "silent for 39 s (max_age_s 30)"


def test_a_retained_message_without_a_number_is_named() -> None:
    pumps = table({"vib": {"topic": "plant/+/vib", "retained": True, "max_age_s": 30}})
    send(pumps, "plant/a/vib", 5, 0)
    pumps.on_connection_lost(START + 1)
    send(pumps, "plant/a/vib", "ERR", 2, is_retained=True)
    vib = pumps.machines["a"].tracks["vib"]
    assert vib.why_lacking(START + 3, 0.5) == 'missing: its last message has no usable number: "ERR"'


def test_a_lost_connection_ends_all_values_and_is_a_gap_in_the_window() -> None:
    pumps = table(features=["last", "mean"])
    for at in range(30):
        send(pumps, "plant/a/vib", 10, at)
        send(pumps, "plant/a/temp", 1, at)
    pumps.on_connection_lost(START + 30)
    assert pumps.lacking() == {"a": ["vib", "temp"]}
    send(pumps, "plant/a/vib", 20, 50)
    send(pumps, "plant/a/temp", 1, 50)
    reading = next(reading for reading in pumps.advance(START + 62) if reading.at > START + 50)
    held = reading.at - START - 50
    before = 30 - max(0.0, reading.at - START - 60)
    expected = (10 * before + 20 * held) / (before + held)
    assert reading.input["vib"]["mean_1m"] == pytest.approx(expected, rel=0.02)


def test_a_known_machine_is_never_evicted_for_a_new_one() -> None:
    pumps = table(max_machines=2)
    for name in ("a", "b", "c", "d"):
        send(pumps, f"plant/{name}/vib", 1, 0)
    assert list(pumps.machines) == ["a", "b"]
    assert pumps.as_health()["refused"] == 2


def test_a_silent_machine_is_forgotten_and_makes_room() -> None:
    pumps = table(max_machines=1, forget_s=60)
    send(pumps, "plant/a/vib", 1, 0)
    list(pumps.advance(START + 200))
    send(pumps, "plant/b/vib", 1, 201)
    assert list(pumps.machines) == ["b"]


@pytest.mark.parametrize("name", ["a+", "", "x" * 129, "a\x01"])
def test_a_machine_whose_name_cannot_be_a_topic_level_is_refused(name: str) -> None:
    pumps = table(names={"z": "pump-7"})
    send(pumps, f"plant/{name}/vib", 1, 0)
    send(pumps, "plant/z/vib", 1, 0)
    assert list(pumps.machines) == ["pump-7"]


def test_payloads_that_cannot_be_used_are_counted_by_reason() -> None:
    pumps = table()
    for payload in ("9,5", "{", "x"):
        send(pumps, "plant/a/vib", payload, 0)
    assert pumps.not_taken == {"decimal-comma": 1, "not-a-number": 1, "bad-json": 1}


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_what_another_table_takes_on_the_same_topics_is_no_fault(order: tuple[int, ...]) -> None:
    bare, wrapped = table(), table({name: {**value, "path": ["v"]} for name, value in ALL.items()})
    tables = [(bare, wrapped)[index] for index in order]
    payloads = {"a": "1", "b": '{"v":1}'}
    for machine, payload in 2 * [*payloads.items()]:
        for value in ALL:
            list(receive(tables, f"plant/{machine}/{value}", payload.encode(), is_retained=False, now=START))
    assert [(each.not_taken, each.source.offenders) for each in tables] == 2 * [({}, {})]
    for machine, payload in (("a", "ERR"), ("b", '{"v":"ERR"}'), ("c", "ERR")):
        list(receive(tables, f"plant/{machine}/vib", payload.encode(), is_retained=False, now=START))
    # Nobody follows c, so all tables may be wrong about it.
    assert (bare.not_taken, wrapped.not_taken) == ({"not-a-number": 2}, {"not-a-number": 2})
    assert bare.source.offenders == {("vib", "not-a-number"): ("a", "ERR")}
    assert wrapped.source.offenders["vib", "not-a-number"] == ("b", '{"v":"ERR"}')


def test_several_values_of_one_payload_make_one_reading() -> None:
    values = {name: {"topic": "tele/+/SENSOR", "path": ["E", name]} for name in ("volts", "amps")}
    meters = table(values, every_s=0, trigger={"on_change": ["volts", "amps"]})
    send(meters, "tele/m/SENSOR", '{"E":{"volts":230,"amps":1}}', 0)
    (reading,) = send(meters, "tele/m/SENSOR", '{"E":{"volts":231,"amps":2}}', 1)
    assert (reading.input["volts"]["last"], reading.input["amps"]["last"]) == (231.0, 2.0)
    # A message with what changed alone leaves the other value as it was.
    (reading,) = send(meters, "tele/m/SENSOR", '{"E":{"volts":232}}', 2)
    assert reading.input["amps"]["last"] == 2.0


def test_a_number_out_of_its_range_is_counted_and_makes_the_value_missing() -> None:
    ranged = {"vib": {"topic": "plant/+/vib", "minimum": -40, "maximum": 150}}
    for payload, cause in (("-9999", "-9999 is below the minimum -40"), ("150.1", "150.1 is above the maximum 150")):
        pumps = table(ranged, min_coverage=0)
        send(pumps, "plant/a/vib", "150", 0)
        send(pumps, "plant/a/vib", payload, 1)
        assert pumps.not_taken == {"out-of-range": 1}
        assert pumps.machines["a"].lacking(START + 1) == ["vib"]
        assert pumps.machines["a"].tracks["vib"].why_lacking(START + 1, 0.5) == f"missing: {cause}"
        send(pumps, "plant/a/vib", "-40", 2)
        reading = pumps.machines["a"].input(START + 3)["vib"]
        assert (reading["last"], reading["min_1m"], reading["max_1m"]) == (-40, -40, 150)


@pytest.mark.parametrize("quality", ["false", "0"])
def test_a_bad_quality_is_counted_and_makes_the_value_missing(quality: str) -> None:
    gaps = {"gap": {"topic": "hops/+/roller", "path": ["gap", "mm"], "quality": ["q"]}}
    rollers = table(gaps | {"hz": {"topic": "hops/+/roller", "path": ["hz"]}})
    payload = f'{{"gap":{{"mm":0.3}},"hz":50,"q":{quality}}}'
    send(rollers, "hops/a/roller", payload, 0)
    assert rollers.not_taken == {"bad-quality": 1}
    assert rollers.source.offenders == {("gap", "bad-quality"): ("a", payload)}
    assert rollers.machines["a"].lacking(START + 1) == ["gap"]
    assert rollers.machines["a"].tracks["gap"].why_lacking(START + 1, 0.5) == f"missing: {quality} is a bad quality"


def test_a_machine_whose_quality_was_never_good_is_followed() -> None:
    rollers = table({"gap": {"topic": "hops/+/roller", "path": ["mm"], "quality": ["q"]}})
    send(rollers, "hops/a/roller", '{"mm":0.3,"q":false}', 0)
    assert list(rollers.machines) == ["a"]


def test_a_value_that_cannot_be_read_leaves_the_others_of_its_payload() -> None:
    values = {name: {"topic": "tele/+/SENSOR", "path": [name]} for name in ("volts", "amps")}
    meters = table(values, features=["last"])
    send(meters, "tele/m/SENSOR", '{"volts":230,"amps":1}', 0)
    send(meters, "tele/m/SENSOR", '{"volts":"unavailable","amps":2}', 1)
    figures = meters.machines["m"].input(START + 2)
    assert figures == {"volts": {"last": None}, "amps": {"last": 2.0}}
    assert meters.not_taken == {"not-a-number": 1}


@pytest.mark.parametrize(
    ("path", "good", "bad", "shown"),
    [
        ([], "5", "ERR", '"ERR"'),
        ([], "5", "7,3", '"7,3"'),
        ([], "5", '{"value":5}', '{"value": 5}'),
        (["value"], '{"value":5}', '{"value":"ERR"}', '"ERR"'),
        (["value"], '{"value":5}', "ERR", '"ERR"'),
        (["value"], '{"value":5}', "-999", "-999"),
        (["value"], '{"value":5}', '{"value": nan}', r'"{\"value\": nan}"'),
    ],
)
def test_a_value_is_missing_as_soon_as_its_sensor_sends_anything_but_a_number(
    path: list[str], good: str, bad: str, shown: str
) -> None:
    pumps = table({"vib": {"topic": "plant/+/vib", "path": path, "max_age_s": 0}})
    send(pumps, "plant/b/vib", bad, 0)
    assert not pumps.machines  # It may be no machine at all.
    send(pumps, "plant/a/vib", good, 0)
    assert list(pumps.advance(START + 20))
    send(pumps, "plant/a/vib", bad, 20)
    told, *_ = pumps.advance(START + 60)
    assert told.lacking == (f"vib: missing: its last message has no usable number: {shown}",)
    send(pumps, "plant/a/vib", good, 60)
    assert not pumps.lacking()


@pytest.mark.parametrize(
    ("payload", "reason", "words"),
    [
        ('{"uptime":9}', "absent", "has nothing at `E.volts`"),
        ("[boot] ok", "bad-json", "is not JSON"),
        ('{"E":{"volts":1,"ts":1}}', "late", "was measured more than `max_age_s` ago"),
    ],
)
def test_a_message_of_another_kind_leaves_a_value_as_it_was_and_is_named_when_that_is_too_old(
    payload: str, reason: str, words: str
) -> None:
    value = {"topic": "tele/+/SENSOR", "path": ["E", "volts"], "time": ["E", "ts"], "max_age_s": 15}
    meters = table({"volts": value}, features=["last"])
    send(meters, "tele/m/SENSOR", '{"E":{"volts":230}}', 0)
    send(meters, "tele/m/SENSOR", payload, 10)
    assert meters.machines["m"].input(START + 11) == {"volts": {"last": 230.0}}
    assert meters.not_taken == {reason: 1}
    told = next(reading for reading in meters.advance(START + 30) if reading.lacking)
    assert told.lacking == (f"volts: no number for {told.at - START:.0f} s (max_age_s 15): its last message {words}",)


@pytest.mark.parametrize("source", ["topics", "sparkplug"])
def test_made_up_topics_do_not_fill_the_memory(source: str) -> None:
    value = {"metric": "V"} if source == "sparkplug" else {"topic": "plant/+/vib"}
    pumps, readings = table({"vib": value}, source=source), list[Reading]()
    tracemalloc.start()
    try:
        for number in range(2000):
            name = f"{number}{'x' * 30_000}"
            topic = f"spBv1.0/Plant/DDATA/node/{name}" if source == "sparkplug" else f"plant/{name}/vib"
            readings += pumps.receive(topic, b"\x18\x01", is_retained=False, now=START)
        assert tracemalloc.get_traced_memory()[0] < 2_000_000
    finally:
        tracemalloc.stop()
    assert (readings, pumps.machines) == ([], {})


def test_numbers_have_six_significant_digits() -> None:
    pumps = table(features=["last"])
    send(pumps, "plant/a/vib", 7.900000095367432, 0)
    send(pumps, "plant/a/temp", -0.00012345678, 0)
    (reading,) = pumps.advance(START + 10)
    assert reading.input == {"vib": {"last": 7.9}, "temp": {"last": -0.000123457}}


def _plant(seed: int) -> list[tuple[str, str, float, bool]]:
    """Messages of four machines with bursts, gaps, duplicates, retained ones and nonsense."""
    dice = random.Random(seed)
    messages, at = [], 0.0
    while at < 3000:
        at += dice.choice([0.0, 0.1, 1.0, 3.0]) if dice.random() < 0.99 else 90.0
        topic = f"plant/{dice.choice('abcd')}/{dice.choice(['vib', 'temp'])}"
        payload = dice.choice(["x", "null"]) if dice.random() < 0.02 else f"{dice.uniform(0, 10):.3f}"
        messages += [(topic, payload, at, dice.random() < 0.02)] * (2 if dice.random() < 0.05 else 1)
    return messages


@pytest.mark.parametrize("seed", range(5))
def test_a_restart_makes_the_same_readings_as_a_lost_connection(tmp_path: Path, seed: int) -> None:
    trigger = {"on_change": ["vib"], "dead_band": {"vib": 4}, "above": {"temp": 9}}
    keys: dict[str, Any] = {"trigger": trigger, "min_gap_s": 3, "min_coverage": 0.3, "record_every_s": 60}
    messages, path = _plant(seed), tmp_path / "state.json"
    one, other = table(ALL, **keys), table(ALL, **keys)
    middle = len(messages) // 2
    for topic, payload, at, is_retained in messages[:middle]:
        send(one, topic, payload, at, is_retained=is_retained)
    stopped_at = START + messages[middle - 1][2] + 0.5
    list(one.advance(stopped_at))
    one.on_connection_lost(stopped_at)
    state_file.save(path, {"pump": one}, stopped_at)
    state_file.load(path, {"pump": other}, stopped_at + 20)
    later = [(topic, payload, at + 30, kept) for topic, payload, at, kept in messages[middle:]]
    same, restarted = (
        [
            reading
            for topic, payload, at, kept in later
            for reading in send(to, topic, payload, at, is_retained=kept)
            if not reading.lacking
        ]
        for to in (one, other)
    )
    assert len(same) > 50
    assert [reading for reading in same if reading.at >= stopped_at + 20] == restarted
    assert one.recordings[-1] == other.recordings[-1]


def test_the_state_of_another_definition_or_of_the_future_is_not_used(tmp_path: Path) -> None:
    path, pumps = tmp_path / "state.json", table()
    send(pumps, "plant/a/vib", 1, 0)
    state_file.save(path, {"pump": pumps}, START)
    for other, now in ((table(window_s=61), START + 5), (table(), START - 5)):
        state_file.load(path, {"pump": other}, now)
        assert other.machines == {}
    again = table()
    state_file.load(path, {"pump": again}, START + 5)
    assert list(again.machines) == ["a"]


@pytest.mark.expects_warning
def test_a_damaged_state_starts_empty(tmp_path: Path) -> None:
    path, pumps = tmp_path / "state.json", table()
    send(pumps, "plant/a/vib", 1, 0)
    state_file.save(path, {"pump": pumps}, START)
    whole = path.read_bytes()
    dice = random.Random(7)
    for _ in range(200):
        damaged, again = bytearray(whole), table()
        damaged[dice.randrange(len(whole))] ^= 1 << dice.randrange(8)
        path.write_bytes(damaged[: dice.choice([None, dice.randrange(len(whole))])])
        state_file.load(path, {"pump": again}, START + 5)
        assert again.machines == {}


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"machine": "{2}"}, "machine: does not match values.vib.topic"),
        ({"machine": "{pump}"}, "machine: does not match values.vib.topic: there is no placeholder {pump}"),
        ({"trigger": {"above": {"x": 1}}}, "trigger.above: should name values of this table"),
        ({"trigger": {"on_change": ["vib"], "dead_band": {"temp": 1}}}, "dead_band: temp should be one of on_change"),
        ({"trigger": {"hysteresis": {"vib": 1}}}, "hysteresis: vib should be in above or below"),
        ({"trigger": {"above": {"vib": 1e308}}}, "trigger.above.vib"),
        ({"every_s": 1e-6}, "every_s: should be 0, or at least 0.1"),
        ({"every_s": 0}, "every_s: should be above 0"),
        ({"source": "sparkplug"}, "vib: requires `metric`"),
        ({"names": {"a": "b+"}}, "wildcards"),
        ({"features": ["median"]}, "should be 'last', 'mean'"),
    ],
)
def test_faults_of_a_table_name_the_key(keys: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError) as raised:
        table(ALL, **keys)
    assert words in str(raised.value)


def test_a_range_must_not_be_empty() -> None:
    with pytest.raises(ValidationError, match=r"values\.vib\.maximum\n.*should be above `minimum` \(got 1\)"):
        table({"vib": {"topic": "plant/+/vib", "minimum": 2, "maximum": 1}})


def test_the_names_of_fields_say_the_window() -> None:
    names = {90: "90s", 600: "10m", 3600: "1h", 5400: "90m", 86400: "24h"}
    for seconds, name in names.items():
        config = table({"v": {"topic": "+"}}, window_s=seconds, features=["last", "mean", "age_s"]).config
        assert config.field_names() == ["v.last", f"v.mean_{name}", "v.age_s"]
    assert math.isinf(table({"v": {"topic": "+", "max_age_s": 0}}).config.max_age_of("v"))
