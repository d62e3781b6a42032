"""PURE. quality.json of a bundle: how far it is from the unquantized model, and what that bought.

It holds no times, paths or host names. Sizes are in bytes, divergences in nats. None, null in the file, is unknown; 0
was measured.
"""

import json
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

from ..errors import CheckpointError
from ..read.strict_json import parse_object
from .fields import Fields
from .parts import Bundle, Divergence, Perplexity, Reference, Size, Speed, Task, Tensor, Texts, TunedOn

__all__ = [
    "FILE",
    "SCHEMA",
    "Bundle",
    "Divergence",
    "Perplexity",
    "Quality",
    "Reference",
    "Size",
    "Speed",
    "Task",
    "Tensor",
    "Texts",
    "TunedOn",
    "decode",
]

FILE = "quality.json"
SCHEMA = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Quality:
    """What quality.json tells; a part that was not measured is None or empty."""

    bundle: Bundle | None = None
    reference: Reference | None = None
    texts: Texts | None = None
    divergence: Divergence | None = None
    perplexity: Perplexity | None = None
    tasks: tuple[Task, ...] = ()
    tensors: tuple[Tensor, ...] = ()
    sizes: tuple[Size, ...] = ()
    speeds: tuple[Speed, ...] = ()

    @property
    def own_size(self) -> Size | None:
        """The bundle among `sizes`."""
        return next((size for size in self.sizes if size.is_own), None)

    def encode(self) -> bytes:
        """Canonical JSON: sorted keys, no spaces, UTF-8. Equal qualities have equal bytes.

        CheckpointError for a value that `decode` would refuse, so that none is ever written.
        """
        value = {"schema": SCHEMA, **asdict(self)}
        _quality(value)
        text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
        return text.encode("utf-8")


def decode(data: bytes) -> Quality:
    """The content of a quality.json; CheckpointError names the field, the value and what is allowed."""
    return _quality(parse_object(data, FILE))


def _quality(value: Any) -> Quality:
    names = ("schema", "reference", "texts", "divergence", "perplexity", "tasks", "tensors", "sizes", "speeds")
    fields = Fields(value, FILE, names, later=("bundle",))
    if (schema := fields.count("schema")) != SCHEMA:
        raise fields.wrong("schema", schema, f"{SCHEMA}")
    quality = Quality(
        bundle=fields.part("bundle", _bundle),
        reference=fields.part("reference", _reference),
        texts=fields.part("texts", _texts),
        divergence=fields.part("divergence", _divergence),
        perplexity=fields.part("perplexity", _perplexity),
        tasks=fields.parts("tasks", _task),
        tensors=fields.parts("tensors", _tensor),
        sizes=fields.parts("sizes", _size),
        speeds=fields.parts("speeds", _speed),
    )
    _check_distinct("tasks", "name", [task.name for task in quality.tasks])
    _check_distinct("tensors", "name", [tensor.name for tensor in quality.tensors])
    _check_distinct("sizes", "name", [size.name for size in quality.sizes])
    _check_distinct("speeds", "board", [speed.board for speed in quality.speeds])
    if sum(size.is_own for size in quality.sizes) > 1:
        raise CheckpointError(f"{FILE}.sizes: is_own is true more than once, allowed is once")
    return quality


def _bundle(value: Any, where: str) -> Bundle:
    names = ("name", "version", "licence", "quantization", "bits_per_weight", "target", "calibration")
    fields = Fields(value, where, (*names, "adapter_sha256", "canaries"))
    return Bundle(
        name=fields.text("name"),
        version=fields.count("version"),
        licence=fields.optional("licence", fields.text),
        quantization=fields.text("quantization"),
        bits_per_weight=fields.positive("bits_per_weight"),
        target=fields.text("target"),
        calibration=fields.part("calibration", _tuned_on),
        adapter_sha256=fields.optional("adapter_sha256", fields.sha256),
        canaries=fields.count("canaries"),
    )


def _tuned_on(value: Any, where: str) -> TunedOn:
    fields = Fields(value, where, ("name", "sha256"))
    return TunedOn(name=fields.text("name"), sha256=fields.sha256("sha256"))


def _reference(value: Any, where: str) -> Reference:
    fields = Fields(value, where, ("file_sha256", "type"))
    return Reference(file_sha256=fields.sha256("file_sha256"), type=fields.text("type"))


def _texts(value: Any, where: str) -> Texts:
    fields = Fields(value, where, ("name", "sha256", "tokens", "positions"))
    tokens, positions = fields.count("tokens"), fields.count("positions")
    if positions > tokens:
        raise fields.wrong("positions", positions, f"at most tokens = {tokens}")
    return Texts(name=fields.text("name"), sha256=fields.sha256("sha256"), tokens=tokens, positions=positions)


def _divergence(value: Any, where: str) -> Divergence:
    rising = ("median", "p90", "p99", "max")
    fields = Fields(value, where, ("mean", "error", *rising, "top1_agreement"))
    median, p90, p99, most = found = [fields.number(name) for name in rising]
    for (lower, low), (name, high) in pairwise(zip(rising, found, strict=True)):
        if high < low:
            raise fields.wrong(name, high, f"at least {lower} = {low}")
    mean = fields.number("mean")
    if mean > most:
        raise fields.wrong("mean", mean, f"at most max = {most}")
    return Divergence(
        mean=mean,
        error=fields.optional("error", fields.number),
        median=median,
        p90=p90,
        p99=p99,
        max=most,
        top1_agreement=fields.share("top1_agreement"),
    )


def _perplexity(value: Any, where: str) -> Perplexity:
    fields = Fields(value, where, ("ratio", "low", "high", "own", "reference"))
    ratio, own, reference = (fields.positive(name) for name in ("ratio", "own", "reference"))
    # Whoever rounds for the file may round all three.
    if abs(ratio - own / reference) > 0.01 * ratio:
        raise fields.wrong("ratio", ratio, f"own / reference = {own / reference:.6g}")
    low, high = fields.optional("low", fields.positive), fields.optional("high", fields.positive)
    if (low is None) != (high is None):
        raise fields.wrong("high", high, "an interval's end where low is one, and null where low is null")
    if low is not None and low > ratio:
        raise fields.wrong("low", low, f"at most ratio = {ratio}")
    if high is not None and high < ratio:
        raise fields.wrong("high", high, f"at least ratio = {ratio}")
    return Perplexity(ratio=ratio, low=low, high=high, own=own, reference=reference)


def _task(value: Any, where: str) -> Task:
    names = ("name", "kind", "examples", "accuracy", "reference_accuracy")
    fields = Fields(value, where, names, later=("gained", "lost"))
    task = Task(
        name=fields.text("name"),
        kind=fields.text("kind"),
        examples=fields.count("examples"),
        accuracy=fields.share("accuracy"),
        reference_accuracy=fields.optional("reference_accuracy", fields.share),
        gained=fields.optional("gained", fields.count),
        lost=fields.optional("lost", fields.count),
    )
    if task.examples == 0:
        raise fields.wrong("examples", task.examples, "1 or more")
    if task.gained is None or task.lost is None or task.reference_accuracy is None:
        if task.gained is not None or task.lost is not None:
            raise fields.wrong("gained", task.gained, "a count where lost and reference_accuracy are there, else null")
        return task
    change = round((task.accuracy - task.reference_accuracy) * task.examples)
    if task.gained - task.lost != change or task.gained + task.lost > task.examples:
        allowed = f"lost + {change}, what accuracy and reference_accuracy differ by, and with lost at most examples"
        raise fields.wrong("gained", task.gained, allowed)
    return task


def _tensor(value: Any, where: str) -> Tensor:
    fields = Fields(value, where, ("name", "type", "bytes", "divergence", "is_scaled"))
    return Tensor(
        name=fields.text("name"),
        type=fields.text("type"),
        bytes=fields.count("bytes"),
        divergence=fields.optional("divergence", fields.number),
        is_scaled=fields.flag("is_scaled"),
    )


def _size(value: Any, where: str) -> Size:
    fields = Fields(value, where, ("name", "bytes", "ram_bytes", "divergence", "is_own"))
    return Size(
        name=fields.text("name"),
        bytes=fields.count("bytes"),
        ram_bytes=fields.optional("ram_bytes", fields.count),
        divergence=fields.optional("divergence", fields.number),
        is_own=fields.flag("is_own"),
    )


def _speed(value: Any, where: str) -> Speed:
    fields = Fields(value, where, ("board", "bandwidth_gb_s", "source", "tokens_per_s"))
    return Speed(
        board=fields.text("board"),
        bandwidth_gb_s=fields.positive("bandwidth_gb_s"),
        source=fields.text("source"),
        tokens_per_s=fields.positive("tokens_per_s"),
    )


def _check_distinct(part: str, field: str, names: list[str]) -> None:
    seen: set[str] = set()
    for index, name in enumerate(names):
        if name in seen:
            raise CheckpointError(f"{FILE}.{part}[{index}].{field} is {name!r}, allowed is a {field} not used before")
        seen.add(name)
