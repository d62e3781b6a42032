"""Trains the demonstration model from nothing."""

import sys
from pathlib import Path

from edge_agent.core.extras import missing_extra
from edge_agent.tools.demo.readings import checkpoint_folder
from rigs.machine import parser_of


def main() -> None:
    parser = parser_of("rigs.training", __doc__)
    parser.add_argument("--out", type=Path, default=checkpoint_folder(), help="folder (default: the repository's own)")
    parser.add_argument("--steps", type=int, default=4500, help="of 64 examples each (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=2, help="default: %(default)s")
    arguments = parser.parse_args()
    if missing := missing_extra("train"):
        sys.exit(missing)
    from rigs.training.train import write_checkpoint  # noqa: PLC0415 - needs PyTorch

    write_checkpoint(arguments.out, arguments.steps, arguments.threads)


if __name__ == "__main__":
    main()
