"""How often a healthy machine is taken for unusual after a start, by the share of the window that is known.

The machine is a simulated oven with a two-point controller; a window has one to two of its cycles. The kind `unusual`
learns from whole windows, which nearly all recorded ones are. Exit code 1 if it raises more than twice as many false
alarms as asked for where as much of the window is known as `edge-agent init` requires for this kind.
"""

import random
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

from convert.learning.usual import learn_usual
from edge_agent.core.signal_tables import WHOLE_COVERAGE, SignalsTable
from edge_agent.engine.usual import RarityModel
from edge_agent.signals.signal_table import SignalTable, new_table
from rigs.bench.figures import processor, verdict
from rigs.machine import parser_of

START = 1.8e9
WINDOW_S, EVERY_S = 60.0, 3.0
KEYS: dict[str, Any] = {"window_s": WINDOW_S, "every_s": EVERY_S, "min_coverage": 0.5}
VALUES = {name: {"topic": f"+/{name}"} for name in ("temperature_c", "power_kw", "fan_rpm")}
RARITY = 1 / 200
STEP = 0.05

Sample = dict[str, float]


def oven(seconds: int, seed: int) -> list[Sample]:
    """A sample each second."""
    draw = random.Random(seed)
    temperature, is_heating, samples = 229.0, True, list[Sample]()
    for _ in range(seconds):
        is_heating = temperature < 230.5 if is_heating else temperature < 228.0
        temperature += (0.14 if is_heating else -0.09) * draw.uniform(0.8, 1.2)
        power = (15.0 if is_heating else 11.0) + draw.gauss(0, 0.15)
        samples.append(
            {
                "temperature_c": round(temperature + draw.gauss(0, 0.05), 2),
                "power_kw": round(power, 2),
                "fan_rpm": round(draw.gauss(1450, 4)),
            }
        )
    return samples


def readings(table: SignalTable, samples: Sequence[Sample], start: float) -> Iterator[tuple[float, dict[str, Any]]]:
    """The time since the start of each reading, and its fields."""
    for second, sample in enumerate(samples):
        for name, value in sample.items():
            payload = str(value).encode()
            for reading in table.receive(f"oven/{name}", payload, is_retained=False, now=start + second):
                if not reading.lacking:
                    fields = reading.input.items()
                    yield reading.at - start, {f"{name}.{key}": v for name, of in fields for key, v in of.items()}


def main(words: Sequence[str]) -> int:
    parser = parser_of("rigs.signals coverage", __doc__)
    parser.add_argument("--starts", type=int, default=300, help="of the agent (default: 300)")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(words)
    config = SignalsTable.model_validate({**KEYS, "values": VALUES})
    whole = new_table("t", config.model_copy(update={"min_coverage": 1.0}))
    usual = [fields for _, fields in readings(whole, oven(4 * 3600, given.seed), START)]
    model = RarityModel(learn_usual(usual, [5 * row // len(usual) for row in range(len(usual))], given.seed))
    alarms = defaultdict[int, list[bool]](list)
    for start in range(given.starts):
        samples = oven(round(1.5 * WINDOW_S), given.seed + 1 + start)
        for since, fields in readings(new_table("t", config), samples, START):
            share = min(since / WINDOW_S, 1.0) + 1e-6
            alarms[int(share / STEP)].append(model.compare(fields).rarity <= RARITY)
    print(processor())
    print(f"learnt from {len(usual)} readings of whole windows; asked for 1 false alarm in {1 / RARITY:g}")
    is_met = True
    for step, found in sorted(alarms.items()):
        unusual = sum(found) / len(found)
        text = f"known for {step * STEP:.0%} of the window: {unusual:.2%} of {len(found)} readings unusual"
        if step >= round(WHOLE_COVERAGE / STEP):
            is_met = is_met and unusual <= 2 * RARITY
            text += f": {verdict(unusual <= 2 * RARITY)}"
        print(text)
    return 0 if is_met else 1
