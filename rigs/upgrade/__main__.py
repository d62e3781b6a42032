"""0.1.0 and this version take turns on one state, configuration and bundles, as processes on this machine."""

import argparse
import sys

from rigs.machine import RELEASE_0_1_0, require, run_tests, unpack_source


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m rigs.upgrade", description=__doc__)
    parser.add_argument("--old", default=RELEASE_0_1_0, metavar="COMMIT", help="default: %(default)s, release 0.1.0")
    parser.add_argument("-k", dest="only", help="the tests to run, as pytest's -k")
    given = parser.parse_args()
    require({"mosquitto": "mosquitto", "git": "git"})
    tree = unpack_source(given.old)
    parts = [f"rigs/upgrade/{name}.py" for name in ("configurations", "bundles", "state")]
    only = ["-k", given.only] if given.only else []
    # paho leaves a pair of sockets to Python's garbage collector, which may warn of them.
    quiet = ("-W", "ignore::pytest.PytestUnraisableExceptionWarning")
    return run_tests("-v", *quiet, *parts, *only, environment={"EDGE_AGENT_OLD": str(tree)})


if __name__ == "__main__":
    sys.exit(main())
