"""The checkpoint as BF16, which everything is measured against: written once, kept, and checked before it is used."""

import hashlib
import json
import shutil
import threading
from functools import cached_property
from pathlib import Path

from .conversion import Options, make_plan, write_bundle
from .errors import ConvertError
from .kept import read_json, write_json
from .read.checkpoint import Checkpoint
from .weights.recipe import Quantization
from .write.bundle import verify_bundle
from .write.manifest import MODEL_FILE, tools

TYPE = Quantization.BF16.name
# Rises with what is measured, or how: figures that were kept before are not told beside others.
_MEASUREMENTS = 2
_TOOLS_FILE = "tools.json"


class KeptReference:
    """home: the folder of `work` for all that is kept of this checkpoint. Raises CheckpointError."""

    def __init__(self, checkpoint: Checkpoint, work: Path) -> None:
        self._checkpoint = checkpoint
        # First, for it reads all the files that are hashed.
        self._plan = make_plan(checkpoint, Options(Quantization.BF16))
        source = json.dumps(checkpoint.source_hashes(threading.Event()), sort_keys=True)
        self.home = work / hashlib.sha256(source.encode()).hexdigest()[:16]
        made_by, note = {"measurements": _MEASUREMENTS, "tools": tools()}, self.home / _TOOLS_FILE
        if read_json(note) != made_by:
            # What other versions made of this checkpoint would lie there for ever.
            shutil.rmtree(self.home, ignore_errors=True)
            write_json(note, made_by)

    @cached_property
    def model(self) -> Path:
        """The GGUF file; written if it is not there, or not as its manifest says. Raises ConvertError."""
        folder = self.home / "reference"
        if not _is_whole(folder):
            shutil.rmtree(folder, ignore_errors=True)
            write_bundle(self._checkpoint, self._plan, folder)
        return folder / MODEL_FILE


def _is_whole(folder: Path) -> bool:
    try:
        return not verify_bundle(folder)[1]
    except ConvertError:
        return False
