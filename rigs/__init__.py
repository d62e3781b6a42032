"""Long or privileged checks, each started by `python -m rigs.NAME`; CONTRIBUTING.md lists them."""
