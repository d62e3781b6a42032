"""PURE. What the page says of the bundle itself: what it is, what it was made with, and what it is judged by."""

from collections import Counter
from collections.abc import Iterator

from ..weights.mix import told_mix
from .markup import NOTHING, Markup, element, escaped, joined
from .quality import Bundle, Quality

_TARGETS = {
    "armv8.0": "armv8.0 (Pi 4)",
    "armv8.2-dotprod": "armv8.2-dotprod (Pi 5, RK3588, Orin)",
    "armv8.6-i8mm": "armv8.6-i8mm (newer cores)",
    "any": "any (counted as armv8.2-dotprod: Pi 5, RK3588, Orin)",
}
_OLDER = (
    "Version, licence, target, adapter, calibration texts and canaries are not known here: an older edge-convert wrote "
    "quality.json."
)


def fact_list(quality: Quality) -> Markup:
    """Terms and what they are here; of an older quality.json that it does not tell all of them."""
    rows = [
        element("div", element("dt", escaped(name)), element("dd", escaped(told))) for name, told in _facts(quality)
    ]
    if not rows:
        return NOTHING
    older = NOTHING if quality.bundle else element("p", escaped(_OLDER), class_="quiet")
    return joined([element("dl", *rows, class_="facts"), older])


def hash_list(quality: Quality) -> Markup:
    """SHA-256 of all that went in."""
    rows = [
        element("p", escaped(f"{what}: SHA-256 "), element("code", escaped(sha256)))
        for what, sha256 in _hashes(quality)
    ]
    return joined(rows)


def _facts(quality: Quality) -> Iterator[tuple[str, str]]:
    bundle, texts, reference = quality.bundle, quality.texts, quality.reference
    if bundle:
        yield "Version", str(bundle.version)
        yield "Licence", bundle.licence or "not stated"
        mix = told_mix(bundle.quantization, _bytes_by_type(quality))
        yield "Quantization", f"{mix}; {bundle.bits_per_weight:.2f} bits per weight"
        yield "Target", _TARGETS.get(bundle.target, bundle.target)
        yield "Adapter", "adapter.gguf, applied in all comparisons" if bundle.adapter_sha256 else "none"
        yield "Canaries", _canaries(bundle)
        yield "Calibration texts", _names(bundle.calibration.name) if bundle.calibration else "none"
    elif quality.tensors:
        yield "Quantization", told_mix("", _bytes_by_type(quality))
    if texts:
        yield "Evaluation texts", f"{_names(texts.name)}: {texts.positions:,} of {texts.tokens:,} tokens are compared"
    if reference:
        yield "Compared with", f"the unquantized model as {reference.type}"


def _names(joined_names: str) -> str:
    # Where a line may end.
    return joined_names.replace("+", " + ")


def _canaries(bundle: Bundle) -> str:
    if not bundle.canaries:
        return "none"
    return f"{bundle.canaries:,} request{'s' if bundle.canaries > 1 else ''} with recorded answers"


def _bytes_by_type(quality: Quality) -> Counter[str]:
    nbytes = Counter[str]()
    for tensor in quality.tensors:
        nbytes[tensor.type] += tensor.bytes
    return nbytes


def _hashes(quality: Quality) -> Iterator[tuple[str, str]]:
    bundle = quality.bundle
    if quality.reference:
        yield "File of the unquantized model", quality.reference.file_sha256
    if quality.texts:
        yield f"Evaluation texts, {quality.texts.name}", quality.texts.sha256
    if bundle and bundle.calibration:
        yield f"Calibration texts, {bundle.calibration.name}", bundle.calibration.sha256
    if bundle and bundle.adapter_sha256:
        yield "adapter.gguf", bundle.adapter_sha256
