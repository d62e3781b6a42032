"""What usual readings look like, learnt from rows, and how others compare with them."""

import json
import math
from typing import Any

import numpy as np
import pytest

from convert.agent import RarityModel, Tail, UsualReadings, UsualReadingsFile, read_usual_readings
from convert.learning.usual import learn_and_find_rarest, learn_usual

LEARNT = 600


def pump(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Speed, current and power follow the load; the mode is one of two, and the remark says nothing."""
    draw = np.random.default_rng(seed)
    loads, noise = draw.uniform(0, 1, count), draw.normal(0, 1, (count, 4))
    return [
        {
            "speed": 1000 + 500 * load + 5 * at[0],
            "current": 10 + 20 * load + 0.2 * at[1],
            "power": 5 + 10 * load + 0.1 * at[3],
            "temperature": 60 + 3 * at[2],
            "mode": "auto" if load > 0.1 else "hand",
            "remark": f"number {row}",
        }
        for row, (load, at) in enumerate(zip(loads.tolist(), noise.tolist(), strict=True))
    ]


@pytest.fixture(scope="module")
def readings() -> UsualReadings:
    return learn_usual(pump(LEARNT))


@pytest.fixture(scope="module")
def usual(readings: UsualReadings) -> RarityModel:
    return RarityModel(readings)


def ordinary() -> dict[str, Any]:
    return {"speed": 1250.0, "current": 20.0, "power": 10.0, "temperature": 60.0, "mode": "auto", "remark": "hums"}


def test_an_ordinary_reading_is_not_rare_and_names_no_field(usual: RarityModel) -> None:
    compared = usual.compare(ordinary(), max_rarity=0.01)
    rarity, named = compared.rarity, compared.because
    assert rarity > 0.2
    assert named == []


def test_a_number_that_does_not_go_with_the_others_is_named_with_what_they_suggest(usual: RarityModel) -> None:
    compared = usual.compare(ordinary() | {"current": 28.0}, max_rarity=0.01)
    rarity, [field] = compared.rarity, compared.because
    assert rarity < 0.001
    assert field.field == "current"
    assert field.value == 28.0
    assert field.usual is not None
    low, high = field.usual
    assert 19 < low < 20 < high < 21


@pytest.mark.parametrize(
    "odd",
    [
        {"speed": 1747.5, "power": 15.5},
        {"speed": 1588.3, "current": 31.3},
        {"speed": 754.2, "current": 8.1},
        {"current": 31.4, "power": 1.3},
        {"speed": 1564.6, "current": 32.0, "power": 14.8},
    ],
)
def test_what_is_usual_is_what_rows_had_and_not_the_value_itself(
    readings: UsualReadings, usual: RarityModel, odd: dict[str, float]
) -> None:
    ranges = {field.name: (field.low, field.high) for field in readings.numbers}
    for named in usual.compare(ordinary() | odd, max_rarity=0.01).because:
        least, greatest = ranges[named.field]
        if named.usual is None:
            assert least <= named.value <= greatest
        else:
            low, high = named.usual
            assert least - 0.1 <= low <= high <= greatest + 0.1
            assert not low <= named.value <= high


def test_fields_are_named_from_the_most_telling_one_until_the_rest_is_ordinary(usual: RarityModel) -> None:
    named = usual.compare(ordinary() | {"temperature": 90.0, "mode": "off"}, max_rarity=0.01).because
    assert [(field.field, field.usual is None) for field in named] == [("temperature", False), ("mode", True)]


@pytest.mark.parametrize("value", [None, "n/a", "ERR 17", True])
def test_a_number_that_was_always_there_is_named_where_it_is_missing_or_none(usual: RarityModel, value: Any) -> None:
    reading = {name: given for name, given in ordinary().items() if name != "speed"}
    compared = usual.compare(reading | ({} if value is None else {"speed": value}), max_rarity=0.01)
    rarity, named = compared.rarity, compared.because
    assert rarity < 1e-5
    assert (named[0].field, named[0].value) == ("speed", value)


def test_a_value_that_no_row_has_is_unusual_where_values_come_again(usual: RarityModel) -> None:
    assert usual.compare(ordinary() | {"mode": "test"}).rarity < 1e-5
    assert usual.compare(ordinary() | {"remark": "rattles"}).rarity > 0.2


@pytest.mark.parametrize("value", [1e308, -1e308, 10**300, "9" * 300])
def test_a_number_beyond_all_measure_is_as_rare_as_can_be(usual: RarityModel, value: Any) -> None:
    compared = usual.compare(ordinary() | {"temperature": value}, max_rarity=0.01)
    rarity, named = compared.rarity, compared.because
    assert (rarity, named[0].field) == (1e-6, "temperature")


def test_a_long_value_is_cut_where_it_is_named(usual: RarityModel) -> None:
    for value in ("x" * 5000, ["x"] * 5000):
        named = usual.compare(ordinary() | {"speed": value}, max_rarity=0.01).because
        assert len(named[0].value) <= 200


def test_a_number_that_is_spelled_as_text_is_the_number(usual: RarityModel) -> None:
    assert usual.score(ordinary() | {"speed": "1250"}) == usual.score(ordinary())


def test_remarks_that_never_repeat_and_other_keys_say_nothing(usual: RarityModel) -> None:
    assert usual.score(ordinary() | {"remark": "hums", "ts": "today"}) == usual.score(
        ordinary() | {"remark": "rattles"}
    )


def test_the_rarity_is_the_share_of_held_out_readings_that_are_as_rare(
    readings: UsualReadings, usual: RarityModel
) -> None:
    middle = readings.scores[len(readings.scores) // 2]
    assert usual.rarity_of(middle) == pytest.approx(0.5, abs=0.01)
    later = np.array([usual.rarity_of(usual.score(reading)) for reading in pump(4000, seed=1)])
    for share in (0.1, 0.01):
        assert share / 2 < (later <= share).mean() < share * 2


def test_beyond_the_held_out_readings_the_rarity_still_falls(usual: RarityModel) -> None:
    rarities = [usual.compare(ordinary() | {"temperature": temperature}).rarity for temperature in (60, 66, 70, 74, 90)]
    assert rarities == sorted(rarities, reverse=True)
    assert rarities[-1] < 1 / LEARNT / 10


def test_leaving_a_number_out_is_as_if_it_had_never_been_there(usual: RarityModel) -> None:
    reading = ordinary() | {"temperature": 71.0}
    gone = {name: value for name, value in reading.items() if name != "temperature"}
    [field] = [field for field in usual.usual.numbers if field.name == "temperature"]
    surprise = usual.conditional_surprisals(reading)["temperature"] - field.expected
    assert usual.score(gone) == pytest.approx(usual.score(reading) - surprise - math.log(field.missing))


def test_equal_rows_and_seeds_give_equal_files_that_are_small(readings: UsualReadings) -> None:
    again = learn_usual(pump(LEARNT))
    data = UsualReadingsFile(tasks={"pump": again}).model_dump_json(by_alias=True).encode()
    assert data == UsualReadingsFile(tasks={"pump": readings}).model_dump_json(by_alias=True).encode()
    assert len(data) < 20_000
    assert read_usual_readings(data).tasks["pump"] == readings


def test_error_codes_and_a_glitch_among_the_rows_do_not_make_other_values_usual() -> None:
    """Each of the codes is in a few rows, as exports have them, and 1,000 is in one."""
    rows = pump(LEARNT)
    for at in range(0, LEARNT, 60):
        rows[at] = rows[at] | {("temperature", "current")[at // 60 % 2]: (-99, 65535)[at // 120 % 2]}
    rows[7] = rows[7] | {"temperature": 1000.0}
    usual = RarityModel(learn_usual(rows))
    assert usual.compare(ordinary() | {"temperature": 75.0}).rarity < 0.01
    assert usual.compare(ordinary() | {"current": 28.0}).rarity < 0.001
    code, glitch = (usual.compare(ordinary() | {"temperature": value}, max_rarity=0.1) for value in (-99, "1000"))
    assert 0.005 < code.rarity < 0.05
    assert glitch.rarity < 0.001
    assert code.because[0].usual == glitch.because[0].usual
    assert usual.compare(ordinary()).rarity > 0.2


def with_standstill(rows: list[dict[str, Any]], count: int) -> list[dict[str, Any]]:
    """The pump is off for `count` rows in one stretch, with a speed of exactly 0 and nearly no current or power."""
    draw = np.random.default_rng(1)
    off = [
        {"speed": 0, "current": abs(at[0]), "power": abs(at[1]) / 2, "temperature": 20 + at[2], "mode": "off"}
        for at in draw.normal(0, 0.2, (count, 3)).tolist()
    ]
    middle = len(rows) // 2
    return [*rows[:middle], *off, *rows[middle:]]


@pytest.mark.parametrize("count", [12, 60, 120, 250])
def test_a_machine_that_was_off_for_a_while_is_watched_as_if_it_had_not_been(count: int) -> None:
    rows = with_standstill(pump(LEARNT), count)
    usual = RarityModel(learn_usual(rows, [5 * at // len(rows) for at in range(len(rows))]))
    off = rows[LEARNT // 2 + count // 2]
    for reading in (ordinary() | {"temperature": 80.0}, ordinary() | {"current": 28.0}, off | {"current": 5.0}):
        assert usual.compare(reading).rarity < 0.001
    assert usual.compare(ordinary()).rarity > 0.2
    assert usual.compare(off).rarity > 0.01


@pytest.mark.parametrize("idle", [60, 180])
def test_a_sensor_stuck_at_what_it_says_in_one_of_several_other_states_is_noticed(idle: int) -> None:
    draw = np.random.default_rng(2)
    rows = with_standstill(pump(LEARNT), 40)
    rows += [
        {"speed": 300 + 5 * at[0], "current": 3 + at[1] / 5, "power": 1 + at[2] / 9, "temperature": 45 + at[3]}
        for at in draw.normal(0, 1, (idle, 4)).tolist()
    ]
    for at in range(0, len(rows), 50):
        rows[at] = rows[at] | {"temperature": -99}
    usual = RarityModel(learn_usual(rows, [5 * at // len(rows) for at in range(len(rows))]))
    assert [(field.name, *field.codes) for field in usual.usual.numbers if field.codes] == [("temperature", "-99.0")]
    assert usual.compare(ordinary() | {"speed": 0}).rarity < 0.002
    assert usual.compare(rows[LEARNT // 2 + 20]).rarity > 0.01
    assert usual.compare(rows[-20]).rarity > 0.01


@pytest.mark.parametrize("code", [-99, -999])
def test_an_error_code_is_one_too_where_it_comes_during_a_standstill_at_0(code: int) -> None:
    """-999 is far from all speeds. -99 is not as far, but is the code of another field, too."""
    rows = with_standstill(pump(LEARNT), 60)
    for at in range(0, len(rows), 20):
        rows[at] = rows[at] | ({"speed": code} if at % 40 else {"current": -99})
    usual = RarityModel(learn_usual(rows, [5 * at // len(rows) for at in range(len(rows))]))
    found = {field.name: list(field.codes) for field in usual.usual.numbers if field.codes}
    assert found == {"speed": [f"{code}.0"], "current": ["-99.0"]}
    [named] = [field for field in usual.compare(rows[300]).because if field.field == "speed"]
    assert named.usual is not None
    assert named.usual[0] >= 0


def test_what_a_standstill_and_cold_starts_have_in_common_is_no_error_code() -> None:
    rows = with_standstill([row | {"temperature": round(row["temperature"], 1)} for row in pump(LEARNT)], 16)
    for at in range(LEARNT // 2, LEARNT // 2 + 24):
        rows[at] = rows[at] | {"temperature": 5 + at % 4 / 10}
    assert [field.codes for field in learn_usual(rows).numbers] == [{}] * 4


def test_a_standstill_without_some_numbers_is_learnt_as_well() -> None:
    rows = [
        row if row["mode"] != "off" else {name: row[name] for name in ("current", "temperature", "mode")}
        for row in with_standstill(pump(LEARNT), 60)
    ]
    usual = RarityModel(learn_usual(rows, [5 * at // len(rows) for at in range(len(rows))]))
    assert usual.compare(rows[LEARNT // 2 + 30]).rarity > 0.05
    assert usual.compare(ordinary() | {"current": 28.0}).rarity < 0.001


@pytest.mark.parametrize("value", [None, "ERR", "43,5", -99, 0, 65535])
def test_a_dead_sensor_is_named_whatever_false_alarms_are_accepted(readings: UsualReadings, value: Any) -> None:
    tail = Tail(threshold=0.0, share=0.1, scale=1e6, shape=0.9)
    usual = RarityModel(readings.model_copy(update={"tail": tail}))
    reading = {name: given for name, given in ordinary().items() if name != "speed"}
    compared = usual.compare(reading | ({} if value is None else {"speed": value}), max_rarity=0.01)
    assert (compared.rarity, compared.because[0].field) == (1e-6, "speed")


def test_a_sensor_that_was_dead_in_a_share_of_the_rows_is_as_rare_as_that() -> None:
    rows = [row if at % 20 else {**row, "speed": "ERR"} for at, row in enumerate(pump(LEARNT))]
    usual = RarityModel(learn_usual(rows))
    assert usual.compare(ordinary() | {"speed": "ERR"}).rarity > 0.01
    assert usual.compare(ordinary() | {"speed": "n/a"}).rarity == 1e-6
    assert usual.compare({name: value for name, value in ordinary().items() if name != "speed"}).rarity == 1e-6


def test_the_rarest_rows_are_those_of_the_faults_among_them_and_each_fault_is_one_run() -> None:
    rows = pump(LEARNT)
    faults = [*range(200, 204), *range(206, 208), 230]
    for at in faults:
        rows[at] = rows[at] | {"temperature": 75.0 + at % 2}
    blocks, places = [5 * at // LEARNT for at in range(LEARNT)], range(LEARNT)
    _, rarest = learn_and_find_rarest(rows, blocks, 0, places=places, count=2)
    assert [{*run} & {*faults} for run, _ in rarest] in ([{*faults[:-1]}, {230}], [{230}, {*faults[:-1]}])
    assert {compared.because[0].field for _, compared in rarest} == {"temperature"}
    # The rows are taken as if each were of a machine of its own.
    apart = learn_and_find_rarest(rows, blocks, 0, places=range(0, 10 * LEARNT, 10), count=7)[1]
    assert [len(run) for run, _ in apart] == [1] * 7
    assert {at for run, _ in apart for at in run} == {*faults}


def test_readings_without_numbers_are_compared_by_their_values() -> None:
    usual = RarityModel(learn_usual([{"mode": ("auto", "hand")[at % 2], "is_on": True} for at in range(100)]))
    assert usual.compare({"mode": "hand", "is_on": True}).rarity > 0.2
    compared = usual.compare({"mode": "test", "is_on": True}, max_rarity=0.1)
    assert [(field.field, field.usual) for field in compared.because] == [("mode", None)]


def test_a_rarity_is_rounded_before_it_is_said_to_be_rare(readings: UsualReadings) -> None:
    """Otherwise an unusual reading at the limit would name no field."""
    tail = Tail(threshold=0.0, share=0.1000004, scale=1e6, shape=0.0)
    assert RarityModel(readings.model_copy(update={"tail": tail})).rarity_of(1e-9) == 0.1


def test_covariances_of_many_numbers_fit_in_the_file(readings: UsualReadings) -> None:
    assert len(readings.components) > 2
    assert len(learn_usual(pump(LEARNT), max_bytes=500).components) <= 2


def test_rows_of_a_run_are_held_out_together() -> None:
    """Each run has a level of its own, so that what is held out is farther from the rest, and less of it is rare."""
    draw = np.random.default_rng(0)
    runs = [run for run in range(20) for _ in range(30)]
    levels = draw.normal(0, 5, 20)
    rows = [{"a": levels[run] + draw.normal(), "b": 2 * levels[run] + draw.normal()} for run in runs]
    apart, drawn = learn_usual(rows, runs), learn_usual(rows)
    assert apart.scores[-30] > drawn.scores[-30]


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"kind": "classify"}, "unusual"),
        ({"tasks": {}}, "at least 1"),
        ({"more": 1}, "Extra inputs"),
        ({"scores": [2.0, 1.0]}, "scores should rise"),
        (
            {
                "numbers": [
                    {"name": "a", "missing": 1, "expected": 0, "center": 0, "scale": 1, "low": 2, "high": 1, "odd": 1}
                ]
            },
            "ranges of numbers should rise",
        ),
        ({"scores": [math.inf]}, "not JSON|Infinity|finite"),
        ({"components": []}, "components"),
        ({"components": [{"weight": 1, "mean": [1e300] * 4, "covariance": []}]}, "components.0.mean"),
    ],
)
def test_a_file_that_the_converter_did_not_write_is_refused(
    readings: UsualReadings, change: dict[str, Any], fault: str
) -> None:
    document = json.loads(UsualReadingsFile(tasks={"pump": readings}).model_dump_json(by_alias=True))
    key = next(iter(change))
    (document["tasks"]["pump"] if key in document["tasks"]["pump"] else document).update(change)
    with pytest.raises(ValueError, match=fault):
        read_usual_readings(json.dumps(document).encode())


@pytest.mark.parametrize("factor", [-1, 1e-300])
def test_covariances_that_are_none_are_refused_before_the_first_reading(readings: UsualReadings, factor: float) -> None:
    component = readings.components[0]
    rows = tuple(tuple(factor * value for value in row) for row in component.covariance)
    broken = readings.model_copy(update={"components": (component.model_copy(update={"covariance": rows}),)})
    with pytest.raises(ValueError, match="positive definite"):
        RarityModel(broken)


def test_a_number_that_only_error_codes_change_is_learnt() -> None:
    rows = [row | {"valve": 1} for row in pump(120)]
    for at in range(6):
        rows[at] |= {"valve": -97 - at % 3}
    usual = RarityModel(learn_usual(rows))
    assert usual.compare(ordinary() | {"valve": 1}).rarity > 0.05
    assert usual.compare(ordinary() | {"valve": 2}).rarity < 1e-5
