"""The playbooks and the unit on boards that boot: makes what they install, then runs the part that is named.

provisioning  boards in containers, from nothing to an answer and back (20 minutes).
unit          the unit on booted systems with systemd 249, 252 and 257.
arm64         one emulated board with its own kernel (an hour).
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass

from rigs.deploy import emulator, roots
from rigs.machine import ROOT, require, run_make, run_tests


@dataclass(frozen=True)
class Part:
    architecture: str
    packages: dict[str, str]
    has_playbooks: bool


_CONTAINERS = roots.NEEDED | {"mosquitto": "mosquitto", "mosquitto_rr": "mosquitto-clients", "ssh": "openssh-client"}
PARTS = {
    "provisioning": Part("x86_64", _CONTAINERS, has_playbooks=True),
    "unit": Part("x86_64", _CONTAINERS, has_playbooks=False),
    "arm64": Part("aarch64", _CONTAINERS | emulator.NEEDED, has_playbooks=True),
}


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m rigs.deploy", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("part", choices=PARTS, nargs="?", default="provisioning")
    parser.add_argument("--release", choices=roots.RELEASES, default="trixie", help="of the boards (provisioning)")
    parser.add_argument("-k", dest="only", help="the tests to run, as pytest's -k; they go on from each other")
    given = parser.parse_args()
    part = PARTS[given.part]
    require(part.packages, root=True)
    if not (ROOT / "dist" / "wheelhouse" / part.architecture / "requirements.txt").is_file():
        run_make("wheelhouse", f"ARCH={part.architecture}")
    if part.has_playbooks:
        run_make("build/ansible/ready")
    only = ["-k", given.only] if given.only else []
    return run_tests(f"rigs/deploy/{given.part}.py", "-s", "--exitfirst", *only, environment={"RELEASE": given.release})


if __name__ == "__main__":
    sys.exit(main())
