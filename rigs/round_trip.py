"""How long a caller waits from publish to reply, compared with the agent's own time: by broker, client and QoS.

Brokers: mosquitto with its default, and with `set_tcp_nodelay true`. Clients: plain paho, and with TCP_NODELAY. Each
combination has a client that asks one request after the other. The clients take turns in each round. Each value is the
median of a round. Exit code 1 if broker and network add more than MAX_ADDED_MS where both set the option.
"""

import itertools
import os
import statistics
import sys
import tempfile
from contextlib import ExitStack, closing
from pathlib import Path

from edge_agent.core.pipe import ECHO_MODEL
from rigs.bench.figures import Figures
from rigs.load.asking import Load
from rigs.machine import model_path, parser_of, require
from tests.helpers.processes import Mosquitto, free_port
from tests.helpers.site import running_site

BROKERS = {"default": "", "nodelay": "set_tcp_nodelay true\n"}
MAX_ADDED_MS = 15.0
_ANSWER_S = 60.0
_READING = {"vibration_mm_s": 7.9, "temperature_c": 81.5}


def main() -> int:
    parser = parser_of("rigs.round_trip", __doc__)
    parser.add_argument("model", nargs="?", metavar="MODEL", help="a bundle or a .gguf (default: echo:, without one)")
    parser.add_argument("--rounds", type=int, default=5, help="default: %(default)s")
    parser.add_argument("--requests", type=int, default=20, help="of each client in each round (default: %(default)s)")
    options = parser.parse_args()
    require({"mosquitto": "mosquitto"})
    model = ECHO_MODEL if options.model is None else str(model_path(options.model).absolute())
    figures = Figures()
    with ExitStack() as stack:
        loads = {}
        for broker, settings in BROKERS.items():
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            port = stack.enter_context(Mosquitto(folder, free_port(), settings)).port
            site = stack.enter_context(running_site(folder, port, "5", model=model))
            for qos, has_nodelay in itertools.product((1, 0), (False, True)):
                load = Load(port, "3.1.1", name=f"{qos}-{has_nodelay}", qos=qos, has_nodelay=has_nodelay)
                stack.enter_context(closing(load))
                loads[broker, qos, has_nodelay] = load, site.request("triage")
        for _ in range(options.rounds):
            for (broker, qos, has_nodelay), (load, topic) in loads.items():
                times = []
                for _ in range(options.requests):
                    answer = load.ask(topic, _READING).result(_ANSWER_S)
                    assert answer.status == "ok", answer.reply
                    times.append((answer.waited_ms, answer.agent_ms))
                waited, own = (statistics.median(column) for column in zip(*times, strict=True))
                name = f"QoS {qos}, mosquitto {broker:7}, client {'nodelay' if has_nodelay else 'plain':7}"
                figures.note(name, waited, "ms")
                figures.note("the agent's own time, in all of these", own, "ms")
                if qos == 1 and broker == "nodelay" and has_nodelay:
                    figures.note("added by broker and network at best", waited - own, "ms", at_most=MAX_ADDED_MS)
    print(figures.table())
    print(f"load of this machine: {' '.join(f'{load:.1f}' for load in os.getloadavg())}")
    return 0 if figures.are_met else 1


if __name__ == "__main__":
    sys.exit(main())
