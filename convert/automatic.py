"""`--type auto`: the most faithful model within a budget of bytes, out of types that the target's kernels run fast."""

import hashlib
import json
import threading
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from .conversion import Options, Plan, make_plan, processors, write_bundle
from .errors import ConvertError
from .evaluation import evaluate
from .measure.texts import Texts
from .read.checkpoint import Checkpoint
from .read.tensors import TOKEN_EMBD
from .report.boards import predicted_speeds
from .report.quality import Quality, Size, Tensor
from .tune.allocation import Option, allocate
from .tune.candidates import REPACKED, Target
from .tune.tuning import Progress, Tuned, Tuning
from .weights import ggml
from .weights.recipe import Quantization
from .write.manifest import MODEL_FILE, tools


@dataclass(frozen=True, slots=True)
class Wish:
    """budget: bytes of model.gguf. work: a folder where what was measured is kept."""

    budget: int
    target: Target
    calibration: Texts
    evaluation: Texts
    seed: int
    work: Path


@dataclass(frozen=True, slots=True)
class Choice:
    """plan: what will be written, within the budget; chosen: of each matrix; home: the model's own folder of `work`."""

    plan: Plan
    chosen: Mapping[str, Option]
    tuned: Tuned
    reference: Path
    home: Path

    @property
    def bytes_per_token(self) -> int:
        """What a decode step reads: of an embedding that is no output matrix one row only."""
        is_read = {name: self.plan.config.tied_embeddings or name != TOKEN_EMBD for name in self.chosen}
        return sum(option.nbytes for name, option in self.chosen.items() if is_read[name])

    @property
    def ram_bytes(self) -> int:
        """Of the matrices, in memory that is not the file's: copies in the layout of fast kernels."""
        return sum(option.nbytes for option in self.chosen.values() if option.kind in REPACKED)


def choose(checkpoint: Checkpoint, options: Options, wish: Wish, progress: Progress) -> Choice:
    """Measures what was not measured before. Raises CheckpointError, and ConvertError if the budget is too small."""
    progress("reading", 0.0)
    reference, home, plan = reference_model(checkpoint, wish.work)
    matrices = [tensor for tensor in plan.tensors if tensor.is_quantizable]
    tuned = Tuning(
        reference=reference,
        matrices=matrices,
        target=wish.target,
        texts=wish.calibration,
        seed=wish.seed,
        threads=processors(),
    ).run(home, ggml.load(), progress)
    smallest = {name: min(several, key=lambda option: option.nbytes) for name, several in tuned.options.items()}
    draft = _with(make_plan(checkpoint, replace(options, quantization=Quantization.AUTO)), smallest)
    # Header and vectors are as long whatever the types of the matrices.
    least = draft.file_bytes
    chosen = allocate(tuned.options, wish.budget - least + sum(option.file_bytes for option in smallest.values()))
    if chosen is None:
        raise ConvertError(f"--budget {wish.budget}: too small; at least {least} bytes are needed for this model")
    return Choice(_with(draft, chosen), chosen, tuned, reference, home)


def _with(plan: Plan, chosen: Mapping[str, Option]) -> Plan:
    return plan.with_types({name: option.kind for name, option in chosen.items()})


def reference_model(checkpoint: Checkpoint, work: Path) -> tuple[Path, Path, Plan]:
    """The checkpoint as BF16, the folder of `work` for all that is kept of it, and the plan that it was written by."""
    # First, for it reads all the files that are hashed.
    plan = make_plan(checkpoint, Options(Quantization.BF16))
    made_of = json.dumps([checkpoint.source_hashes(threading.Event()), tools()], sort_keys=True)
    home = work / hashlib.sha256(made_of.encode()).hexdigest()[:16]
    reference = home / "reference"
    if not (reference / MODEL_FILE).is_file():
        write_bundle(checkpoint, plan, reference, replace=True)
    return reference / MODEL_FILE, home, plan


def judge(choice: Choice, model: Path, wish: Wish, progress: Progress) -> Quality:
    """What the finished model is worth, measured on texts that nothing was tuned on."""
    quality = evaluate(
        model, choice.reference, "BF16", wish.evaluation, work=choice.home, threads=processors(), progress=progress
    )
    assert quality.divergence is not None
    size = Size(
        name=choice.plan.name,
        bytes=model.stat().st_size,
        ram_bytes=choice.ram_bytes,
        divergence=quality.divergence.mean,
        is_own=True,
    )
    tensors = [
        Tensor(name=name, type=option.kind.name, bytes=option.nbytes, divergence=option.divergence)
        for name, option in choice.chosen.items()
    ]
    return replace(quality, tensors=tuple(tensors), sizes=(size,), speeds=predicted_speeds(choice.bytes_per_token))
