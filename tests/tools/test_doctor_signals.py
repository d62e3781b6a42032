import threading
from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Any

import pytest

from edge_agent.core.config import Config
from edge_agent.core.messages import Message, Publication
from edge_agent.core.signal_tables import SignalsTable
from edge_agent.signals.signal_table import new_table
from edge_agent.tools.client import Client
from edge_agent.tools.doctor.check import Check, Verdict
from edge_agent.tools.doctor.signals import Heard, listen, signals_checks, table_checks, trained_checks
from tests.helpers.processes import Mosquitto, free_port
from tests.helpers.sparkplug import Payload
from tests.helpers.support import config

TABLE = """
[signals.pump]
max_machines = 3
[signals.pump.values]
vib = { topic = "plant/+/vib", minimum = -40 }
temp = { topic = "plant/+/temp", path = ["value"] }
"""


def heard_of(
    *messages: tuple[str, str],
    settings: SignalsTable | None = None,
    elsewhere: AbstractSet[str] = frozenset(),
    **more: Any,
) -> list[Check]:
    settings = settings or config(TABLE).signals["pump"]
    heard = Heard(settings, new_table("pump", settings), elsewhere=elsewhere)
    for topic, payload in messages:
        message = Message(topic=topic, payload=payload.encode(), qos=0, packet_id=0, received_at=0.0, **more)
        heard.receive(message, 1.8e9)
    return [*table_checks("pump", heard, 60.0)]


def found(checks: list[Check]) -> list[str]:
    assert all(check.verdict is Verdict.WARNING and check.advice for check in checks)
    return [check.found for check in checks]


def test_a_plant_that_matches_its_table_is_good() -> None:
    (check,) = heard_of(("plant/a/vib", "1"), ("plant/a/temp", '{"value":2}'))
    assert (check.verdict, check.found) == (Verdict.GOOD, "pump: all values were read; machines: a")


def test_a_topic_without_a_message_is_named() -> None:
    assert found(heard_of(("plant/a/vib", "1"))) == [
        'signals.pump.values.temp: no message on "plant/+/temp" in 60 s',
    ]


def test_a_topic_with_only_retained_messages_is_named() -> None:
    checks = found(heard_of(("plant/a/vib", "1"), ("plant/a/temp", '{"value":2}'), is_retained=True))
    assert checks[0] == 'signals.pump.values.vib: only retained messages on "plant/+/vib" in 60 s'


def test_the_first_payload_that_cannot_be_read_is_shown() -> None:
    checks = found(heard_of(("plant/a/vib", "9,5"), ("plant/a/vib", "8,5"), ("plant/a/temp", '{"t":2}')))
    assert checks == [
        'signals.pump.values.vib: "plant/a/vib" has a decimal comma (got 9,5)',
        'signals.pump.values.temp: "plant/a/temp" has nothing at `path` (got {"t":2})',
    ]
    some = found(heard_of(("plant/a/vib", "x")))
    assert some[0] == 'signals.pump.values.vib: "plant/a/vib" is not a number, and `map` has none for it (got x)'
    some = found(heard_of(("plant/a/vib", "1"), ("plant/a/vib", "x"), ("plant/a/temp", '{"value":2}')))
    assert some[0].startswith("signals.pump.values.vib: 1 of 2 messages could be read; the first of the others:")
    low = heard_of(("plant/a/vib", "-9999"))[0]
    assert low.found.endswith('"plant/a/vib" is below `minimum` or above `maximum` (got -9999)')
    assert low.advice == "look at the sensor, or correct the range"
    mixed = heard_of(("plant/a/vib", "1"), ("plant/b/vib", "9,5"), ("plant/a/temp", '{"value":2}'))
    assert mixed[0].advice == "set `decimal_comma = true` for this value, or have the sender write a point"


def test_a_bad_quality_is_shown() -> None:
    values = {"gap": {"topic": "plant/+/gap", "path": ["mm"], "quality": ["q"]}}
    settings = SignalsTable.model_validate({"values": values})
    shown = found(heard_of(("plant/a/gap", '{"mm":0.3,"q":false}'), settings=settings))
    assert shown[0] == 'signals.pump.values.gap: "plant/a/gap" has a bad quality (got {"mm":0.3,"q":false})'


def test_machines_of_another_table_on_the_same_topics_are_no_fault() -> None:
    messages = [("plant/a/vib", "1"), ("plant/a/temp", '{"value":2}')]
    messages += [("plant/b/vib", '{"value":1}'), ("plant/b/temp", "2")]
    assert len(found(heard_of(*messages))) == 2
    (check,) = heard_of(*messages, elsewhere={"b"})
    assert check.found == "pump: all values were read; machines: a"


def test_machines_that_lack_a_value_or_are_too_many_are_named() -> None:
    messages = [(f"plant/{name}/vib", "1") for name in "abcd"] + [("plant/a/temp", '{"value":2}')]
    assert (heard_of(*messages)[0].advice or "").startswith("a value that is sent only on change may not have changed")
    assert found(heard_of(*messages)) == [
        'signals.pump: in 60 s of listening, "b" had no temp; "c" had no temp',
        'signals.pump: machines that are not followed: "d"',
    ]
    optional = config(TABLE.replace("path", "optional = true, path")).signals["pump"]
    (only,) = found(heard_of(*messages, settings=optional))
    assert only == 'signals.pump: machines that are not followed: "d"'


def test_fields_that_the_trained_model_misses_are_named() -> None:
    settings = config(f'[tasks.t]\nkind = "classify"\nlabels = ["a", "b"]\nsignals = "pump"\n{TABLE}')
    (check,) = trained_checks(settings, {"t": ["vib.mean_10m", "vib.mean_5m", "other.last"]})
    assert check.verdict is Verdict.FAILED
    assert check.found == "task t: its model reads other.last, vib.mean_5m, which [signals.pump] does not have"
    assert not [*trained_checks(settings, {"t": ["vib.last"], "u": ["x"]})]


def seconds_of_listening(*values: tuple[str, float, float], settings: Config | None = None) -> float:
    """How long it listens to values, each with its name, the time of its first message, and the seconds between two."""
    table = (settings or config(TABLE)).signals["pump"]
    times = {name: range(round(10 * first), 600, round(10 * every)) for name, first, every in values}
    arriving = sorted((tenths / 10, name) for name, all_tenths in times.items() for tenths in all_tenths)
    heard_at = 0.0

    def messages() -> Iterator[Message]:
        nonlocal heard_at
        for heard_at, name in arriving:
            payload = b'{"value":2}' if name.endswith("temp") else b"1"
            yield Message(topic=f"plant/{name}", payload=payload, qos=0, packet_id=0, received_at=1000.0 + heard_at)

    listen([Heard(table, new_table("pump", table))], messages())
    return heard_at


def test_listening_ends_once_each_machine_has_had_each_value() -> None:
    often = (("a/vib", 0.0, 1.0), ("b/vib", 0.5, 1.0), ("a/temp", 2.0, 10.0))
    assert 5 < seconds_of_listening(*often, ("b/temp", 3.0, 10.0)) < 7
    assert 9 < seconds_of_listening(*often, ("b/temp", 9.0, 10.0)) < 15
    assert seconds_of_listening(*often) > 59


def test_listening_does_not_end_while_new_machines_come() -> None:
    often = (("a/vib", 0.0, 1.0), ("a/temp", 1.0, 4.0))
    assert 8 < seconds_of_listening(*often, ("b/vib", 4.0, 30.0), ("b/temp", 4.0, 30.0)) < 11
    assert 33 < seconds_of_listening(*often, ("b/vib", 4.0, 60.0), ("b/temp", 33.0, 60.0)) < 39


def test_listening_does_not_wait_until_each_machine_has_had_an_optional_value() -> None:
    optional = config(TABLE.replace("path", "optional = true, path"))
    values = (("a/vib", 0.0, 1.0), ("b/vib", 0.5, 1.0), ("a/temp", 2.0, 10.0))
    assert 5 < seconds_of_listening(*values, settings=optional) < 7
    assert seconds_of_listening(*values[:2], settings=optional) > 59  # Its topic may be wrong.


def test_listening_ends_when_its_time_is_over(tmp_path: Path) -> None:
    port = free_port()
    with Mosquitto(tmp_path, port):
        settings: Config = config(f'[mqtt]\nhost = "127.0.0.1"\nport = {port}\n{TABLE}')
        checks = [*signals_checks(settings, listen_s=0.5)]
    assert [check.verdict for check in checks] == [Verdict.WARNING] * 2


def sparkplug_table(more: str = "") -> Heard:
    text = f'[signals.line]\nsource = "sparkplug"\n{more}\n[signals.line.values]\n'
    settings = config(f'{text}vib = {{ metric = "Vibration" }}\ntemp = {{ metric = "Temp" }}\n').signals["line"]
    return Heard(settings, new_table("line", settings))


def birth(heard: Heard, *metrics: dict[str, Any], kind: str = "DBIRTH") -> None:
    payload = Payload(metrics=metrics).SerializeToString()
    heard.receive(Message(topic=f"spBv1.0/g/{kind}/n/d", payload=payload, qos=0, packet_id=0, received_at=0.0), 1.8e9)


@pytest.mark.parametrize(
    ("keys", "advice"),
    [
        ("", "set `rebirth` or `certificates`"),
        ("certificates = true", "births again, or set `rebirth`"),
        ("rebirth = true", "unlike doctor, the agent will ask"),
    ],
)
def test_the_advice_on_a_missing_birth_does_not_name_what_is_set(keys: str, advice: str) -> None:
    heard = sparkplug_table(keys)
    birth(heard, {"alias": 1, "float_value": 70}, kind="DDATA")
    checks = [*table_checks("line", heard, 60.0)]
    assert found(checks)[0] == "signals.line.values.vib: no birth came in 60 s"
    assert advice in (checks[0].advice or "")


def test_a_metric_with_a_text_that_the_map_lacks_is_shown() -> None:
    heard = sparkplug_table()
    birth(heard, {"name": "Temp", "string_value": "RUN"}, {"name": "Vibration", "string_value": "2,5"})
    assert found([*table_checks("line", heard, 60.0)]) == [
        'signals.line.values.vib: "Vibration" has a decimal comma (got 2,5)',
        'signals.line.values.temp: "Temp" is not a number, and `map` has none for it (got RUN)',
    ]


def test_nodes_of_other_groups_are_named_if_a_table_hears_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    port = free_port()
    with Mosquitto(tmp_path, port):
        mqtt = f'[mqtt]\nhost = "127.0.0.1"\nport = {port}\n'
        table = '[signals.line]\nsource = "sparkplug"\ngroup = "plant"\n[signals.line.values]\nv = { metric = "V" }\n'
        settings = config(mqtt + table)
        sender = Client("sender", settings.mqtt, ())
        with sender:
            assert sender.connect(5.0)
            is_done = threading.Event()

            def send() -> None:
                while not is_done.wait(0.1):
                    sender.link.publish(Publication(topic="spBv1.0/Plant/NDATA/line1", payload=b"", qos=0))

            thread = threading.Thread(target=send)
            thread.start()
            checks = [*signals_checks(settings, listen_s=0.5)]
            is_done.set()
            thread.join()
    assert [(check.found.split(" came")[0], check.found.split(", but ")[1]) for check in checks] == [
        ("signals.line: no Sparkplug message of plant/+", "of Plant/line1"),
    ]
    assert capsys.readouterr().err == "listening to the topics of [signals] for up to 0.5 s …\n"


def test_a_time_that_cannot_be_read_is_shown() -> None:
    table = TABLE.replace('path = ["value"]', 'path = ["value"], time = ["at"]')
    settings = config(table).signals["pump"]
    heard = Heard(settings, new_table("pump", settings))
    payload = b'{"value":1,"at":"2026-11-30T19:00:00"}'
    heard.receive(Message(topic="plant/a/temp", payload=payload, qos=0, packet_id=0, received_at=0.0), 1.8e9)
    check = [*table_checks("pump", heard, 60.0)][1]
    assert "has no time at `time` that can be read (got " in check.found
    assert "with an offset" in (check.advice or "")


def test_a_metric_that_no_birth_has_is_named_with_the_nearest() -> None:
    heard = sparkplug_table()
    birth(heard, {"name": "Motor/Temp", "float_value": 70}, {"name": "Vibration", "float_value": 2.5})
    assert not heard.is_complete
    assert found([*table_checks("line", heard, 60.0)]) == [
        'signals.line.values.temp: no birth has the metric "Temp", but one has "Motor/Temp"',
    ]
