"""Numbers as the page and the terminal print them: significant digits, units, 95 % intervals and what they mean."""

import math

from .quality import Perplexity, TaskAccuracy

UNKNOWN = "–"
NO_BREAK = "\N{NO-BREAK SPACE}"
# Outside of this range a number is written with a power of ten.
_SMALLEST_PLAIN, _LARGEST_PLAIN = 1e-4, 1e7
_MOST_DECIMALS = 6
_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
_Z95 = 1.96


def significant(value: float | None, digits: int = 3) -> str:
    """The value with this number of significant digits; a dash for None."""
    if value is None:
        return UNKNOWN
    if value == 0:
        return "0"
    mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
    if _is_plain(value):
        # Rounded first: 0.09996 is 0.100 with three digits, not 0.1000.
        return f"{float(f'{mantissa}e{exponent}'):,.{max(0, digits - 1 - int(exponent))}f}"
    return f"{mantissa}{_times_ten_to(int(exponent))}"


def value_and_error(value: float, error: float | None) -> tuple[str, str | None]:
    """The value rounded to what its standard error allows, and the error; both with the same power of ten.

    None instead of an error that is unknown or below a thousandth of the value.
    """
    if not error or error < abs(value) / 1000:
        return significant(value), None
    power, largest = 0, max(abs(value), error)
    if not _is_plain(largest):
        power = math.floor(math.log10(largest))
        value, error = value / 10.0**power, error / 10.0**power
    leading = float(f"{error:.1e}")
    exponent = math.floor(math.log10(leading))
    # One digit of an error is enough, but 1 and 2 would be too coarse.
    decimals = max(0, -exponent + (leading / 10**exponent < 3))
    times = _times_ten_to(power) if power else ""
    return f"{value:.{decimals}f}{times}", f"{error:.{decimals}f}{times}"


def round_number(value: float) -> str:
    """A number of an axis without trailing zeros."""
    if value == 0 or _is_plain(value):
        return f"{value:,.12f}".rstrip("0").rstrip(".")
    mantissa, exponent = f"{value:.6e}".split("e")
    factor = mantissa.rstrip("0").rstrip(".")
    return _ten_to(int(exponent)) if factor == "1" else f"{factor}×{_ten_to(int(exponent))}"


def percent(share: float | None, decimals: int = 1) -> str:
    """A share from 0 to 1 in per cent; only exactly 0 and 1 print as 0 and 100."""
    if share is None:
        return UNKNOWN
    while share not in (0, 1) and decimals < _MOST_DECIMALS and float(f"{100 * share:.{decimals}f}") in (0, 100):
        decimals += 1
    return f"{100 * share:.{decimals}f}{NO_BREAK}%"


def ratio(value: float) -> str:
    """Four decimals while the value is near 1."""
    return f"{value:.4f}" if 0.1 <= value < 100 else significant(value)


def megabytes(nbytes: float | None) -> str:
    """Millions of bytes, without the unit."""
    if nbytes is None:
        return UNKNOWN
    return f"{nbytes / 1e6:,.1f}" if nbytes >= 1e5 else significant(nbytes / 1e6)


def share_interval(right: int, examples: int) -> tuple[float, float]:
    """95 % interval of the share `right` of `examples` (1 or more).

    Source: E. B. Wilson, "Probable inference, the law of succession, and statistical inference", 1927.
    """
    share, weight = right / examples, _Z95**2 / examples
    middle = share + weight / 2
    half = math.sqrt(share * (1 - share) * weight + weight**2 / 4)
    return max(0.0, (middle - half) / (1 + weight)), min(1.0, (middle + half) / (1 + weight))


def difference_interval(gained: int, lost: int, examples: int) -> tuple[float, float]:
    """95 % interval of the difference of two shares of the same examples.

    gained, lost: how many examples only the first is right at, and only the second.
    Source: A. Agresti and Y. Min, "Simple improved confidence intervals for comparing matched proportions", 2005.
    """
    more, fewer, total = gained + 0.5, lost + 0.5, examples + 2
    middle = (more - fewer) / total
    half = _Z95 * math.sqrt(more + fewer - (more - fewer) ** 2 / total) / total
    return max(-1.0, middle - half), min(1.0, middle + half)


def perplexity_verdict(perplexity: Perplexity) -> str:
    """What the interval of the ratio allows to say; a ratio below 1 is not a better model."""
    low, high = perplexity.low, perplexity.high
    interval = f"95 % interval {ratio(low)} to {ratio(high)}"
    if low <= 1 <= high:
        return f"{interval}, which includes 1: no measurable difference"
    if perplexity.ratio < 1:
        return f"{interval}, below 1: this text suits the rounding, which does not make it the better model"
    return f"{interval}, above 1: a loss"


def right_answers(task: TaskAccuracy) -> str:
    """The share of right answers with its interval."""
    low, high = share_interval(round(task.accuracy * task.examples), task.examples)
    return f"{percent(task.accuracy)} ({100 * low:.1f}{NO_BREAK}to{NO_BREAK}{100 * high:.1f})"


def points_gained(task: TaskAccuracy) -> str:
    """The accuracy minus the reference's in percentage points, with its interval."""
    low, high = difference_interval(task.gained, task.lost, task.examples)
    points = _signed(100 * (task.accuracy - task.reference_accuracy))
    return f"{points} ({_signed(100 * low)}{NO_BREAK}to{NO_BREAK}{_signed(100 * high)})"


def difference_verdict(task: TaskAccuracy) -> str:
    """What the interval of the difference allows to say."""
    low, high = difference_interval(task.gained, task.lost, task.examples)
    if low <= 0 <= high:
        return "no measurable difference"
    return "more are right" if low > 0 else "fewer are right"


def _signed(number: float) -> str:
    text = f"{number:+.1f}".replace("-", "−")
    return text if float(f"{number:.1f}") else text[1:]


def _is_plain(value: float) -> bool:
    return _SMALLEST_PLAIN <= abs(value) < _LARGEST_PLAIN


def _ten_to(exponent: int) -> str:
    return f"10{str(exponent).translate(_SUPERSCRIPT)}"


def _times_ten_to(exponent: int) -> str:
    return f"{NO_BREAK}×{NO_BREAK}{_ten_to(exponent)}"
