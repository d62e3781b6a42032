"""Third-party clients against the agent: mosquitto's programs, Prometheus, MQTT.js, Node-RED.

The last two are installed below build/.
"""

import argparse
import subprocess

from rigs.machine import ROOT, require, run_tests

NODE = ROOT / "build" / "node"
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
    command = ["npm", "install", "--silent", "--no-fund", "--no-audit", "--prefix", str(NODE), "mqtt@5", "node-red@4"]
    subprocess.run(command, check=True)
    files = ("tests/docs/test_quickstart.py", "tests/system/clients_of_others.py")
    return run_tests(*files, environment={"EDGE_AGENT_NODE": str(NODE)})


if __name__ == "__main__":
    raise SystemExit(main())
