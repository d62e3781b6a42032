import itertools
import random
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from edge_agent.core.signal_tables import SignalsTable
from edge_agent.signals import sparkplug_source
from edge_agent.signals.signal_table import new_table
from edge_agent.signals.source import NotTakenError
from edge_agent.signals.sparkplug_source import RebirthLimiter, SparkplugSource
from tests.helpers.sparkplug import Payload

START = 1.8e9
INT16, FLOAT, STRING = 2, 9, 12
VIBRATION, TEMP = "Vibration", "Motor/Temp"
VALUES = {"vib": {"metric": VIBRATION}, "temp": {"metric": TEMP}}


def config(values: dict[str, Any] = VALUES, **keys: Any) -> SignalsTable:
    return SignalsTable.model_validate({"source": "sparkplug", "group": "Plant", **keys, "values": values})


def encoded(seq: int | None, *metrics: dict[str, Any], timestamp: int | None = None) -> bytes:
    return bytes(Payload(seq=seq, metrics=metrics, timestamp=timestamp).SerializeToString())


def bd_seq(number: int) -> dict[str, Any]:
    return {"name": "bdSeq", "datatype": 4, "long_value": number}


def birth_of(vib: float, temp: int, aliases: tuple[int, int] = (1, 2)) -> tuple[dict[str, Any], ...]:
    return (
        {"name": VIBRATION, "alias": aliases[0], "datatype": FLOAT, "float_value": vib},
        {"name": TEMP, "alias": aliases[1], "datatype": INT16, "int_value": temp % 2**32},
        {"name": "Motor/Serial", "alias": 9, "datatype": STRING, "string_value": "A-1"},
    )


class Plant:
    """One node that sends to a source, and what the source has said of the machines by now."""

    def __init__(self, values: dict[str, Any] = VALUES, **keys: Any) -> None:
        self.source = SparkplugSource(config(values, **keys))
        self.machines: dict[str, dict[str, float | None]] = {}
        self.causes: list[str] = []
        """Why values are missing."""
        self.now = START
        self.seq = 0

    def send(self, kind: str, payload: bytes, *, is_retained: bool = False, topic: str = "") -> None:
        node, _, device = "n/d".partition("/") if kind.startswith("D") else ("n", "", "")
        address = topic or f"spBv1.0/Plant/{kind}/{node}" + (f"/{device}" if device else "")
        self._see(self.source.read(address, payload, is_retained=is_retained, now=self.now))

    def wait(self, seconds: float) -> None:
        self.now += seconds
        while (at := self.source.due_at) is not None and at <= self.now:
            self._see(self.source.advance(at))

    def _see(self, updates: Iterable[Any]) -> None:
        for update in updates:
            self.machines.setdefault(update.machine, {}).update(update.values)
            if None in update.values.values():
                self.causes += update.causes.values() or [update.cause]

    def next(self) -> int:
        self.seq = (self.seq + 1) % 256
        return self.seq

    def birth(self, session: int = 0, vib: float = 2.5, temp: int = 70, aliases: tuple[int, int] = (1, 2)) -> None:
        self.seq = 0
        self.send("NBIRTH", encoded(0, bd_seq(session)))
        self.send("DBIRTH", encoded(self.next(), *birth_of(vib, temp, aliases)))

    def data(self, *metrics: dict[str, Any]) -> None:
        self.send("DDATA", encoded(self.next(), *metrics))

    def values(self) -> tuple[float | None, float | None]:
        machine = self.machines.get("n/d", {})
        return machine.get("vib"), machine.get("temp")

    @property
    def health(self) -> dict[str, Any]:
        return self.source.as_health()

    def requests(self) -> list[str]:
        return [publication.topic for publication in self.source.take_requests(self.now)]


MISSING = (None, None)


def test_births_give_values_and_data_change_them_by_alias_and_by_name() -> None:
    plant = Plant()
    plant.birth(vib=7.9, temp=-12)
    assert plant.values() == (7.9, -12.0)
    plant.data({"alias": 1, "float_value": 8.1})
    assert plant.values() == (8.1, -12.0)
    plant.data({"alias": 2, "int_value": 2**32 - 40})
    assert plant.values() == (8.1, -40.0)
    plant.data({"name": TEMP, "int_value": 2**32 - 41})
    assert plant.values() == (8.1, -41.0)
    plant.data({"alias": 2, "name": "", "int_value": 5}, {"alias": 77, "float_value": 1.0})
    assert plant.values() == (8.1, 5.0)
    assert set(plant.machines) == {"n/d"}
    assert plant.source.metric_names == {VIBRATION, TEMP, "Motor/Serial"}


def test_devices_of_one_node_may_use_the_same_aliases() -> None:
    plant = Plant()
    plant.birth()
    topic = "spBv1.0/Plant/{}/n/other".format
    swapped = birth_of(1.0, 1, aliases=(2, 1))
    plant.send("DBIRTH", encoded(plant.next(), *swapped), topic=topic("DBIRTH"))
    plant.send("DDATA", encoded(plant.next(), {"alias": 2, "float_value": 3.5}), topic=topic("DDATA"))
    plant.data({"alias": 2, "int_value": 71})
    assert plant.machines == {"n/d": {"vib": 2.5, "temp": 71.0}, "n/other": {"vib": 3.5, "temp": 1.0}}


@pytest.mark.parametrize(
    "metric",
    [
        {"is_null": True},
        {},
        {"float_value": 3.0, "properties": {"keys": ["Quality"], "values": [{"type": 3, "int_value": 0}]}},
        {"float_value": 3.0, "properties": {"keys": ["Quality"], "values": [{"type": 3, "int_value": 500}]}},
        {"string_value": "fault"},
        {"float_value": float("nan")},
        {"bytes_value": b"12"},
    ],
)
def test_null_bad_quality_and_text_that_is_not_a_number_make_a_value_missing(metric: dict[str, Any]) -> None:
    plant = Plant()
    plant.birth()
    plant.data({"alias": 1, **metric})
    assert plant.values() == (None, 70.0)


def test_a_metric_out_of_its_range_makes_a_value_missing() -> None:
    plant = Plant({"vib": {"metric": VIBRATION, "maximum": 100}, "temp": {"metric": TEMP}})
    plant.birth()
    plant.data({"alias": 1, "float_value": 100.5}, {"alias": 2, "int_value": 71})
    assert plant.values() == (None, 71.0)
    assert plant.causes == ["100.5 is above the maximum 100"]
    assert plant.source.as_health()["metrics_not_taken"] == {"out-of-range": 1}


@pytest.mark.parametrize("value", [{"float_value": 3.0}, {"is_null": True}])
def test_a_bad_quality_is_named_and_counted(value: dict[str, Any]) -> None:
    plant = Plant()
    plant.birth()
    plant.data({"alias": 1, **value, "properties": {"keys": ["Quality"], "values": [{"type": 3, "int_value": 500}]}})
    assert plant.causes == ["500 is a bad quality"]
    assert plant.health["metrics_not_taken"] == {"bad-quality": 1}
    assert plant.source.offenders == {("vib", "bad-quality"): ("n/d", "500")}


def test_good_quality_and_mapped_texts_are_values() -> None:
    plant = Plant({"vib": {"metric": VIBRATION}, "temp": {"metric": TEMP, "map": {"HOT": 1}}})
    plant.birth()
    good = {"keys": ["unit", "Quality"], "values": [{"string_value": "mm/s"}, {"type": 3, "int_value": 192}]}
    plant.data(
        {"alias": 1, "float_value": 3.0, "properties": good}, {"alias": 2, "datatype": STRING, "string_value": "HOT"}
    )
    assert plant.values() == (3.0, 1.0)


def test_historical_metrics_are_counted_and_raised_only_if_a_message_has_nothing_else() -> None:
    plant = Plant()
    plant.birth()
    old = {"alias": 1, "float_value": 99.0, "is_historical": True}
    plant.data(old, {"alias": 2, "int_value": 71})
    assert plant.values() == (2.5, 71.0)
    assert plant.health["metrics_not_taken"] == {"historical": 1}
    with pytest.raises(NotTakenError, match="historical"):
        plant.data(old)
    assert plant.values() == (2.5, 71.0)
    assert plant.health["metrics_not_taken"] == {"historical": 1}


def test_the_death_of_a_node_ends_its_devices_and_that_of_a_device_only_this_one() -> None:
    plant = Plant()
    plant.birth()
    plant.send("DDEATH", encoded(plant.next()))
    assert (plant.values(), plant.health["nodes_online"]) == (MISSING, 1)
    plant.send("DBIRTH", encoded(plant.next(), *birth_of(3.0, 71)))
    assert plant.values() == (3.0, 71.0)
    plant.send("NDEATH", encoded(None, bd_seq(0)))
    assert (plant.values(), plant.health["nodes_online"], plant.health["nodes_offline"]) == (MISSING, 0, 1)
    plant.birth()
    plant.send("NBIRTH", encoded(0, bd_seq(1)))
    assert plant.causes == [
        "its device has died",
        "its node has died",
        "no birth of it has followed that of its node",
    ]


def test_after_a_death_data_without_a_birth_are_not_taken() -> None:
    plant = Plant(rebirth=True)
    plant.birth()
    plant.send("DDEATH", encoded(plant.next()))
    with pytest.raises(NotTakenError, match="no-birth"):
        plant.data({"name": VIBRATION, "float_value": 3.0})
    plant.birth()
    plant.send("NDEATH", encoded(None, bd_seq(0)))
    plant.data({"name": VIBRATION, "float_value": 3.0})
    plant.wait(2)
    assert plant.values() == MISSING
    assert plant.requests() == ["spBv1.0/Plant/NCMD/n"]


@pytest.mark.parametrize(
    ("sessions", "death", "is_taken"),
    [
        ((4, 5), 4, False),
        ((255, 0), 255, False),
        ((5, 0), 5, False),  # The node does not keep its number over a restart.
        ((5, 0, 0), 5, False),
        ((1, 0), 1, True),
        ((4, 5), 5, True),
        ((4, 5), 6, True),  # pysparkplug's death is one ahead of its birth.
        ((255, 255), 0, True),
        ((4, 5), None, True),
    ],
)
def test_only_the_death_of_an_earlier_session_is_ignored(
    sessions: Iterable[int], death: int | None, *, is_taken: bool
) -> None:
    plant = Plant()
    for session in sessions:
        plant.birth(session)
    payload = encoded(None, *([] if death is None else [bd_seq(death)]))
    if is_taken:
        plant.send("NDEATH", payload)
    else:
        with pytest.raises(NotTakenError, match="late-death"):
            plant.send("NDEATH", payload)
    assert plant.values() == (MISSING if is_taken else (2.5, 70.0))


def test_a_node_that_comes_back_may_assign_other_aliases() -> None:
    plant = Plant()
    plant.birth(session=1)
    plant.send("NDEATH", encoded(None, bd_seq(1)))
    plant.birth(session=2, vib=3.0, temp=71, aliases=(2, 1))
    plant.data({"alias": 1, "int_value": 72})
    assert plant.values() == (3.0, 72.0)


def test_a_birth_of_the_node_makes_devices_wait_for_their_own() -> None:
    plant = Plant()
    plant.birth()
    plant.seq = 0
    plant.send("NBIRTH", encoded(0, bd_seq(0)))
    assert plant.values() == MISSING
    plant.send("DBIRTH", encoded(plant.next(), birth_of(3.0, 0)[0]))
    assert plant.values() == (3.0, None)


def test_a_lost_connection_forgets_births_so_that_no_alias_is_misread() -> None:
    plant = Plant(rebirth=True)
    plant.birth()
    plant.source.on_connection_lost()
    assert plant.health["nodes_offline"] == 1
    plant.data({"alias": 1, "float_value": 8.0}, {"name": TEMP, "datatype": INT16, "int_value": 71})
    plant.wait(2)
    # What names its metric reads without a birth.
    assert plant.values() == (2.5, 71.0)
    plant.data({"alias": 1, "float_value": 8.0})
    assert plant.health["births_missed_total"] == 1
    assert plant.requests() == ["spBv1.0/Plant/NCMD/n"]


def test_a_lost_connection_empties_the_reorder_buffer_and_forgets_sessions() -> None:
    plant = Plant()
    plant.birth(session=5)
    plant.seq += 1
    plant.data({"alias": 1, "float_value": 8.0})
    plant.source.on_connection_lost()
    assert plant.source.due_at is None
    # The node may have started to count its sessions anew.
    plant.send("NDEATH", encoded(None, bd_seq(3)))
    plant.data({"name": VIBRATION, "float_value": 3.0})
    plant.wait(2)
    assert plant.values() == (2.5, 70.0)
    assert plant.health["metrics_not_taken"] == {"no-birth": 1}


@pytest.mark.parametrize(
    ("topic", "is_retained"),
    [
        ("$sparkplug/certificates/spBv1.0/Plant/DBIRTH/n/d", True),
        ("$sparkplug/certificates/spBv1.0/Plant/DBIRTH/n/d", False),
        ("spBv1.0/Plant/DBIRTH/n/d", True),
    ],
)
def test_a_stored_birth_gives_names_and_types_but_no_values(topic: str, *, is_retained: bool) -> None:
    plant = Plant(certificates=True)
    assert "$sparkplug/certificates/spBv1.0/Plant/DBIRTH/+/+" in plant.source.filters
    birth = encoded(1, *birth_of(99.0, 99))
    plant.send("DBIRTH", birth, is_retained=is_retained, topic=topic)
    assert plant.values() == MISSING
    plant.data({"alias": 2, "int_value": 2**32 - 3})
    plant.wait(2)
    assert plant.values() == (None, -3.0)
    plant.birth(aliases=(2, 1))
    # A broker that keeps births also passes on the new ones.
    plant.send("DBIRTH", birth, is_retained=is_retained, topic=topic)
    plant.data({"alias": 1, "int_value": 7})
    assert plant.values() == (2.5, 7.0)


@pytest.mark.parametrize("is_retained", [True, False])
def test_births_that_change_an_alias_again_and_again_do_not_fill_the_memory(*, is_retained: bool) -> None:
    plant = Plant()
    for seq in range(100):
        metrics = ({"name": VIBRATION, "alias": seq * 100 + number, "datatype": FLOAT} for number in range(100))
        plant.send("DBIRTH", encoded(seq, *metrics), is_retained=is_retained)
    (node,) = plant.source._nodes.values()
    assert [device.names for device in node.devices.values()] == [{9900: VIBRATION}]


def test_a_gap_asks_for_a_rebirth_once_a_minute_and_less_often_while_it_does_not_help() -> None:
    plant = Plant(rebirth=True)
    plant.birth()
    plant.next()
    plant.data({"alias": 1, "float_value": 8.0})
    assert (plant.values(), plant.requests()) == ((2.5, 70.0), [])
    plant.wait(2)
    assert plant.values() == (8.0, 70.0)
    asked = []
    for second in range(3600):
        asked += [second] * len(plant.requests())
        plant.wait(1)
    assert asked == [0, 60, 180, 420, 900, 1860]
    assert (plant.health["gaps_total"], plant.health["rebirths_asked_total"]) == (1, 6)
    plant.birth()
    plant.wait(3600)
    assert plant.requests() == []


def test_a_node_that_keeps_losing_messages_is_asked_at_most_once_a_minute() -> None:
    plant = Plant(rebirth=True)
    plant.birth()
    asked: list[int] = []
    for second in range(1800):
        if second - 1 in asked:
            plant.birth()
        plant.next()
        plant.data({"alias": 1, "float_value": float(second)})
        plant.wait(1)
        asked += [second] * len(plant.requests())
    assert len(asked) >= 5
    assert min(later - earlier for earlier, later in itertools.pairwise(asked)) >= 60


def test_no_rebirth_is_requested_unless_it_is_allowed() -> None:
    plant = Plant()
    plant.birth()
    plant.seq += 5
    plant.data({"alias": 1, "float_value": 8.0})
    plant.wait(60)
    assert (plant.requests(), plant.health["gaps_total"]) == ([], 1)


def test_tables_that_share_a_node_ask_it_once_between_them() -> None:
    limiter = RebirthLimiter()
    sources = [SparkplugSource(config(rebirth=True), limiter) for _ in range(2)]
    for source in sources:
        source.read(
            "spBv1.0/Plant/DDATA/n/d", encoded(3, {"alias": 1, "float_value": 1.0}), is_retained=False, now=START
        )
        source.advance(START + 2)
    assert [len(source.take_requests(START + 2)) for source in sources] == [1, 0]


def test_a_new_birth_of_a_device_ends_values_and_aliases_that_it_no_longer_has() -> None:
    plant = Plant()
    plant.birth()
    plant.send("DBIRTH", encoded(plant.next(), birth_of(3.0, 0, aliases=(5, 6))[0]))
    assert plant.values() == (3.0, None)
    plant.data({"alias": 1, "float_value": 9.0}, {"alias": 2, "int_value": 9})
    assert plant.values() == (3.0, None)


def test_devices_that_make_one_machine_end_only_their_own_values() -> None:
    plant = Plant(machine="{node}")
    vib, temp, _ = birth_of(3.0, 71)
    plant.send("NBIRTH", encoded(0))
    plant.send("", encoded(1, vib), topic="spBv1.0/Plant/DBIRTH/n/a")
    plant.send("", encoded(2, temp), topic="spBv1.0/Plant/DBIRTH/n/b")
    plant.send("", encoded(3), topic="spBv1.0/Plant/DDEATH/n/a")
    assert plant.machines == {"n": {"vib": None, "temp": 71.0}}
    plant.send("", encoded(4), topic="spBv1.0/Plant/DDEATH/n/b")
    assert plant.machines == {"n": {"vib": None, "temp": None}}


def test_a_device_that_died_is_not_read_by_name_even_if_the_node_is_not_known() -> None:
    plant = Plant()
    plant.send("DDEATH", encoded(5))
    plant.send("DDATA", encoded(6, {"name": VIBRATION, "float_value": 3.0}))
    plant.wait(2)
    assert plant.values() == MISSING
    assert plant.health["metrics_not_taken"] == {"no-birth": 1}


def test_the_timestamp_tells_whether_a_waiting_message_is_older_than_a_birth() -> None:
    plant = Plant()
    plant.birth(session=1)
    # Message 2 is lost; 3 is of the old session, and the new one has another 3.
    plant.send("DDATA", encoded(3, {"alias": 1, "float_value": 99.0}, timestamp=1000))
    plant.send("NBIRTH", encoded(0, bd_seq(2), timestamp=2000))
    plant.send("DBIRTH", encoded(1, *birth_of(3.0, 71), timestamp=2001))
    plant.send("DDATA", encoded(2, {"alias": 2, "int_value": 72}, timestamp=2002))
    assert plant.values() == (3.0, 72.0)
    plant.send("DDATA", encoded(3, {"alias": 1, "float_value": 4.0}, timestamp=2003))
    assert plant.values() == (4.0, 72.0)


def test_the_birth_of_a_device_that_overtook_its_nodes_counts_even_if_another_message_is_lost() -> None:
    plant = Plant()
    plant.birth(session=1)
    plant.send("DBIRTH", encoded(5, *birth_of(3.0, 71), timestamp=2005))
    plant.send("NBIRTH", encoded(3, bd_seq(2), timestamp=2003))
    plant.wait(2)
    assert (plant.values(), plant.health["gaps_total"]) == ((3.0, 71.0), 1)


def test_a_message_that_waits_from_long_before_a_birth_is_of_an_earlier_session() -> None:
    plant = Plant()
    plant.birth(session=1)
    plant.send("DDATA", encoded(200, {"alias": 1, "float_value": 99.0}))
    plant.send("NBIRTH", encoded(0, bd_seq(2)))
    plant.wait(2)
    plant.send("DBIRTH", encoded(1, *birth_of(3.0, 71)))
    assert (plant.values(), plant.health["gaps_total"]) == ((3.0, 71.0), 0)


def test_messages_that_waited_in_vain_are_taken_in_the_order_of_their_numbers() -> None:
    plant = Plant()
    plant.birth()
    plant.send("DDATA", encoded(8, {"alias": 1, "float_value": 8.0}))
    plant.send("DDATA", encoded(6, {"alias": 1, "float_value": 6.0}, {"alias": 2, "int_value": 6}))
    plant.wait(2)
    assert plant.values() == (8.0, 6.0)


def test_a_node_whose_sequence_does_not_wrap_at_255_is_read() -> None:
    plant = Plant()
    plant.send("NBIRTH", encoded(254))
    plant.send("DBIRTH", encoded(255, *birth_of(1.0, 1)))
    plant.send("DDATA", encoded(256, {"alias": 1, "float_value": 2.0}))
    plant.send("DDATA", encoded(1, {"alias": 1, "float_value": 3.0}))
    assert plant.values() == (3.0, 1.0)


def test_a_duplicate_that_waits_behind_a_gap_does_not_turn_the_sequence_back() -> None:
    plant = Plant()
    plant.birth()
    for seq in (6, 7, 1, 8):
        plant.send("DDATA", encoded(seq, {"alias": 1, "float_value": float(seq)}))
    plant.wait(2)
    plant.send("DDATA", encoded(9, {"alias": 1, "float_value": 9.0}))
    assert (plant.values(), plant.health["gaps_total"]) == ((9.0, 70.0), 1)


def session() -> list[tuple[str, bytes]]:
    """A node's whole life, in its order."""
    numbers = random.Random(5)
    messages = [
        ("NBIRTH", encoded(0, bd_seq(3), timestamp=1000)),
        ("DBIRTH", encoded(1, *birth_of(1.0, 1), timestamp=1001)),
    ]
    for seq in range(2, 20):
        metric = {"alias": 1, "float_value": float(seq)} if numbers.random() < 0.5 else {"alias": 2, "int_value": seq}
        messages.append(("DDATA", encoded(seq, metric, timestamp=1000 + seq)))
    messages.insert(10, ("DDEATH", encoded(10, timestamp=1010)))
    messages[11] = ("DBIRTH", encoded(11, *birth_of(11.0, 11, aliases=(2, 1)), timestamp=1011))
    del messages[12:]
    messages += [
        ("DDATA", encoded(seq, {"alias": 1 + seq % 2, ("int_value", "float_value")[seq % 2]: seq}))
        for seq in range(12, 30)
    ]
    return messages


SESSION = session()


@given(delays=st.lists(st.integers(0, 12), min_size=len(SESSION), max_size=len(SESSION)), is_known=st.booleans())
def test_messages_out_of_order_give_the_same_values(*, delays: list[int], is_known: bool) -> None:
    ordered, shuffled = Plant(), Plant()
    if is_known:
        for plant in (ordered, shuffled):
            plant.send("NBIRTH", encoded(99, bd_seq(2)))
            plant.send("DBIRTH", encoded(100, *birth_of(5.0, 5)))
    for kind, payload in SESSION:
        ordered.send(kind, payload)
    # Each is late by at most a second or so.
    arrivals = sorted(range(len(SESSION)), key=lambda number: (number + delays[number], number))
    for number in arrivals:
        shuffled.wait(0.1)
        shuffled.send(*SESSION[number])
    assert shuffled.values() == ordered.values()
    assert shuffled.values() == (29.0, 28.0)
    shuffled.wait(2)
    assert (shuffled.values(), shuffled.health) == (ordered.values(), ordered.health)


def test_duplicates_and_messages_that_come_far_too_late_are_not_taken() -> None:
    plant = Plant()
    plant.birth()
    plant.data({"alias": 1, "float_value": 3.0})
    old = encoded(plant.seq, {"alias": 1, "float_value": 3.0})
    plant.data({"alias": 1, "float_value": 4.0})
    plant.send("DDATA", old)
    plant.data({"alias": 2, "int_value": 71})
    plant.wait(2)
    assert plant.values() == (4.0, 71.0)
    assert (plant.health["gaps_total"], plant.health["metrics_not_taken"]) == (0, {"out-of-order": 1})


def test_a_node_with_no_or_wrong_sequence_numbers_is_read_anyway() -> None:
    plant = Plant()
    plant.send("NBIRTH", encoded(None, bd_seq(0)))
    plant.send("DBIRTH", encoded(None, *birth_of(1.0, 1)))
    plant.send("DDATA", encoded(None, {"alias": 1, "float_value": 2.0}))
    assert (plant.values(), plant.health["gaps_total"]) == ((2.0, 1.0), 0)
    plant.send("NBIRTH", encoded(0, bd_seq(0)))
    plant.send("DBIRTH", encoded(0, *birth_of(1.0, 1)))
    plant.send("DDATA", encoded(0, {"alias": 1, "float_value": 3.0}))
    plant.wait(2)
    assert (plant.values(), plant.health["gaps_total"]) == ((3.0, 1.0), 1)


def test_a_sequence_that_restarts_without_a_birth_is_a_gap() -> None:
    plant = Plant()
    plant.birth()
    plant.seq = 199
    plant.send("NBIRTH", encoded(199, bd_seq(0)))
    plant.send("DBIRTH", encoded(200, *birth_of(1.0, 1)))
    for seq in (3, 4, 5):
        plant.send("DDATA", encoded(seq, {"alias": 1, "float_value": float(seq)}))
    plant.wait(2)
    plant.send("DDATA", encoded(6, {"alias": 1, "float_value": 6.0}))
    assert (plant.values(), plant.health["gaps_total"]) == ((6.0, 1.0), 1)


@pytest.mark.parametrize(
    ("keys", "topic", "machine"),
    [
        ({}, "spBv1.0/Plant/DBIRTH/n/d", "n/d"),
        ({"machine": "{group}-{device}"}, "spBv1.0/Plant/DBIRTH/n/d", "Plant-d"),
        ({"names": {"n/d": "pump-7"}}, "spBv1.0/Plant/DBIRTH/n/d", "pump-7"),
        ({"device": ""}, "spBv1.0/Plant/NBIRTH/n", "n"),
        ({"device": "d", "node": "n", "group": "+"}, "spBv1.0/Other/DBIRTH/n/d", "n/d"),
        ({"machine": "{node}"}, "spBv1.0/Plant/DBIRTH/{device}/d", "{device}"),
        ({}, "spBv1.0/Plant/NBIRTH/n", None),
        ({"device": "d"}, "spBv1.0/Plant/DBIRTH/n/e", None),
        ({"device": ""}, "spBv1.0/Plant/DBIRTH/n/d", None),
        ({"node": "m"}, "spBv1.0/Plant/DBIRTH/n/d", None),
        ({}, "spBv1.0/Other/DBIRTH/n/d", None),
        ({}, "spBv1.0/Plant/DBIRTH/n", None),
        ({}, "spBv1.0/Plant/DBIRTH/n/d/e", None),
        ({}, "spBv1.0/Plant/NCMD/n", None),
        ({}, "spBv1.0/STATE/host", None),
        ({}, "plant/pump-7/vibration", None),
    ],
)
def test_the_topic_names_the_machine(keys: dict[str, Any], topic: str, machine: str | None) -> None:
    plant = Plant(**keys)
    payload = encoded(0, *birth_of(1.0, 1))
    plant.send("", payload, topic=topic)
    plant.wait(2)
    assert list(plant.machines) == ([] if machine is None else [machine])


def test_metrics_of_nodes_cannot_name_a_machine_after_a_device() -> None:
    with pytest.raises(ValidationError, match=r"machine: should be made from \{group\}, \{node\} \(got"):
        config(device="", machine="{node}/{device}")


def test_all_devices_are_subscribed_to_because_they_share_the_sequence_of_their_node() -> None:
    source = SparkplugSource(config(node="n", device="d"))
    assert source.filters == {
        *(f"spBv1.0/Plant/{kind}/n" for kind in ("NBIRTH", "NDATA", "NDEATH")),
        *(f"spBv1.0/Plant/{kind}/n/+" for kind in ("DBIRTH", "DDATA", "DDEATH")),
    }
    source.read("spBv1.0/Plant/NBIRTH/n", encoded(0), is_retained=False, now=START)
    source.read("spBv1.0/Plant/DDATA/n/other", encoded(1), is_retained=False, now=START)
    source.read("spBv1.0/Plant/NDATA/n", encoded(2), is_retained=False, now=START)
    assert source.due_at is None


def test_too_many_nodes_are_refused_until_others_are_long_gone() -> None:
    plant = Plant(device="", forget_s=60)
    for number in range(256):
        plant.send("", encoded(0, bd_seq(0)), topic=f"spBv1.0/Plant/NBIRTH/{number}")
    extra = "spBv1.0/Plant/NBIRTH/extra"
    with pytest.raises(NotTakenError, match="too-many-nodes"):
        plant.send("", encoded(0, *birth_of(1.0, 1)), topic=extra)
    plant.send("", encoded(None, bd_seq(0)), topic="spBv1.0/Plant/NDEATH/7")
    plant.wait(59)
    with pytest.raises(NotTakenError, match="too-many-nodes"):
        plant.send("", encoded(0, *birth_of(1.0, 1)), topic=extra)
    plant.send("", encoded(None, bd_seq(0)), topic="spBv1.0/Plant/NDEATH/8")
    plant.wait(1)
    plant.send("", encoded(0, *birth_of(1.0, 1)), topic=extra)
    assert plant.machines["extra"] == {"vib": 1.0, "temp": 1.0}
    assert (plant.health["nodes_online"], plant.health["nodes_offline"]) == (255, 1)


def test_devices_that_a_node_makes_up_are_bounded() -> None:
    plant = Plant()
    plant.send("NBIRTH", encoded(None))
    for number in range(5000):
        plant.send("", encoded(None, *birth_of(1.0, 1)), topic=f"spBv1.0/Plant/DBIRTH/n/{number}")
    with pytest.raises(NotTakenError, match="too-many-devices"):
        plant.send("", encoded(None, *birth_of(1.0, 1)), topic="spBv1.0/Plant/DBIRTH/n/extra")


def test_the_bytes_of_the_reorder_buffer_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sparkplug_source, "MAX_WAITING_BYTES", 40)
    plant = Plant()
    plant.birth()
    plant.send("DDATA", encoded(10, {"alias": 1, "float_value": 8.0}))
    assert plant.values() == (2.5, 70.0)
    plant.send("DDATA", encoded(11, {"alias": 2, "name": "x" * 40}))
    assert plant.values() == (8.0, 70.0)


def test_the_limiter_forgets_nodes_that_were_asked_long_ago() -> None:
    limiter = RebirthLimiter()
    for number in range(5000):
        assert limiter.allow(f"spBv1.0/Plant/NCMD/{number}", START + 10 * number)
    assert len(limiter._asked) <= 1024


def test_the_messages_of_the_reorder_buffer_are_bounded() -> None:
    plant = Plant()
    plant.birth()
    for seq in range(10, 80):
        plant.send("DDATA", encoded(seq, {"alias": 1, "float_value": float(seq)}))
    assert plant.values() == (79.0, 70.0)
    assert plant.source.due_at is None


def test_a_table_takes_waiting_messages_on_time_and_keeps_a_machine_that_is_silent() -> None:
    keys: dict[str, Any] = {"every_s": 0, "min_gap_s": 0, "min_coverage": 0, "forget_s": 60, "features": ["last"]}
    table = new_table("line", config(**keys, trigger={"above": {"vib": 5}}))

    def send(kind: str, payload: bytes, at: float) -> list[Any]:
        return list(table.receive(f"spBv1.0/Plant/{kind}", payload, is_retained=False, now=START + at))

    send("NBIRTH/n", encoded(0, bd_seq(0)), 0)
    send("DBIRTH/n/d", encoded(1, *birth_of(1.0, 1)), 0)
    assert send("DDATA/n/d", encoded(3, {"alias": 1, "float_value": 6.0}), 1) == []
    assert table.due_at == START + 3
    (reading,) = table.advance(START + 10_000)
    assert (reading.at, reading.trigger) == (START + 3, "vib above 5")
    assert set(table.machines) == {"n/d"}
    send("NDEATH/n", encoded(None, bd_seq(0)), 10_000)
    list(table.advance(START + 11_000))
    assert not table.machines
