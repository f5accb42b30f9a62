"""The readers of image benchmarks: who is where, what is counted, and what is refused."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mdfpipe.datasets import Dataset, Listing
from mdfpipe.errors import DataError
from tests.datasets import made_benchmarks as made
from tests.real import ASSETS, needs_assets


def read(root: Path, use: str, **settings: Any) -> Listing:
    return Dataset.model_validate({"use": use, **settings}).read(root)


def units(listing: Listing) -> dict[str, tuple[str, str | None, str | None, int]]:
    """video_id -> domain, camera, session, number of images."""
    found = listing.videos
    return {v.video_id: (str(v.domain), v.camera_id, v.session_id, listing.images[v.video_id].num_rows) for v in found}


def unusual(listing: Listing) -> dict[str, tuple[int, str]]:
    return {a.kind: (a.count, a.example) for a in listing.anomalies}


def who(listing: Listing, gallery: str) -> list[str]:
    return [subject for subject, names in listing.galleries.items() if gallery in names]


def paths(listing: Listing, unit: str) -> list[str]:
    found: list[str] = listing.images[unit]["path"].to_pylist()
    return found


# -- SYSU-MM01


@pytest.mark.parametrize("lists", ["txt", "mat"])
def test_sysu(tmp_path: Path, lists: str) -> None:
    made.write_sysu(tmp_path, train=2, val=1, test=2, images=2, absent=lambda c, s: (c, s) == (2, 5), lists=lists)
    found = read(tmp_path, "sysu")
    bands = {1: "VIS", 2: "VIS", 3: "NIR", 4: "VIS", 5: "VIS", 6: "NIR"}
    assert units(found) == {f"cam{n}": (band, str(n), None, 8 if n == 2 else 10) for n, band in bands.items()}
    assert [who(found, part) for part in ("train", "val", "test")] == [["0001", "0002"], ["0003"], ["0004", "0005"]]
    rows = found.images["cam2"].to_pylist()
    assert rows[3] == {"video_id": "cam2", "frame": 3, "path": "cam2/0002/0002.jpg", "subject_id": "0002"}
    assert [row["path"] for row in rows] == sorted(row["path"] for row in rows)
    assert found.anomalies == []
    assert "published 22,258 VIS training and validation images, found 24" in found.differs
    assert "published 3,803 NIR test images, found 8" in found.differs


def test_sysu_without_its_validation_list_says_so(tmp_path: Path) -> None:
    made.write_sysu(tmp_path, train=1, val=1, test=1, images=1)
    (tmp_path / "exp/val_id.txt").unlink()
    found = unusual(read(tmp_path, "sysu"))
    assert found["index_file_missing"] == (1, "exp/val_id.txt")
    assert found["subject_in_no_list"] == (1, "0002")
    (tmp_path / "exp/test_id.txt").unlink()
    with pytest.raises(DataError, match=r"expected exp/test_id.txt or exp/test_id.mat, the test identities"):
        read(tmp_path, "sysu")


def test_what_is_no_image_of_the_layout_is_counted(tmp_path: Path) -> None:
    made.write_sysu(tmp_path, train=1, val=1, test=1, images=1)
    (tmp_path / "cam1/0001/Thumbs.db").write_bytes(b"x")
    (tmp_path / "cam1/0001/.hidden.jpg").write_bytes(b"x")
    (tmp_path / "cam1/0001/bad\nname.jpg").write_bytes(b"x")
    (tmp_path / "cam1/cover.jpg").write_bytes(b"x")
    shutil.rmtree(tmp_path / "cam6")
    shutil.rmtree(tmp_path / "cam2/0002")
    (tmp_path / "exp/train_id.txt").write_text("1,77")
    found = read(tmp_path, "sysu")
    assert unusual(found) == {
        "not_an_image": (1, "cam1/0001/Thumbs.db"),
        "unusable_name": (1, "cam1/0001/bad\\nname.jpg"),
        "misplaced": (1, "cam1/cover.jpg lies 1 folders too high"),
        "folder_missing": (1, "cam6"),
        "subject_without_image": (1, "0077"),
    }
    assert units(found)["cam1"][3] == 3


@needs_assets
def test_the_official_sysu_has_the_published_counts(tmp_path: Path) -> None:
    parts, counts = made.official_sysu(ASSETS)
    assert [len(ids) for ids in parts] == [296, 99, 96]
    rows = made.official_sysu_rows(ASSETS).select(["domain", "split"]).to_pylist()
    for domain, split, published in (
        ("VIS", "train", 22_258),
        ("NIR", "train", 11_909),
        ("VIS", "test", 6_775),
        ("NIR", "test", 3_803),
    ):
        assert sum(r["domain"] == domain and str(r["split"]) == split for r in rows) == published
    made.write_official_sysu(tmp_path, ASSETS)
    found = read(tmp_path, "sysu")
    assert {name: told[3] for name, told in units(found).items()} == {
        f"cam{n}": sum(k for (camera, s), k in counts.items() if camera == n and s in parts.test) for n in range(1, 7)
    }
    assert len(found.differs) == 2  # nobody to train on lies here: both lines are about training images
    assert all("training and validation" in line for line in found.differs)


# -- RegDB


def test_regdb_by_its_lists(tmp_path: Path) -> None:
    train = made.write_regdb(tmp_path, subjects=6, images=2, splits=(1, 2))
    for split in (1, 2):
        found = read(tmp_path, "regdb", split=split)
        assert units(found) == {"Thermal": ("LWIR", "2", None, 12), "Visible": ("VIS", "1", None, 12)}
        assert who(found, "train") == sorted(map(str, train[split]))
        assert set(who(found, "test")) == {str(n) for n in range(1, 7)} - set(who(found, "train"))
    assert train[1] != train[2]
    with pytest.raises(DataError, match=r"expected idx/train_visible_3\.txt"):
        read(tmp_path, "regdb", split=3)
    (tmp_path / "Thermal/1/new.bmp").write_bytes(b"x")
    gone = next((tmp_path / "Visible/2").iterdir())
    gone.unlink()
    found = read(tmp_path, "regdb")
    assert unusual(found)["image_in_no_list"] == (1, "Thermal/1/new.bmp")
    assert unusual(found)["listed_image_missing"] == (1, gone.relative_to(tmp_path).as_posix())
    assert (units(found)["Thermal"][3], units(found)["Visible"][3]) == (12, 11)


def test_regdb_by_the_matrix_of_all_splits(tmp_path: Path) -> None:
    train = made.write_regdb(tmp_path, subjects=6, images=1, lists="mat")
    for split in (1, 10):
        assert who(read(tmp_path, "regdb", split=split), "train") == sorted(map(str, train[split]))


@needs_assets
def test_the_published_matrix_of_regdb(tmp_path: Path) -> None:
    made.write_regdb(tmp_path, subjects=412, images=1, lists="none")
    shutil.copyfile(ASSETS / "index/RegDB_split.mat", tmp_path / "RegDB_split.mat")
    seen = set()
    for split in range(1, 11):
        found = read(tmp_path, "regdb", split=split)
        assert (len(who(found, "train")), len(who(found, "test"))) == (206, 206)
        assert found.anomalies == []
        assert found.differs[0] == "published 2,060 VIS train images, found 206"
        seen.add(tuple(who(found, "train")))
    assert len(seen) == 10


def test_a_label_of_two_folders_is_counted(tmp_path: Path) -> None:
    made.write_regdb(tmp_path, subjects=4, images=1)
    place = tmp_path / "idx/test_visible_1.txt"
    first, second = place.read_text().split("\n")[:2]
    place.write_text(f"{first}\n{second[:-1]}0\n")
    assert unusual(read(tmp_path, "regdb"))["label_disagrees"][0] == 1


# -- LLCM


def test_llcm(tmp_path: Path) -> None:
    made.write_llcm(tmp_path, train=2, test=1, images=2, cameras=(1, 3), test_lists=True)
    found = read(tmp_path, "llcm")
    assert units(found) == {
        "nir/c01": ("NIR", "1", None, 4),
        "nir/c03": ("NIR", "3", None, 4),
        "test_nir/c01": ("NIR", "1", None, 2),
        "test_vis/c01": ("VIS", "1", None, 2),
        "test_vis/c03": ("VIS", "3", None, 2),
        "vis/c01": ("VIS", "1", None, 4),
        "vis/c03": ("VIS", "3", None, 4),
    }
    assert (who(found, "train"), who(found, "test")) == (["0001", "0002"], ["0003"])
    assert paths(found, "test_vis/c03")[0] == "test_vis/cam3/0003/0003_c03_s000111_f0001_vis.jpg"
    assert found.anomalies == []
    assert "published 15,846 test images, found 6" in found.differs


def test_llcm_counts_what_its_lists_say_otherwise(tmp_path: Path) -> None:
    made.write_llcm(tmp_path, train=2, test=1, images=1, cameras=(1,), test_lists=True)
    image = (tmp_path / "vis/0001/0001_c01_s000111_f0001_vis.jpg").read_bytes()
    (tmp_path / "vis/0001/0001_c01_s000111_f0099_vis.jpg").write_bytes(image)
    (tmp_path / "test_vis/cam1/0003/more.jpg").write_bytes(image)
    (tmp_path / "nir/0002/0002_c01_s000111_f0001_nir.jpg").unlink()
    (tmp_path / "test_nir/camX/0003").mkdir(parents=True)
    (tmp_path / "test_nir/camX/0003/a.jpg").write_bytes(image)
    found = read(tmp_path, "llcm")
    assert unusual(found) == {
        "image_in_no_list": (1, "vis/0001/0001_c01_s000111_f0099_vis.jpg"),
        "listed_image_missing": (1, "nir/0002/0002_c01_s000111_f0001_nir.jpg of idx/train_nir.txt"),
        "misplaced": (1, "test_nir/camX/0003/a.jpg: expected a folder such as cam1 in test_nir"),
        "test_image_in_no_list": (2, "test_vis/cam1/0003/more.jpg is not in idx/test_vis.txt"),
    }
    assert len(paths(found, "vis/c01")) == 2
    assert len(paths(found, "test_vis/c01")) == 2


def test_lists_whose_images_are_all_missing_are_one_line_that_counts_them(tmp_path: Path) -> None:
    made.write_llcm(tmp_path, train=2, test=1, images=1, cameras=(1,))
    for name in ("vis", "nir", "test_vis", "test_nir"):
        shutil.rmtree(tmp_path / name)
    (tmp_path / "vis").mkdir()
    with pytest.raises(
        DataError, match=r"found no image: 3 folder_missing \(test_vis\); 4 listed_image_missing \(vis/0001/0"
    ) as no:
        read(tmp_path, "llcm")
    assert str(no.value).isprintable()


# -- Market-1501


def test_market(tmp_path: Path) -> None:
    made.write_market(tmp_path, train=2, test=2, images=1, cameras=(1, 2), distractors=3, junk=2)
    (tmp_path / "query/noname.jpg").write_bytes(b"x")
    found = read(tmp_path, "market")
    assert units(found) == {
        **{f"bounding_box_train/c{n}": ("VIS", str(n), "bounding_box_train", 2) for n in (1, 2)},
        **{f"query/c{n}": ("VIS", str(n), "query", 2) for n in (1, 2)},
        "bounding_box_test/c1": ("VIS", "1", "bounding_box_test", 4),
        "bounding_box_test/c2": ("VIS", "2", "bounding_box_test", 3),
    }
    assert (who(found, "train"), who(found, "test")) == (["0002", "0004"], ["0000", "0001", "0003"])
    assert {kind: count for kind, (count, _) in unusual(found).items()} == {"junk": 2, "misplaced": 1}
    assert "published 2,798 distractors (0000), found 3" in found.differs
    assert "published 3,819 junk images (-1), found 2" in found.differs


@needs_assets
def test_the_published_counts_of_market_are_those_of_its_vectors() -> None:
    from scipy.io import loadmat

    from mdfpipe.datasets import market

    ids = {
        name: loadmat(ASSETS / f"index/market1501_{name}.mat")[key].ravel().tolist()
        for name, key in (("train_label", "label"), ("queryID", "queryID"), ("testID", "testID"))
    }
    gallery = ids["testID"]
    assert {
        "bounding_box_train": len(set(ids["train_label"])),
        "query": len(set(ids["queryID"])),
    } == market.PUBLISHED_IDS
    assert {
        "bounding_box_train": len(ids["train_label"]),
        "query": len(ids["queryID"]),
        "bounding_box_test": sum(n > 0 for n in gallery),
    } == market.PUBLISHED
    assert (gallery.count(0), gallery.count(-1)) == (market.PUBLISHED_DISTRACTORS, market.PUBLISHED_JUNK)
    assert len(gallery) == 19_732


# -- what all of them refuse

MAKERS: dict[str, Callable[..., Any]] = {
    "sysu": made.write_sysu,
    "regdb": made.write_regdb,
    "llcm": made.write_llcm,
    "market": made.write_market,
}
INDEX = {"sysu": "exp/test_id.txt", "regdb": "idx/test_thermal_1.txt", "llcm": "idx/train_vis.txt"}


@pytest.mark.parametrize("use", MAKERS)
def test_sources_are_the_index_files_and_few_folders(tmp_path: Path, use: str) -> None:
    MAKERS[use](tmp_path)
    dataset = Dataset.model_validate({"use": use})
    sources = [path.relative_to(tmp_path).as_posix() for path in dataset.sources(tmp_path)]
    assert len(sources) <= 9
    assert all((tmp_path / name).exists() for name in sources)
    assert use == "market" or INDEX[use] in sources


@pytest.mark.parametrize("use", INDEX)
@pytest.mark.parametrize(
    "content", [b"", b"\xff\xfe\x00", b"one two three", b"../../etc/passwd 1\n", b"/abs/x.jpg 1\n"]
)
def test_an_index_file_that_is_none_is_one_line_that_names_it(tmp_path: Path, use: str, content: bytes) -> None:
    MAKERS[use](tmp_path)
    (tmp_path / INDEX[use]).write_bytes(content)
    with pytest.raises(DataError) as caught:
        read(tmp_path, use)
    assert INDEX[use] in str(caught.value)
    assert str(caught.value).isprintable()


def test_a_damaged_matrix_is_one_line(tmp_path: Path) -> None:
    made.write_sysu(tmp_path, lists="mat")
    place = tmp_path / "exp/train_id.mat"
    for content in (b"", b"no matrix", place.read_bytes()[:100]):
        place.write_bytes(content)
        with pytest.raises(DataError, match=r"^exp/train_id.mat: ") as caught:
            read(tmp_path, "sysu")
        assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("use", "name", "content", "line"),
    [
        ("sysu", "exp/test_id.txt", "7,8\n9,1o\n", "exp/test_id.txt line 2: expected identities.*got '1o'"),
        ("llcm", "idx/test_id.txt", "5\n-3", "idx/test_id.txt line 2: expected identities.*got '-3'"),
        (
            "llcm",
            "idx/train_nir.txt",
            "nir/0001/a_c01_x.jpg 0\nb.jpg 1\n",
            "idx/train_nir.txt line 2: .*FOLDER/ID/NAME",
        ),
        ("regdb", "idx/train_thermal_1.txt", "Thermal/a.bmp 0\n", "idx/train_thermal_1.txt line 1: .*FOLDER/ID/NAME"),
        ("regdb", "idx/test_visible_1.txt", "Visible/1/a.bmp 0\n\n/Visible/1/a.bmp 1", "line 3: .*is absolute"),
        ("llcm", "idx/train_vis.txt", "vis/0001/a_c01_x.jpg 0\nvis/../../a/x.jpg 1", "line 2: .*climbs out"),
    ],
)
def test_a_wrong_line_of_an_index_file_is_named(tmp_path: Path, use: str, name: str, content: str, line: str) -> None:
    MAKERS[use](tmp_path)
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=line) as caught:
        read(tmp_path, use)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("use", INDEX)
def test_an_index_file_of_another_system_reads_the_same(tmp_path: Path, use: str) -> None:
    """Windows' ends of lines, and its mark at the beginning."""
    MAKERS[use](tmp_path)
    before = read(tmp_path, use)
    place = tmp_path / INDEX[use]
    place.write_bytes(b"\xef\xbb\xbf" + place.read_bytes().replace(b"\n", b"\r\n"))
    after = read(tmp_path, use)
    assert (units(after), after.galleries, after.anomalies) == (units(before), before.galleries, before.anomalies)


@pytest.mark.parametrize("values", [1j, 1e300, -3, 2**63, 1.5, np.nan])
def test_identities_of_a_matrix_that_are_none_are_refused(tmp_path: Path, values: complex) -> None:
    from scipy.io import savemat

    made.write_sysu(tmp_path, lists="mat")
    savemat(tmp_path / "exp/test_id.mat", {"id": np.array([[values, 7]])})
    with pytest.raises(DataError, match=r"^exp/test_id.mat: expected (one list of identities|identities, numbers)"):
        read(tmp_path, "sysu")


def test_a_camera_that_no_file_could_be_named_after_is_misplaced(tmp_path: Path) -> None:
    made.write_market(tmp_path / "market")
    made.write_llcm(tmp_path / "llcm")
    many = "7" * 200
    (tmp_path / f"market/query/0001_c{many}.jpg").write_bytes(b"x")
    (tmp_path / f"market/query/{many}_c1.jpg").write_bytes(b"x")
    assert unusual(read(tmp_path / "market", "market"))["misplaced"][0] == 2
    name = f"vis/0001/0001_c{many}_x.jpg"
    (tmp_path / "llcm" / name).write_bytes(b"x")
    with (tmp_path / "llcm/idx/train_vis.txt").open("a") as file:
        file.write(f"{name} 0\n")
    folder = tmp_path / f"llcm/test_vis/cam{many}/0005"
    folder.mkdir(parents=True)
    (folder / "a.jpg").write_bytes(b"x")
    assert unusual(read(tmp_path / "llcm", "llcm"))["misplaced"][0] == 2


@pytest.mark.parametrize("use", MAKERS)
@pytest.mark.parametrize("spoil", [os.mkfifo, lambda path: path.symlink_to("gone")])
def test_a_pipe_and_a_link_to_nothing_are_no_images(tmp_path: Path, use: str, spoil: Callable[[Path], None]) -> None:
    """Reading a pipe would wait for ever, and one dangling link would fail its whole unit."""
    MAKERS[use](tmp_path)
    whole = sum(told[3] for told in units(read(tmp_path, use)).values())
    folder = tmp_path / {"sysu": "cam1", "regdb": "Visible", "llcm": "vis", "market": "query"}[use]
    image = min(path for path in folder.rglob("*") if path.suffix in (".jpg", ".bmp"))
    image.unlink()
    spoil(image)
    found = read(tmp_path, use)
    assert sum(told[3] for told in units(found).values()) == whole - 1
    example = f"{image.relative_to(tmp_path).as_posix()} is a pipe, a device, or a link to nothing"
    assert unusual(found)["not_an_image"] == (1, example)


@pytest.mark.parametrize(("use", "link"), [("sysu", "cam1/0001"), ("market", "query"), ("llcm", "idx/test_id.txt")])
def test_what_leads_out_of_the_data_root_is_refused(tmp_path: Path, use: str, link: str) -> None:
    root = tmp_path / "data"
    MAKERS[use](root)
    (root / link).rename(tmp_path / "elsewhere")
    (root / link).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DataError, match="outside the data root"):
        read(root, use)
