"""0.1.0 and this version by turns on the same state, configuration and bundles, as processes on this machine."""

from __future__ import annotations

import argparse
import subprocess
import sys

from rigs.machine import ROOT, require, run_tests

# Release 0.1.0.
OLD = "6f95c07"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m rigs.upgrade", description=__doc__)
    parser.add_argument("--old", default=OLD, metavar="COMMIT", help="of the older version (default: %(default)s)")
    parser.add_argument("-k", dest="only", help="the tests to run, as pytest's -k")
    given = parser.parse_args()
    require({"mosquitto": "mosquitto", "git": "git"})
    tree = ROOT / "build" / "upgrade" / given.old
    tree.mkdir(parents=True, exist_ok=True)
    archive = subprocess.run(["git", "archive", given.old], cwd=ROOT, capture_output=True, check=False)
    if archive.returncode:
        raise SystemExit(f"this rig needs the commit {given.old} in the history: {archive.stderr.decode().strip()}")
    subprocess.run(["tar", "--extract", "--directory", str(tree)], input=archive.stdout, check=True)
    parts = [f"rigs/upgrade/{name}.py" for name in ("configurations", "bundles", "state")]
    only = ["-k", given.only] if given.only else []
    # paho leaves a pair of sockets to Python's garbage collector, which may warn of them.
    quiet = ("-W", "ignore::pytest.PytestUnraisableExceptionWarning")
    return run_tests("-v", *quiet, *parts, *only, environment={"EDGE_AGENT_OLD": str(tree)})


if __name__ == "__main__":
    sys.exit(main())
