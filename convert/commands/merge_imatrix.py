"""`edge-convert merge-imatrix A B … --out C`: importance matrices of several texts as one of all."""

import os
from contextlib import suppress
from pathlib import Path

from ..errors import ConvertError, printable
from .arguments import Parser
from .terminal import EXIT_OK


def run(words: list[str]) -> int:
    """Merge; see `--help`."""
    parser = Parser(
        "merge-imatrix",
        description="Adds the sums and counts of importance matrices of one model, as if their texts had been one.",
    )
    parser.add_argument("files", metavar="IMATRIX", type=Path, nargs="+", help="GGUF files, ours or llama-imatrix's")
    parser.add_argument("--out", metavar="FILE", type=Path, required=True, help="file to write")
    parser.add_argument("--force", action="store_true", help="replace a file that exists")
    given = parser.parse_args(words)
    # It loads llama.cpp.
    from ..measure.importance import merge, read_importance  # noqa: PLC0415

    if given.out.exists() and not given.force:
        raise ConvertError(f"{printable(str(given.out))}: exists already; --force replaces it")
    several = {str(path): read_importance(path) for path in given.files}
    if len(several) < len(given.files):
        raise ConvertError("a file is named twice: its texts would count double")
    merged = merge(several)
    draft = given.out.with_name(f".{given.out.name}.partial-{os.getpid()}")
    try:
        merged.write(draft)
        draft.replace(given.out)
    except OSError as error:
        raise ConvertError(f"{printable(str(given.out))}: cannot be written: {error.strerror}") from None
    finally:
        with suppress(OSError):
            draft.unlink()
    tokens = int(max(merged.counts.values()))
    print(f"{printable(str(given.out))}: {len(merged.sums)} matrices, {tokens} tokens, from {len(several)} files")
    return EXIT_OK
