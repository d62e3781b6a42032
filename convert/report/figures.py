"""PURE. Figures in the words of the page: as many digits as mean something, and the unit."""

import math

UNKNOWN = "–"
NO_BREAK = "\N{NO-BREAK SPACE}"


def significant(value: float | None, digits: int = 3) -> str:
    """So many digits that count, without an exponent unless a dozen zeros would lead."""
    if value is None:
        return UNKNOWN
    if value == 0:
        return "0"
    if abs(value) < 1e-8:
        return f"{value:.{digits - 1}e}"
    # Rounded first: 0.09996 is 0.100 with three digits, not 0.1000.
    value = float(f"{value:.{digits - 1}e}")
    return f"{value:,.{max(0, digits - 1 - math.floor(math.log10(abs(value))))}f}"


def with_error(value: float, error: float | None) -> str:
    """The value with as many digits as its error lets count."""
    if not error:
        return significant(value)
    leading = float(f"{error:.1e}")
    exponent = math.floor(math.log10(leading))
    # One digit of an error is enough, but 1 and 2 would be too coarse.
    decimals = max(0, -exponent + (leading / 10**exponent < 3))
    return f"{value:.{decimals}f} ± {error:.{decimals}f}"


def percent(share: float | None, decimals: int = 1) -> str:
    """A share from 0 to 1 as per cent."""
    return UNKNOWN if share is None else f"{100 * share:.{decimals}f}{NO_BREAK}%"


def megabytes(nbytes: float | None) -> str:
    """10^6 bytes, without the unit."""
    if nbytes is None:
        return UNKNOWN
    return f"{nbytes / 1e6:,.1f}" if nbytes >= 1e5 else significant(nbytes / 1e6)
