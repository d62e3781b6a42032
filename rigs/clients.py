"""Clients of others against the agent: mosquitto's programs, Prometheus and MQTT.js, which npm puts below build/."""

from __future__ import annotations

import argparse
import subprocess

from rigs.machine import ROOT, require, run_tests

MQTT_JS = ROOT / "build" / "mqtt_js"
NEEDED = {
    "mosquitto": "mosquitto",
    "mosquitto_rr": "mosquitto-clients",
    "node": "nodejs",
    "npm": "npm",
    "prometheus": "prometheus",
    "prometheus-mqtt-exporter": "prometheus-mqtt-exporter",
}


def main() -> int:
    argparse.ArgumentParser(prog="python -m rigs.clients", description=__doc__).parse_args()
    require(NEEDED)
    command = ["npm", "install", "--silent", "--no-fund", "--no-audit", "--prefix", str(MQTT_JS), "mqtt@5"]
    subprocess.run(command, check=True)
    files = ("tests/system/test_third_party_clients.py", "tests/system/clients_of_others.py")
    return run_tests(*files, environment={"EDGE_AGENT_MQTT_JS": str(MQTT_JS)})


if __name__ == "__main__":
    raise SystemExit(main())
