"""Signals over a real mosquitto; each command is a module of this package, and checks a promise.

live: a plant where everything goes wrong, with restarts of the broker and the agent: a replay of the recorded messages
gives the bytes that the agent asked with, and features equal those computed from all samples.
load: the CPU time and memory of 500 messages a second for 4,096 values, and their effect on other callers.
right: models of windows of real data, compared with gradient boosting. Needs the extra `train`.
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
