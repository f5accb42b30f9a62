"""The published numbers: whole, sound, and of rows that the recipes' settings make."""

from __future__ import annotations

import pytest

from mdfpipe.config import validate
from mdfpipe.evaluation import published
from mdfpipe.evaluation.published import PublishedRow
from mdfpipe.learning.recipes import Recipe

ROWS = published.rows()


def found(recipe: str, benchmark: str, protocol: str, row: str) -> dict[str, float]:
    (only,) = (
        each
        for each in ROWS
        if (each.recipe, each.benchmark, each.protocol, each.row) == (recipe, benchmark, protocol, row)
    )
    return dict(only.figures)


@pytest.mark.parametrize("row", ROWS, ids=lambda r: f"{r.recipe} {r.table} {r.protocol} {r.row}")
def test_a_row_is_sound_and_its_settings_are_the_recipes(row: PublishedRow) -> None:
    assert validate(Recipe.variant(row.recipe), dict(row.settings), row.row).use == row.recipe
    ranks = [value for name, value in row.figures.items() if name.startswith("Rank-") and " " not in name]
    assert ranks == sorted(ranks)


@pytest.mark.parametrize("recipe", Recipe.methods())
def test_every_recipe_has_rows_and_the_published_method_comes_first(recipe: str) -> None:
    rows = published.of(recipe)
    assert rows
    seen = set()
    for row in rows:
        if row.benchmark not in seen:
            assert row.row.startswith("published")
            assert row.figures
        seen.add(row.benchmark)
    names = [(row.benchmark, row.protocol, row.row, row.table) for row in rows]
    assert len(names) == len(set(names))


def test_some_numbers_as_the_papers_print_them() -> None:
    single = "all-search, single-shot"
    assert found("dfw", "SYSU-MM01", single, "baseline") == {
        "Rank-1": 54.81,
        "Rank-10": 88.08,
        "Rank-20": 94.53,
        "mAP": 51.75,
    }
    assert found("dfw", "RegDB", "visible to thermal", "SLN + RE")["mAP"] == 88.19
    assert found("idkl", "SYSU-MM01", single, "L_b + L_ip + L_csa") == {"Rank-1": 76.28, "mAP": 74.34}
    assert found("idkl", "SYSU-MM01", single, "L_b + L_ip (not in the paper)") == {}
    assert found("lccrf", "SYSU-MM01", single, "EAT, non-local")["Rank-1"] == 42.16
    assert found("di2l", "SYSU-MM01", "all-search, multi-shot", "baseline + DPA")["mAP"] == 61.26
    assert found("body", "IJB-MDF", "MWIR gallery, every subject", "pretrained")["Rank-1 LWIR"] == 95.58
    assert found("body", "IJB-MDF", "VIS-500m gallery, closed set", "48 subjects, LoRA")["Rank-1 SWIR"] == 71.43


def test_ablation_rows_of_dfw_leave_out_what_they_do_not_name() -> None:
    for row in published.of("dfw"):
        if row.table != "1":  # or ours
            continue
        recipe = validate(Recipe.variant("dfw"), dict(row.settings), row.row)
        used = [recipe.weakening is not None, recipe.segmented, recipe.augment.erasing > 0]  # type: ignore[attr-defined]
        assert used == [part in row.row.split(" + ") for part in ("DFW", "SLN", "RE")]
        assert recipe.batches.subjects == (8 if row.benchmark == "RegDB" else 6)  # type: ignore[attr-defined]
