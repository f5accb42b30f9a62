"""Settings: strict, one clear line for each mistake, variants by file name."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest

from mdfpipe.config import (
    LARGEST_YAML,
    find_file,
    parse_yaml,
    read_yaml,
    result_settings,
    set_dotted,
    validate,
    yaml_text,
)
from mdfpipe.errors import ConfigError
from mdfpipe.study.study import Study

STUDY = """
dataset: {use: ijb, preset: ijbc, domain: {constant: VIS}}
detect:
  detector: {use: precomputed, boxes: boxes.csv}
"""


def study(tmp_path: Path, text: str = STUDY) -> Path:
    path = tmp_path / "study.yaml"
    path.write_text(text)
    return path


def test_defaults_are_written_out_and_read_back(tmp_path: Path) -> None:
    pipeline = Study.load(study(tmp_path))
    assert pipeline.name == "study"
    again = tmp_path / "again.yaml"
    again.write_text(pipeline.to_yaml())
    assert Study.load(again) == pipeline
    assert pipeline.detect.detector.use == "precomputed"
    assert "min_overlap: 0.5" in pipeline.to_yaml()


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("detect.strid=2", "detect.strid: unknown setting (did you mean stride?)"),
        ("detect.stride=0", "detect.stride: input should be greater than or equal to 1, got 0"),
        ("detect.stride=two", "detect.stride: input should be a valid integer"),
        ("detect.detector.use=onyx", "of coco, mot, onnx, precomputed, yolo, yunet, got 'onyx' (did you mean onnx?)"),
        ("detect.detector={}", "detect.detector: expected `use:` with one of coco, mot, onnx, precomputed, yolo"),
        ("detect.detector.boxs=a.csv", "detect.detector.boxs: unknown setting (did you mean boxes?)"),
        ("systems.a.recipe={use: di2l, gama: 2}", "systems.a.recipe.gama: unknown setting (did you mean gamma?)"),
        ("systems.a={recipe: {use: dfw}, split: []}", "systems.a.split: unknown setting (did you mean splits?)"),
        ("detectt.stride=2", "detectt: unknown setting (did you mean detect?)"),
        ("label.measure=iuo", "label.measure: input should be"),
        ("label.min_overlap=.inf", "label.min_overlap"),
        ("manifest.protocol=nobody", "manifest.protocol 'nobody': no such protocol; known: "),
    ],
)
def test_a_wrong_setting_is_one_line_that_names_it(tmp_path: Path, override: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Study.load(study(tmp_path), [override])
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("assignment", ["detect.stride", "=3", "a..b=1", "detect.detector.boxes.deep=1", "a=[1"])
def test_a_wrong_assignment_is_refused(tmp_path: Path, assignment: str) -> None:
    with pytest.raises(ConfigError, match="--set"):
        Study.load(study(tmp_path), [assignment])


def test_a_key_given_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="the key 'detect' is given twice"):
        read_yaml(study(tmp_path, STUDY + "detect: {}\n"))


BOMB = "a: &a [1, 1, 1]\n" + "".join(f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in pairwise("abcdefghijkl"))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("- a\n", "expected settings as `name: value` lines, got list"),
        ("", "expected settings as `name: value` lines, got NoneType"),
        ("a: [\n", "not valid YAML"),
        ("a: \x0b\n", "not valid YAML"),
        ("a: !!python/object/apply:os.system [ls]\n", "got the tag !python/object/apply:os.system"),
        ("a: !!timestamp 2024-01-01\n", "got the tag !timestamp"),
        ("a: !!binary aGk=\n", "got the tag !binary"),
        ("a: !!bool maybe\n", "does not suit its tag"),
        ("a: " + "9" * 5000, "not valid YAML for settings"),
        ("a: " + "[" * 5000, "nested too deep"),
        ("a: &x [*x]\n", "an alias is inside the node that it names"),
        (BOMB, "its aliases stand for more than 200000 values"),
        ("a: '" + "x" * LARGEST_YAML + "'", "at most 4 MB"),
        ('extends: "a\\0b"\n', "null byte"),
        ("extends: study.yaml\n", "extends itself"),
    ],
    ids=lambda value: value[:20].replace("\n", " "),
)
def test_what_is_no_settings_or_not_safe_is_one_line(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_yaml(study(tmp_path, text))
    assert said in str(caught.value)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *[(word, word) for word in ("no", "yes", "on", "off", "1:30", "1_000", "2001-01-01", "0b1", "1e", "=")],
        *[("010", 10), ("0o17", 15), ("0x1f", 31), ("-3", -3), ("1e-5", 1e-5), ("1.", 1.0), (".5", 0.5)],
        *[("true", True), ("False", False), ("~", None), ("", None), ("null", None), (".inf", float("inf"))],
    ],
)
def test_plain_words_are_read_as_yaml_1_2_says(text: str, value: object) -> None:
    found = parse_yaml(f"a: {text}")
    assert found == {"a": value}
    assert type(found["a"]) is type(value)
    assert parse_yaml(yaml_text([value, text, {text: text}])) == [value, text, {text: text}]


def test_a_date_is_text(tmp_path: Path) -> None:
    assert read_yaml(study(tmp_path, "a: 2024-01-01\nb: 2024-01-01T10:00:00Z\n")) == {
        "a": "2024-01-01",
        "b": "2024-01-01T10:00:00Z",
    }


@pytest.mark.parametrize("text", ["red\\e[31m", "turn\\u202egnp.", "bell\\a", "half\\ud800"])
def test_text_that_a_terminal_would_obey_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match=r"title: expected printable text|not valid YAML") as caught:
        Study.load(study(tmp_path, STUDY + f'evaluate: {{tables: {{t: {{title: "{text}"}}}}}}\n'))
    assert str(caught.value).isprintable()


def test_set_creates_sections() -> None:
    settings: dict[str, object] = {}
    set_dotted(settings, "label.min_overlap=0.7")
    set_dotted(settings, "detect.detector={use: onnx}")
    assert settings == {"label": {"min_overlap": 0.7}, "detect": {"detector": {"use": "onnx"}}}


def test_files_that_count_by_content_are_not_part_of_the_result_settings(tmp_path: Path) -> None:
    one = Study.load(study(tmp_path), ["detect.detector={use: onnx, weights: a.onnx}"])
    two = Study.load(study(tmp_path), ["detect.detector={use: onnx, weights: b.onnx}"])
    assert one.detect != two.detect
    assert result_settings(one.detect) == result_settings(two.detect)
    assert result_settings(one.detect)["detector"]["use"] == "onnx"


def test_the_folder_of_the_weights_is_where_they_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the error says: MDFPIPE_WEIGHTS is the file's own folder, also where the study names one with it."""
    (tmp_path / "mine" / "weights").mkdir(parents=True)
    place = tmp_path / "mine" / "weights" / "v.onnx"
    place.touch()
    for folder in (place.parent, tmp_path / "mine"):
        monkeypatch.setattr("mdfpipe.config._weight_folders", lambda folder=folder: (folder,))
        assert find_file("weights/v.onnx", tmp_path, "weights") == place
    monkeypatch.setattr("mdfpipe.config._weight_folders", lambda: (place.parent,))
    with pytest.raises(
        ConfigError, match=r"not found; looked at .*/mine/weights/weights/w\.onnx, .*/mine/weights/w\.onnx"
    ):
        find_file("weights/w.onnx", tmp_path, "weights")


def test_a_file_is_found_beside_the_data_and_a_missing_one_says_where_it_was_looked_for(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "w.onnx").write_bytes(b"x")
    assert find_file("weights/w.onnx", tmp_path / "data", "weights") == tmp_path / "weights" / "w.onnx"
    with pytest.raises(ConfigError, match=r"'v.onnx' not found; looked at .*MDFPIPE_WEIGHTS"):
        find_file("v.onnx", tmp_path / "data", "weights")


def test_a_protocol_by_name_becomes_part_of_the_study(tmp_path: Path) -> None:
    pipeline = Study.load(study(tmp_path), ["manifest.protocol=ijbmdf-vis500-to-ir30"])
    assert pipeline.manifest.protocol.probe_domains == ["SWIR-30m", "MWIR-30m", "LWIR-30m"]
    assert "SWIR-30m" in pipeline.to_yaml()


def test_every_shipped_study_and_protocol_is_valid() -> None:
    root = Path(__file__).parents[1]
    studies = sorted((root / "pipelines").rglob("*.yaml"))
    assert studies
    for path in studies:
        Study.load(path)
    for path in sorted((root / "manifests").glob("*.yaml")):
        Study.load(studies[0], [f"manifest.protocol={path.stem}"])


def test_several_mistakes_are_all_named() -> None:
    with pytest.raises(ConfigError) as caught:
        validate(Study, {"detect": {"stride": 0}}, "here")
    assert str(caught.value).startswith("here: ")
    for field in ("name", "dataset", "detect.detector", "detect.stride"):
        assert f"{field}: " in str(caught.value)


def test_what_decides_no_result_is_not_part_of_the_result_settings(tmp_path: Path) -> None:
    one = Study.load(study(tmp_path), ["detect.detector={use: yolo}"])
    two = Study.load(study(tmp_path), ["detect.detector={use: yolo, model: s}"])
    assert one.detect != two.detect
    assert result_settings(one.detect) == result_settings(two.detect)
    assert "model" not in result_settings(one.detect)["detector"]


def test_a_section_that_yaml_merges_share_is_set_at_one_place_only(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("a: &a\n  recipe: &r {rate: {low: 1}}\nb:\n  recipe: *r\nc:\n  <<: *a\n")
    settings = read_yaml(path)
    set_dotted(settings, "c.recipe.rate.low=2")
    assert settings == {n: {"recipe": {"rate": {"low": 2 if n == "c" else 1}}} for n in "abc"}
