"""The house: what import-linter's layers do not say. No circle of imports, no private module used from another folder,
no two public types of one name.
"""

from __future__ import annotations

import ast
from collections import defaultdict
from graphlib import TopologicalSorter

import grimp

from tests.runs import ROOT

PACKAGE = ROOT / "mdfpipe"


def test_no_circle_of_imports() -> None:
    """Not behind TYPE_CHECKING either."""
    graph = grimp.build_graph("mdfpipe", cache_dir=None)
    needs = {name: graph.find_modules_directly_imported_by(name) for name in graph.modules}
    assert sum(map(len, needs.values())) > 1000
    TopologicalSorter(needs).prepare()


def test_private_modules_stay_in_their_folder() -> None:
    graph = grimp.build_graph("mdfpipe", cache_dir=None)
    private = [name for name in graph.modules if name.rpartition(".")[2].startswith("_") and "__" not in name]
    assert private
    folders = {name: name.rpartition(".")[0] for name in private}
    users = {(name, user) for name in private for user in graph.find_modules_that_directly_import(name)}
    assert sorted(pair for pair in users if not pair[1].startswith(folders[pair[0]])) == []


def test_public_types_have_names_of_their_own() -> None:
    places: defaultdict[str, list[str]] = defaultdict(list)
    for path in PACKAGE.rglob("*.py"):
        for node in ast.parse(path.read_text()).body:
            is_variant = (
                isinstance(node, ast.ClassDef) and path.stem == node.name.lower()
            )  # of a family, such as Market
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_") and not is_variant:
                places[node.name].append(str(path.relative_to(ROOT)))
    assert len(places) > 200
    assert {name: found for name, found in places.items() if len(found) > 1} == {}
