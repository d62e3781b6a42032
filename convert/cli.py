"""`edge-convert`: which sub-command is meant, and what its failures exit with (1 failed, 65 bad checkpoint)."""

import sys
from collections.abc import Sequence
from importlib import import_module

from .commands.terminal import EXIT_BAD_CHECKPOINT, EXIT_FAILED, complain, end_output, prepare_output
from .errors import CheckpointError, ConvertError, printable
from .stopping import Interrupted, stopping_signals

# How each is called, for --help.
_SUB_COMMANDS = {
    "verify": "BUNDLE` checks the hashes of a bundle and its signature",
    "evaluate": "BUNDLE --against REFERENCE` measures how far its predictions are from those of the unquantized model",
    "merge-imatrix": "FILE … --out FILE` adds importance matrices up",
    "boards": "[BUNDLE …]` predicts which board a model fits, how fast it is there and what an answer costs",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code; argparse exits by itself with 2, or 0 for --help and --version."""
    prepare_output()
    try:
        code = _run(list(sys.argv[1:] if arguments is None else arguments))
    except SystemExit as stop:
        if end_output():
            raise
        raise SystemExit(EXIT_FAILED) from stop
    return code if end_output() else EXIT_FAILED


def _run(words: list[str]) -> int:
    try:
        with stopping_signals():
            # To load a command takes a while, in which a signal may come.
            if words and words[0] in _SUB_COMMANDS:
                command = import_module(f".commands.{words[0].replace('-', '_')}", __package__)
                code: int = command.run(words[1:])
                return code
            from .commands import convert  # noqa: PLC0415

            return convert.run(words, _SUB_COMMANDS)
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
