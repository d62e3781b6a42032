"""`edge-convert`, unless a package that it needs is missing."""

import sys

from .agent import missing_extra


def main() -> int:
    if missing := missing_extra("convert"):
        print(f"edge-convert: {missing}", file=sys.stderr)
        return 1
    from .cli import main as convert  # noqa: PLC0415 - imports these packages

    return convert()


if __name__ == "__main__":
    sys.exit(main())
