"""results/pairs.toml: read strictly, because a typing error in it would change what a pair claims."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.errors import UsageError
from harness.pairs import Pair, read_pairs

GOOD = """
[[pair]]
a = "resnet-label"
b = "resnet-siglip"
held_equal = ["architecture", "images"]
differs = ["objective"]
note = "  Same network. "
"""


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "pairs.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_pairs_are_read_in_order(tmp_path: Path) -> None:
    second = GOOD.replace("resnet", "vit")
    first, other = read_pairs(written(tmp_path, GOOD + second))
    assert first == Pair(
        a="resnet-label",
        b="resnet-siglip",
        held_equal=("architecture", "images"),
        differs=("objective",),
        note="Same network.",
    )
    assert other.a == "vit-label"
    assert read_pairs(written(tmp_path, "")) == ()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("note", "notes", "expected note"),
        ("[[pair]]", "[[pairs]]", "expected pair"),
        ("[[pair]]", "[pair]", r"\[\[pair\]\]"),
        ("note =", "# note =", "expected note"),
        ('"images"]', '"image"]', "expected images"),
        ('"images"]', '"architecture"]', "twice"),
        ('["objective"]', '["images"]', "at once"),
        ('["objective"]', "[]", "list of aspects"),
        ('["objective"]', '"objective"', "list of aspects"),
        ("resnet-siglip", "resnet-label", "itself"),
        ('"resnet-label"', "3", "a is not text"),
        ("[[pair]]", "[[pair", "TOML"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, old: str, new: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        read_pairs(written(tmp_path, GOOD.replace(old, new, 1)))
    assert "pairs.toml" in str(caught.value) and caught.value.exit_code == 2


def test_a_pair_counts_once_whichever_way_round(tmp_path: Path) -> None:
    turned = (
        GOOD.replace("resnet-label", "x")
        .replace("resnet-siglip", "resnet-label")
        .replace('"x"', '"resnet-siglip"')
    )
    with pytest.raises(UsageError, match="pair 2: declared twice"):
        read_pairs(written(tmp_path, GOOD + turned))


def test_a_missing_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot read"):
        read_pairs(tmp_path / "none.toml")
