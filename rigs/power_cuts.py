"""Model switches that are killed at a random point; afterwards one whole, verified model must run."""

import argparse

from rigs.machine import require, run_tests


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m rigs.power_cuts", description=__doc__)
    parser.add_argument("--cuts", type=int, default=200, help="default: %(default)s, about ten minutes")
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    require({"mosquitto": "mosquitto"})
    environment = {"EDGE_AGENT_POWER_CUTS": str(given.cuts), "EDGE_AGENT_SEED": str(given.seed)}
    return run_tests("-s", "tests/rigs/test_power_cuts.py", environment=environment)


if __name__ == "__main__":
    raise SystemExit(main())
