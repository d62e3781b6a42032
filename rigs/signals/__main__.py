"""Signals over a real mosquitto; each command is a module of this package, and checks a promise.

live: a plant with everything that goes wrong, a broker restart and an agent restart: a replay of what the agent got
makes the bytes that it asked with, and features equal those of all held samples.
load: 500 messages a second for 4,096 values: CPU and memory of the agent, and what other callers notice.
right: models of windows of real data beside gradient boosting. Needs the extra `train`.
"""

import importlib
import sys

from rigs.machine import parser_of

COMMANDS = ("live", "load", "right")


def main() -> int:
    parser = parser_of("rigs.signals", __doc__)
    parser.add_argument("command", choices=COMMANDS)
    given, words = parser.parse_known_args(sys.argv[1:2])
    module = importlib.import_module(f"rigs.signals.{given.command}")
    return int(module.main([*words, *sys.argv[2:]]))


if __name__ == "__main__":
    sys.exit(main())
