"""PURE. Figures in the words of the page: as many digits as mean something, and the unit."""

import math

UNKNOWN = "–"
NO_BREAK = "\N{NO-BREAK SPACE}"
# Outside of these nobody counts the zeros.
_LEAST_PLAIN, _MOST_PLAIN = 1e-4, 1e7
_LEAST_ERROR = 1e-300
_MOST_DECIMALS = 6
_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def significant(value: float | None, digits: int = 3) -> str:
    """So many digits that count; with a power of ten where many zeros would stand beside them."""
    if value is None:
        return UNKNOWN
    if value == 0:
        return "0"
    mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
    if is_plain(value):
        # Rounded first: 0.09996 is 0.100 with three digits, not 0.1000.
        return f"{float(f'{mantissa}e{exponent}'):,.{max(0, digits - 1 - int(exponent))}f}"
    return f"{mantissa}{_times_ten_to(int(exponent))}"


def value_and_error(value: float, error: float | None) -> tuple[str, str | None]:
    """The value with as many digits as its error lets count, and the error; both with the same power of ten.

    None for an error that is unknown, or too small to be seen beside the value.
    """
    if error is None or error < abs(value) / 1000 or error < _LEAST_ERROR:
        return significant(value), None
    power, most = 0, max(abs(value), error)
    if not is_plain(most):
        power = math.floor(math.log10(most))
        value, error = value / 10.0**power, error / 10.0**power
    leading = float(f"{error:.1e}")
    exponent = math.floor(math.log10(leading))
    # One digit of an error is enough, but 1 and 2 would be too coarse.
    decimals = max(0, -exponent + (leading / 10**exponent < 3))
    times = _times_ten_to(power) if power else ""
    return f"{value:.{decimals}f}{times}", f"{error:.{decimals}f}{times}"


def is_plain(value: float) -> bool:
    """Whether it is written without a power of ten."""
    return _LEAST_PLAIN <= abs(value) < _MOST_PLAIN


def ten_to(exponent: int) -> str:
    """A power of ten."""
    return f"10{str(exponent).translate(_RAISED)}"


def _times_ten_to(exponent: int) -> str:
    return f"{NO_BREAK}×{NO_BREAK}{ten_to(exponent)}"


def percent(share: float | None, decimals: int = 1) -> str:
    """A share from 0 to 1 as per cent; only what is all or nothing is told as 100 or 0."""
    if share is None:
        return UNKNOWN
    while share not in (0, 1) and decimals < _MOST_DECIMALS and float(f"{100 * share:.{decimals}f}") in (0, 100):
        decimals += 1
    return f"{100 * share:.{decimals}f}{NO_BREAK}%"


def signed(number: float, decimals: int = 1) -> str:
    """With its sign, unless it is rounded to nothing."""
    told = f"{number:+.{decimals}f}".replace("-", "−")
    return told if float(f"{number:.{decimals}f}") else told[1:]


def ratio(value: float) -> str:
    """To a hundredth of a per cent, as long as it is near 1."""
    return f"{value:.4f}" if 0.1 <= value < 100 else significant(value)


def megabytes(nbytes: float | None) -> str:
    """10^6 bytes, without the unit."""
    if nbytes is None:
        return UNKNOWN
    return f"{nbytes / 1e6:,.1f}" if nbytes >= 1e5 else significant(nbytes / 1e6)
