"""Any values, written as TOML."""

from __future__ import annotations

from hypothesis import strategies as st

SCALAR = st.one_of(
    st.booleans(),
    st.integers(-(10**9), 10**9),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs")), max_size=8).filter(lambda t: not t.startswith("as ")),
)


def toml(value: object) -> str:
    """A value as TOML; strings as basic strings with everything odd escaped."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        odd = '"\\'
        return '"' + "".join(c if 32 <= ord(c) < 127 and c not in odd else f"\\U{ord(c):08X}" for c in value) + '"'
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{toml(key)} = {toml(one)}" for key, one in value.items()) + " }"
    return repr(value)
