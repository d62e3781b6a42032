"""The name of a mix of types."""

from collections.abc import Mapping

# Types with a smaller share of the bytes are not mentioned.
_SMALLEST_SHARE = 0.1


def mix_name(nbytes: Mapping[str, int]) -> str:
    """The type of most bytes, with "-MIX" if there are others. nbytes: by type, not empty."""
    largest, *others = _ordered(nbytes)
    return f"{largest}-MIX" if others else largest


def mix_in_words(name: str, nbytes: Mapping[str, int]) -> str:
    """The name and the types that matter: "IQ4_NL-MIX, mostly IQ4_NL and Q8_0"."""
    ordered = _ordered(nbytes)
    shown = [kind for kind in ordered if nbytes[kind] >= _SMALLEST_SHARE * sum(nbytes.values())]
    if shown == ordered == [name]:
        return name
    words = " and ".join(part for part in (", ".join(shown[:-1]), shown[-1]) if part)
    return f"{name}, {words if shown == ordered else f'mostly {words}'}"


def _ordered(nbytes: Mapping[str, int]) -> list[str]:
    return sorted(nbytes, key=lambda name: (-nbytes[name], name))
