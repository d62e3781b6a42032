"""docs/signals.md: its payloads have the values that it says, and its input is that of its first table."""

import json
import re
import tomllib

from edge_agent.core.signal_tables import SignalsTable, ValueTable
from edge_agent.signals import values
from edge_agent.signals.machine import Reading
from edge_agent.signals.signal_table import new_table
from tests.docs.pages import sample, samples, section, table


def ways_to_read(payloads: str, keys: str) -> list[tuple[str, str]]:
    """The payloads of a row, each with its keys as TOML. A row without keys reads them all alike."""
    shown = re.findall(r"`([^`]+)`", re.sub(r"\([^)]*\)", "", payloads))
    written = "\n".join(re.findall(r"`(\w+ = [^`]+)`", keys))
    each = re.split(r"\n(?=path)", written)
    return list(zip(shown, each if len(each) == len(shown) else [written] * len(shown), strict=True))


def test_the_payloads_of_each_source_are_read_with_the_keys_beside_them() -> None:
    found = []
    for payloads, keys in table("signals", "Where a payload has its value"):
        for payload, text in ways_to_read(payloads, keys):
            value = ValueTable.model_validate({"topic": "t", **tomllib.loads(text)})
            found.append(values.read(value, values.parse(payload.encode()), 0.0, 60.0))
    assert found == [7.9, 7.9, 1.0, 7.31, 1.0, 81.5, 3.2, 27.3, 21.0, 21.0, 21.0, 91.5]


def test_the_input_that_is_shown_has_the_fields_of_the_first_table() -> None:
    config = tomllib.loads(samples("signals", "toml")[0])["signals"]["pump"]
    shown = json.loads(sample("signals", "json", "slope_10m"))
    fields = [f"{name}.{field}" for name, figures in shown.items() for field in figures]
    assert fields == SignalsTable.model_validate(config).field_names()


def test_the_features_that_are_shown_have_the_fields_beside_them() -> None:
    text = " ".join(section("signals", "Values over time").split())
    ((features, shown),) = re.findall(r"`features = (\[[^`]+\])` gives `(\{[^`]+\})`", text)
    values = {"vib": {"topic": "plant/+/vib", "features": json.loads(features)}}
    assert SignalsTable.model_validate({"values": values}).fields_of("vib") == [*json.loads(shown)]


def test_the_number_of_a_cycle_makes_the_reading_except_for_the_first_one() -> None:
    config = tomllib.loads(sample("signals", "toml", "cycle"))["signals"]["pump"]
    config["values"]["vib"] = {"topic": "plant/+/vib", "features": ["last"]}
    table = new_table("pump", SignalsTable.model_validate(config))
    made = list[Reading]()
    for cycle in range(3):
        for topic in ("vib", "cycle"):
            at = 1.8e9 + 10 * cycle
            made += table.receive(f"plant/pump-7/{topic}", str(cycle).encode(), is_retained=False, now=at)
    assert [reading.input["vib"]["last"] for reading in made] == [1.0, 2.0]
