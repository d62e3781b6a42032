"""`edge-convert`: which sub-command is meant, and what its failures exit with (1 failed, 65 bad checkpoint)."""

import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

from .commands import convert, evaluate, merge_imatrix, verify
from .commands.terminal import EXIT_BAD_CHECKPOINT, EXIT_FAILED, complain
from .errors import CheckpointError, ConvertError, printable
from .write.bundle import STOPPING_SIGNALS

_COMMANDS = {"verify": verify.run, "evaluate": evaluate.run, "merge-imatrix": merge_imatrix.run}


class Interrupted(BaseException):
    """A signal asked us to stop; not an Exception, so that no handler of errors takes it for one."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code; argparse exits by itself with 2, or 0 for --help and --version."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    command = _COMMANDS.get(words[0]) if words else None
    try:
        with _stopping_signals():
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


@contextmanager
def _stopping_signals() -> Iterator[None]:
    """While it lasts, the signals that end a program raise Interrupted, so that `finally` clears up."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, _frame: FrameType | None) -> None:
        for stopping in STOPPING_SIGNALS:  # a second one must not interrupt the clearing up
            signal.signal(stopping, signal.SIG_IGN)
        raise Interrupted(signal.Signals(number).name)

    # What nohup or a shell's background job had us ignore stays ignored.
    heard = [number for number in STOPPING_SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, stop) for number in heard}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
