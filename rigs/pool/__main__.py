"""`python -m rigs.pool`: what a pool of boards on RabbitMQ survives.

storm: boards and nodes die, networks are cut; counts requests that are lost, doubled or wrong.
demo: shows one kill of each while answers flow.
examples: the files of examples/rabbitmq and examples/mosquitto, with a board and a sensor.

Exit code 1 if a promise is broken.
"""

import random
import sys
import time
from contextlib import closing
from pathlib import Path

from rigs.bench.figures import processor
from rigs.chaos.__main__ import report, strike_all
from rigs.chaos.asker import Asker
from rigs.load.ledger import Ledger
from rigs.machine import kept_or_temporary, parser_of, require
from rigs.pool.demo import demo
from rigs.pool.examples import examples
from rigs.pool.plant import BASE, Plant
from rigs.pool.storm import STEPS_MS, PoolStorm

_FAULTS = {"board killed": 10, "node killed": 5, "network cut": 5}


def main() -> int:
    parser = parser_of("rigs.pool", __doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    command = commands.add_parser("storm")
    command.add_argument("--requests", type=int, default=10_000, help="default: %(default)s")
    command.add_argument("--seed", type=int, default=0)
    command.add_argument("--folder", type=Path, help="an empty folder that keeps logs (default: a temporary one)")
    for name in ("demo", "examples"):
        commands.add_parser(name).set_defaults(folder=None)
    given = parser.parse_args()
    require({"rabbitmqctl": "rabbitmq-server", "epmd": "rabbitmq-server"})
    with kept_or_temporary(given.folder) as folder:
        if given.command == "demo":
            return demo(folder)
        if given.command == "examples":
            require({"mosquitto": "mosquitto", "mosquitto_rr": "mosquitto-clients"})
            return examples(folder)
        return storm(folder, given.requests, given.seed)


def storm(folder: Path, requests: int, seed: int) -> int:
    began = time.monotonic()
    faults = [fault for fault, times in _FAULTS.items() for _ in range(times)]
    random.Random(seed).shuffle(faults)
    with Plant(folder, STEPS_MS) as plant:
        ledger = Ledger(allows_reruns=True)
        with closing(Asker(plant.port, "5", BASE, requests=requests, seed=seed, ledger=ledger)) as asker:
            struck = strike_all(PoolStorm(plant, seed), asker, faults, requests)
            time.sleep(5.0)  # for replies that come twice
        code = max(board.stop() for board in plant.boards)
    print(f"{processor()}, {time.monotonic() - began:.0f} s, seed {seed}")
    is_good = ledger.is_good and code == 0 and struck == len(faults) and not ledger.unanswered
    return report(ledger, is_good=is_good)


if __name__ == "__main__":
    sys.exit(main())
