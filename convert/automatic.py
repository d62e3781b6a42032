"""Matrices rounded by what they are multiplied with, to the types that suit a budget best, or to those of a name."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from .adapters import adapters_beside, adapters_of_reference
from .board_cost import bytes_per_token, ram_bytes
from .comparison import plain_sizes
from .conversion import Options, Plan, make_plan, processors
from .errors import ConvertError
from .evaluation import evaluate
from .measure.texts import Texts
from .progress import Progress
from .read.checkpoint import Checkpoint
from .reference import TYPE as REFERENCE_TYPE
from .reference import KeptReference
from .report.boards import predicted_speeds
from .report.quality import Quality, Size, Tensor
from .tune.allocation import Option, allocate
from .tune.candidates import Target, candidates
from .tune.tuned import Tuned
from .tune.tuning import Tuning
from .weights import ggml

# Of the time that judging takes, where nothing was measured before.
_OWN_SHARE = 0.3


@dataclass(frozen=True, slots=True)
class Wish:
    """budget: bytes of model.gguf; None = whatever the quantization's own types take. target: whose kernels count.

    work: a folder where what was measured is kept.
    """

    budget: int | None
    target: Target
    calibration: Texts
    evaluation: Texts
    seed: int
    work: Path


@dataclass(frozen=True, slots=True)
class Choice:
    """plan: what will be written; chosen: of each matrix within a budget, else nothing; tuned: what `tuning` made."""

    plan: Plan
    chosen: Mapping[str, Option]
    tuning: Tuning
    tuned: Tuned
    reference: KeptReference


def choose(checkpoint: Checkpoint, options: Options, wish: Wish, progress: Progress) -> Choice:
    """Rounds and measures what was not before. Raises CheckpointError, and ConvertError if the budget is too small."""
    progress("reading", 0.0)
    plan = make_plan(checkpoint, options)
    matrices = [tensor for tensor in plan.tensors if tensor.is_quantizable]
    if wish.budget is None:
        kinds = {info.name: [info.kind] for info in plan.infos}
    else:
        kinds = {tensor.name: candidates(wish.target, tensor) for tensor in matrices}
        # Header and vectors are as long whatever the types of the matrices.
        least = plan.with_types({name: several[0] for name, several in kinds.items()}).file_bytes
        if wish.budget < least:
            raise ConvertError(f"--budget {wish.budget}: too small; at least {least} bytes are needed for this model")
    reference = KeptReference(checkpoint, wish.work)
    tuning = Tuning(
        reference=lambda: reference.model,
        matrices=matrices,
        kinds=kinds,
        texts=wish.calibration,
        seed=wish.seed,
        ggml=ggml.load(),
        threads=processors(),
    )
    tuned = tuning.run(reference.home, progress, has_divergences=wish.budget is not None)
    if wish.budget is None:
        return Choice(plan, {}, tuning, tuned, reference)
    several = {tensor.name: tuned.options(tensor, kinds[tensor.name]) for tensor in matrices}
    chosen = allocate(several, wish.budget - least + sum(one[0].file_bytes for one in several.values()))
    assert chosen is not None
    final = plan.with_types({name: option.kind for name, option in chosen.items()})
    return Choice(final, chosen, tuning, tuned, reference)


def check_kept(choice: Choice, progress: Progress) -> Choice:
    """Before its matrices are written: those that are not kept as they were encoded are encoded anew."""
    progress("checking what is kept", 0.0)
    matrices = {tensor.name for tensor in choice.tuning.matrices}
    if not choice.tuned.drop_damaged({info.name: info.kind for info in choice.plan.infos if info.name in matrices}):
        return choice
    return replace(choice, tuned=choice.tuning.run(choice.reference.home, progress, has_divergences=False))


def judge(choice: Choice, checkpoint: Checkpoint, model: Path, wish: Wish, progress: Progress) -> Quality:
    """What the finished model is worth with the adapters beside it, measured on texts that nothing was tuned on, and
    plain `--type` beside it."""
    quality = evaluate(
        model,
        choice.reference.model,
        REFERENCE_TYPE,
        wish.evaluation,
        adapters=adapters_beside(model),
        reference_adapters=adapters_of_reference(model),
        work=choice.reference.home,
        threads=processors(),
        progress=lambda what, share: progress(what, _OWN_SHARE * share),
    )
    assert quality.divergence is not None
    own = Size(
        name="--type auto" if wish.budget is not None else f"--type {choice.plan.quantization.value} --calibration",
        bytes=model.stat().st_size,
        ram_bytes=ram_bytes(choice.plan, wish.target),
        divergence=quality.divergence.mean,
        is_own=True,
    )
    plain = plain_sizes(
        checkpoint,
        choice.plan,
        target=wish.target,
        reference=choice.reference.model,
        adapters=adapters_of_reference(model),
        texts=wish.evaluation,
        home=choice.reference.home,
        progress=lambda what, share: progress(what, _OWN_SHARE + (1 - _OWN_SHARE) * share),
    )
    return replace(
        quality,
        tensors=_tensors(choice),
        sizes=(own, *plain),
        speeds=predicted_speeds(bytes_per_token(choice.plan)),
    )


def _tensors(choice: Choice) -> tuple[Tensor, ...]:
    return tuple(
        Tensor(
            name=info.name,
            type=info.kind.name,
            bytes=info.nbytes,
            divergence=None if (option := choice.chosen.get(info.name)) is None else option.divergence,
            is_scaled=option is not None and not option.is_measured,
        )
        for tensor, info in zip(choice.plan.tensors, choice.plan.infos, strict=True)
        if tensor.is_quantizable
    )
