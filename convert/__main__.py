"""`edge-convert`, unless a package that it needs is missing."""

import sys

# Not imported from .agent, which imports the packages that may be missing.
from edge_agent.core.extras import missing_extra


def main() -> int:
    if missing := missing_extra("convert"):
        checks = "`edge-agent doctor --bundle DIR` checks a bundle's files without them"
        hint = f"; {checks}" if sys.argv[1:2] == ["verify"] else ""
        print(f"edge-convert: {missing}{hint}", file=sys.stderr)
        return 1
    from .cli import main as convert  # noqa: PLC0415 - imports these packages

    return convert()


if __name__ == "__main__":
    sys.exit(main())
