"""What real rows do to models that learn from them; each command is a module of this package, and checks a promise.

breaks: each field broken in turn: whether it is named, and how many ordinary rows are.
codes: rows with error codes among them. Needs the extra `train`.
runs: whether stated intervals hold the share of right answers to rows of other runs. Needs the extra `train`.
bundle: minutes from rows to a bundle, and whether the same rows and seed give the same bytes. Needs the extra `train`.
unlike: how many strange readings a trained model notices.
unusual: the kind `unusual` beside other detectors, its false alarms, and the fields that it names.
estimate: the kind `estimate` beside gradient boosting, and how often its intervals hold later numbers. Needs the extra
`train`.
judge: how many kept audits judge a new model before its first answer. Needs the extra `train`.
"""

import sys

from rigs.machine import run_command

COMMANDS = ("breaks", "codes", "runs", "bundle", "unlike", "unusual", "estimate", "judge")

if __name__ == "__main__":
    sys.exit(run_command("rigs.rows", __doc__, COMMANDS))
