"""A short storm; `python -m rigs.chaos` is the long one."""

import json
import subprocess
import sys

import pytest

pytestmark = pytest.mark.usefixtures("require_mosquitto")


def test_after_a_few_faults_every_request_is_answered_and_none_twice(protocol: str) -> None:
    options = ("--requests", "120", "--faults", "5", "--longest-pause", "2", "--protocol", protocol, "--json")
    command = [sys.executable, "-m", "rigs.chaos", *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=240)
    verdict = json.loads(done.stdout)
    assert verdict["good"], verdict
    assert done.returncode == 0
    assert (verdict["answered"], verdict["lost"], verdict["inferred_again"]) == (120, 0, 0)
