"""The checkpoint as BF16, the reference of all measurements: written once, and kept in the cache."""

import hashlib
import json
from pathlib import Path

from ..plan import make_plan
from ..progress import Progress
from ..quantize.recipe import Quantization
from ..read.checkpoint import Checkpoint
from ..read.model import Model
from ..write.manifest import tools
from .cache import replaced_file

TYPE = Quantization.BF16.name
# Rises with every change of what is measured, or how: older results are then not used.
_MEASUREMENTS = 3


def write_reference(checkpoint: Checkpoint, model: Model, work: Path, progress: Progress) -> Path:
    """The GGUF file, in a folder of `work` that holds all results for this checkpoint. Raises ConvertError."""
    progress("writing the reference", 0.0)
    made_from = json.dumps([checkpoint.source_hashes(), tools(), _MEASUREMENTS], sort_keys=True)
    path = work / hashlib.sha256(made_from.encode()).hexdigest()[:16] / "reference.gguf"
    if not path.is_file():
        with replaced_file(path) as draft:
            make_plan(model, Quantization.BF16).write(draft)
    return path
