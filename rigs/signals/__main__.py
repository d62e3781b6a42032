"""Signals over a real mosquitto; each command is a module of this package, and checks a promise.

live: a plant where everything goes wrong, with restarts of the broker and the agent: a replay of the recorded messages
gives the bytes that the agent asked with, and features equal those computed from all samples.
load: the CPU time and memory of 500 messages a second for 4,096 values, and their effect on other callers.
right: models of windows of real data, compared with gradient boosting. Needs the extra `train`.
coverage: false alarms of the kind `unusual` after a start of the agent, by how much of the window is known.
"""

import sys

from rigs.machine import run_command

COMMANDS = ("live", "load", "right", "coverage")

if __name__ == "__main__":
    sys.exit(run_command("rigs.signals", __doc__, COMMANDS))
