"""What the demonstration's pumps publish: whole readings, a topic for each value, or Sparkplug B."""

import json
import time

from edge_agent.core.messages import Publication
from edge_agent.signals.sparkplug import BD_SEQ, REBIRTH, field_of

VALUES = ("vibration_mm_s", "temperature_c", "current_a", "pressure_bar", "speed_rpm")
# A counter of readings. It is published last, so that its change means that the values of a reading are complete.
_CYCLE = "cycle"
_METRICS = ("Vibration", "Motor/Temperature", "Motor/Current", "Pressure", "Speed", "Cycle")
_METRIC_OF = dict(zip((*VALUES, _CYCLE), _METRICS, strict=True))
# The tables of `[signals]`.
TOPICS, SPARKPLUG = "pump", "line"
_GROUP, _NODE = "Plant", "line-1"
# Where the board asks for births that it has missed.
REBIRTH_TOPIC = f"spBv1.0/{_GROUP}/NCMD/{_NODE}"
# Data types of Sparkplug.
_INT64, _DOUBLE, _BOOLEAN = 4, 10, 11


class Pump:
    """Publishes whole readings."""

    publishes = "reading"
    topics = "plant/<pump>/reading"

    def __init__(self, name: str) -> None:
        self.name = name

    def start(self, reading: str) -> list[Publication]:  # noqa: ARG002 - other pumps need it
        """What it publishes when it is switched on, which makes no reading yet."""
        return []

    def births(self, reading: str, cycle: int) -> list[Publication]:  # noqa: ARG002 - other pumps need it
        """What it publishes again whenever it has connected or is asked to."""
        return []

    def publications(self, reading: str, cycle: int) -> list[Publication]:  # noqa: ARG002 - other pumps need it
        """What it publishes for a reading, which the last publication completes.

        `cycle` is the number of the reading, from 1.
        """
        return [Publication(topic=f"plant/{self.name}/reading", payload=reading.encode())]


class TopicPump(Pump):
    """Publishes each value on a topic of its own."""

    publishes = "topics"
    topics = f"plant/<pump>/{VALUES[0]} and four more, then plant/<pump>/{_CYCLE}, which makes a reading"

    def start(self, reading: str) -> list[Publication]:
        return self.publications(reading, 0)

    def publications(self, reading: str, cycle: int) -> list[Publication]:
        values = _values(reading, cycle)
        return [
            Publication(topic=f"plant/{self.name}/{name}", payload=str(value).encode())
            for name, value in values.items()
        ]


class SparkplugPump(Pump):
    """A device of a Sparkplug node: it publishes births with names and types, then data by alias."""

    publishes = "Sparkplug"
    topics = f"spBv1.0/{_GROUP}/DDATA/{_NODE}/<pump>"
    _seq = 0

    def start(self, reading: str) -> list[Publication]:
        return self.births(reading, 0)

    def births(self, reading: str, cycle: int) -> list[Publication]:
        self._seq = 1
        node = [
            field_of(1, BD_SEQ.encode()) + field_of(4, _INT64) + field_of(11, 0),
            field_of(1, REBIRTH.encode()) + field_of(4, _BOOLEAN) + field_of(14, 0),
        ]
        device = [
            field_of(1, _METRIC_OF[name].encode())
            + field_of(2, alias)
            + field_of(4, _DOUBLE)
            + field_of(13, float(value))
            for alias, (name, value) in enumerate(_values(reading, cycle).items())
        ]
        return [
            _sparkplug(f"spBv1.0/{_GROUP}/NBIRTH/{_NODE}", node, 0),
            _sparkplug(f"spBv1.0/{_GROUP}/DBIRTH/{_NODE}/{self.name}", device, 1),
        ]

    def publications(self, reading: str, cycle: int) -> list[Publication]:
        values = _values(reading, cycle).values()
        metrics = [field_of(2, alias) + field_of(13, float(value)) for alias, value in enumerate(values)]
        self._seq = (self._seq + 1) % 256
        return [_sparkplug(f"spBv1.0/{_GROUP}/DDATA/{_NODE}/{self.name}", metrics, self._seq)]


def signals_tables() -> list[str]:
    """The lines of the configuration's tables that join what the pumps publish."""
    topics = {name: f'topic = "plant/+/{name}", max_age_s = 0' for name in _METRIC_OF}
    metrics = {name: f'metric = "{metric}"' for name, metric in _METRIC_OF.items()}
    source = f'source = "sparkplug"\ngroup = "{_GROUP}"\nmachine = "{{device}}"\nrebirth = true'
    lines = []
    for table, head, values in ((TOPICS, 'machine = "{1}"', topics), (SPARKPLUG, source, metrics)):
        lines += [f"[signals.{table}]", head, 'features = ["last"]\nevery_s = 0\nmin_gap_s = 0']
        lines += [f"[signals.{table}.values]", *(f"{name} = {{ {keys} }}" for name, keys in values.items())]
        lines += [f"[signals.{table}.trigger]", f'on_change = ["{_CYCLE}"]']
    return lines


def template() -> str:
    """A template that turns a joined reading into one like those that the model was trained on."""
    values = ",".join(f'"{name}":{{{{ input.{name}.last }}}}' for name in VALUES)
    return f'{{"machine":"{{{{ topic }}}}",{values}}}'


def _values(reading: str, cycle: int) -> dict[str, float]:
    values = json.loads(reading)
    return {**{name: values[name] for name in VALUES}, _CYCLE: cycle}


def _sparkplug(topic: str, metrics: list[bytes], seq: int) -> Publication:
    milliseconds = int(time.time() * 1000)
    payload = field_of(1, milliseconds) + b"".join(field_of(2, metric) for metric in metrics) + field_of(3, seq)
    return Publication(topic=topic, payload=payload, qos=0)
