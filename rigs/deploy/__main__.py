"""The playbooks and the unit on boards that boot: makes what they install, then runs the part that is named.

provisioning  boards in containers, from nothing to an answer and back (15 minutes).
upgrade       the same boards from 0.1.0, which its own playbooks bring, to this version and back (8 minutes).
unit          the unit on booted systems with systemd 249, 252 and 257.
container     the unit for Podman on a booted Debian 13 (3 minutes).
"""

import argparse
import subprocess
import sys

from rigs.deploy import roots
from rigs.machine import ROOT, require, run_tests

NEEDED = roots.NEEDED | {"mosquitto": "mosquitto", "mosquitto_rr": "mosquitto-clients", "ssh": "openssh-client"}


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m rigs.deploy", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "part", choices=("provisioning", "upgrade", "unit", "container"), nargs="?", default="provisioning"
    )
    parser.add_argument("--release", choices=roots.RELEASES, default="trixie", help="of the boards that are played")
    parser.add_argument("-k", dest="only", help="the tests to run, as pytest's -k; each needs those before it")
    given = parser.parse_args()
    require(NEEDED, root=True)
    if given.part == "container":
        subprocess.run(["make", "wheelhouse", "image", "ARCH=x86_64"], cwd=ROOT, check=True)
    elif not (ROOT / "dist" / "wheelhouse" / "x86_64" / "requirements.txt").is_file():
        subprocess.run(["make", "wheelhouse", "ARCH=x86_64"], cwd=ROOT, check=True)
    if given.part in ("provisioning", "upgrade"):
        subprocess.run(["make", "build/ansible/ready"], cwd=ROOT, check=True)
    only = ["-k", given.only] if given.only else []
    return run_tests(f"rigs/deploy/{given.part}.py", "-s", "--exitfirst", *only, environment={"RELEASE": given.release})


if __name__ == "__main__":
    sys.exit(main())
