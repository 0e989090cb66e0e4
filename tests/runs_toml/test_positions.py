"""Every key and value of a TOML text is found where it stands."""

from __future__ import annotations

import tomllib

from hypothesis import given, settings
from hypothesis import strategies as st

from ablate.runs_toml.positions import scan
from tests.toml_texts import SCALAR, toml

TREES = st.recursive(
    SCALAR, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3), max_leaves=6
)


@settings(max_examples=100, deadline=None)
@given(
    st.dictionaries(st.text(st.characters(codec="utf-8", exclude_categories=("Cs",)), max_size=5), TREES, max_size=4),
    st.sampled_from(["\n", " # }]\"'\n\n"]),
)
def test_every_key_of_any_toml_text_is_found_where_it_stands(values: dict[str, object], end: str) -> None:
    def told(value: object) -> str:
        if isinstance(value, list):
            return "[" + ", ".join(map(told, value)) + ",\n]" if value else "[ ]"
        if isinstance(value, dict):
            return "{" + ", ".join(f"{toml(key)}={told(one)}" for key, one in value.items()).replace("\n", "") + "}"
        return toml(value)

    text = "".join(f"{toml(key)} = {told(value)}{end}" for key, value in values.items())
    read_back = tomllib.loads(text)
    root = scan(text, read_back)
    assert list(root.keys) == list(read_back)
    for key, node in root.keys.items():
        assert text[node.at :].startswith(toml(key))
        assert node.value == read_back[key]


def test_places_of_all_forms_of_toml() -> None:
    text = """# first
[a . "b.c"]
'q' . r = '''x "'' ]''' # note
s = \"\"\"
 y \\"\"\" ""\"\"\"
t = 1979-05-27 07:32:00
[[list]]
n = 1
[[list]]
n = [ [1, 2], [ # inner
  "three" ] ]
[list.below]
m = {}
"""
    root = scan(text, tomllib.loads(text))
    table = root.keys["a"].keys["b.c"]
    assert not table.whole
    assert table.keys["q"].keys["r"].whole
    assert table.keys["q"].keys["r"].value == "x \"'' ]"
    assert text[table.keys["t"].at :].startswith("t = 1979")
    second = (root.keys["list"].items or [])[1]
    nested = (second.keys["n"].items or [])[1]
    assert text[(nested.items or [])[0].value_at :].startswith('"three"')
    assert second.keys["below"].keys["m"].keys == {}
