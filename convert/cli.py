"""`edge-convert`: which sub-command is meant, and what its failures exit with (1 failed, 65 bad checkpoint)."""

import sys
from collections.abc import Sequence

from .commands import convert, evaluate, merge_imatrix, verify
from .commands.terminal import EXIT_BAD_CHECKPOINT, EXIT_FAILED, complain
from .errors import CheckpointError, ConvertError, printable
from .stopping import Interrupted, stopping_signals

_COMMANDS = {"verify": verify.run, "evaluate": evaluate.run, "merge-imatrix": merge_imatrix.run}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code; argparse exits by itself with 2, or 0 for --help and --version."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    command = _COMMANDS.get(words[0]) if words else None
    try:
        with stopping_signals():
            return convert.run(words) if command is None else command(words[1:])
    except CheckpointError as error:
        complain(error)
        return EXIT_BAD_CHECKPOINT
    except ConvertError as error:
        complain(error)
    except OSError as error:
        complain(f"{printable(str(error.filename))}: {error.strerror}" if error.filename else error.strerror or error)
    except Interrupted as error:
        complain(f"stopped by {error}; nothing half written is left")
    return EXIT_FAILED
