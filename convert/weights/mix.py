"""PURE. A mix of types, as a name and in words."""

from collections.abc import Mapping

# Of the bytes; less is not worth a word.
_LEAST_SHARE = 0.1


def mix_name(nbytes: Mapping[str, int]) -> str:
    """For a dashboard: the type of most bytes, with "-MIX" where there are others. nbytes: by type, not empty."""
    most, *others = _ordered(nbytes)
    return f"{most}-MIX" if others else most


def told_mix(name: str, nbytes: Mapping[str, int]) -> str:
    """A name, which may be empty, and the types that matter: "IQ4_NL-MIX, mostly IQ4_NL and Q8_0". nbytes: by type."""
    ordered = _ordered(nbytes)
    shown = [kind for kind in ordered if nbytes[kind] >= _LEAST_SHARE * sum(nbytes.values())]
    if not shown or shown == ordered == [name]:
        return name
    told = " and ".join(part for part in (", ".join(shown[:-1]), shown[-1]) if part)
    return ", ".join(part for part in (name, told if shown == ordered else f"mostly {told}") if part)


def _ordered(nbytes: Mapping[str, int]) -> list[str]:
    return sorted(nbytes, key=lambda name: (-nbytes[name], name))
