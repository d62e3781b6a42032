"""200 requests at once against a queue of 16, on a model of your own."""

from __future__ import annotations

import argparse
from pathlib import Path

from rigs.machine import model_path, run_tests


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m rigs.real_model", description=__doc__)
    parser.add_argument("model", type=model_path, help="a bundle or a .gguf")
    model: Path = parser.parse_args().model
    environment = {"EDGE_AGENT_MODEL": str(model.absolute())}
    return run_tests("tests/contract/test_requests.py", "-k", "at_once", environment=environment)


if __name__ == "__main__":
    raise SystemExit(main())
