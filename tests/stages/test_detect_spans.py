"""Detect by spans: the rows and facts of one pass, for one worker and for several, after a kill, in damaged videos."""

from dataclasses import replace

import numpy as np
import pytest

from mdfpipe.errors import ConfigError
from mdfpipe.running.runner import Runner
from mdfpipe.stages import Resources
from mdfpipe.store.hashing import table_sha256
from mdfpipe.store.run import Run
from mdfpipe.study.study import Study
from mdfpipe.video.decoders import Decoder
from tests import clips
from tests.inline import Inline, runner
from tests.runs import DataSet, Said, digests, facts, run

FRAMES = 48
SPANS = "detect.span_frames=13"
OPEN = {"g": "8", "keyint_min": "8", "bf": "3", "sc_threshold": "0", "x264-params": "open-gop=1"}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A video with an open group of pictures, one of 16 bits, a folder, one that stays whole, and a damaged one."""
    made = DataSet(tmp_path_factory.mktemp("data"))
    made.good("open.mp4", FRAMES, options=OPEN)
    made.good("deep.mkv", FRAMES, codec="ffv1", pixel_format="gray16le", options={"level": "3", "g": "1"})
    made.good("whole.avi", FRAMES, codec="mpeg4", options={"g": "8", "bf": "2"})
    clips.write_images(made.video("folder"), [clips.picture(n // 2) for n in range(FRAMES)])
    made.annotate("folder", FRAMES)
    sound = clips.write_video(
        made.root / "sound.mkv", FRAMES, codec="ffv1", pixel_format="gray16le", options={"g": "1"}
    )
    made.bad("damaged.mkv", lambda path: clips.flipped(sound, path, [0.6]), FRAMES)
    made.write(detect={"detector": {"use": "precomputed", "boxes": "boxes.csv"}, "incomplete": "keep"})
    return made.root


def detect(data, folder, *more, workers=1) -> Said:
    return run(data, folder, "--until", "detect", *more, workers=workers).calm()


def test_rows_and_facts_are_those_of_one_pass(data, tmp_path):
    whole, spans = tmp_path / "whole", tmp_path / "spans"
    detect(data, whole)
    said = detect(data, spans, "--set", SPANS)
    assert "have no spans" in said.out + said.err, said
    for key, count in {"open": 6, "deep": 4, "whole": 0, "folder": 4, "damaged": 0}.items():
        one, cut = (facts(folder, "detect", f"videos/{key}") for folder in (whole, spans))
        assert cut.pop("spans") == count, key
        one.pop("spans"), cut.pop("whole", None)
        assert one == cut, key
    assert not (spans / "detect" / ".spans").exists()
    for key in ("open", "deep", "folder", "damaged"):
        one, cut = (table_sha256(Run(folder).table("detect", f"videos/{key}")) for folder in (whole, spans))
        assert one == cut, key


@pytest.mark.parametrize("at", [1, 3])
def test_a_run_that_was_killed_goes_on_from_its_spans(data, tmp_path, monkeypatch, at):
    through, cut = tmp_path / "through", tmp_path / "cut"
    detect(data, through, "--set", SPANS, "--only", "videos/open")
    given = Decoder.variant("pyav").read_span
    read, limit = [], at

    def breaks(self, path, cuts, span, wanted, threads):
        read.append(span.number)
        if len(read) > limit:
            raise KeyboardInterrupt
        return given(self, path, cuts, span, wanted, threads)

    monkeypatch.setattr(Decoder.variant("pyav"), "read_span", breaks)
    made, _ = runner(data, cut, SPANS, study=data / "study.yaml")
    with pytest.raises(KeyboardInterrupt):
        made.execute(None, "detect", only=["videos/open"])
    kept = sorted(path.name for path in (cut / "detect" / ".spans").rglob("*.parquet"))
    read.clear()
    limit = 99
    detect(data, cut, "--set", SPANS, "--only", "videos/open")
    assert len(kept) + len(read) == 6, (kept, read)
    assert digests(through) == digests(cut)


def test_several_workers_share_a_video_and_make_the_same_bytes(data, tmp_path):
    one, three = tmp_path / "one", tmp_path / "three"
    detect(data, one, "--set", SPANS)
    detect(data, three, "--set", SPANS, workers=3)
    assert digests(one) == digests(three)
    assert not (three / "detect" / ".spans").exists()
    started = [event["key"] for event in Run(three).events() if event["event"] == "started"]
    assert started.count("videos/open") > 2, started


class InShares(Inline):
    """Does these shares of each unit of detect, and then the unit."""

    def __init__(self, shares):
        super().__init__(Resources(separate=True))
        self.shares = shares

    def run(self, units):
        units = list(units)
        shares = [replace(unit, share=share) for unit in units if unit.stage.name == "detect" for share in self.shares]
        yield from super().run([*shares, *units])


@pytest.mark.parametrize(
    ("shares", "alone"),
    [
        ([(n, 2) for n in range(2)], [3, 3]),
        ([(n, 4) for n in (3, 0, 2, 1)], [2, 1, 1, 2]),
        ([(n, 9) for n in range(9)], [0, 1, 1, 0, 1, 1, 0, 1, 1]),
        ([(1, 3)], [2]),  # what lost shares leave, the unit that joins them does
        ([(0, 1), (0, 1)], [6, 0]),
    ],
    ids=["two", "four", "more than spans", "one of three", "one, twice"],
)
def test_a_share_does_its_spans_once_and_the_unit_the_rest(data, tmp_path, monkeypatch, shares, alone):
    given, read = Decoder.variant("pyav").read_span, []

    def notes(self, path, cuts, span, wanted, threads):
        read.append(span.number)
        return given(self, path, cuts, span, wanted, threads)

    monkeypatch.setattr(Decoder.variant("pyav"), "read_span", notes)
    executor, before = InShares(shares), []
    study = Study.load(data / "study.yaml", [SPANS])
    made = Runner(study, Run(tmp_path / "shares"), data, executor.resources, executor)
    made.execute(None, "index")
    only = ["videos/open"]
    took = []

    def listen(event):
        if event.kind == "started":
            before.append(len(read))
        took.append(event.seconds)

    made.execute(None, "detect", only=only, listen=listen)
    *of_shares, of_all = [seconds for seconds in took if seconds]
    assert len(of_shares) == len(shares)
    assert of_all > sum(of_shares)
    assert np.diff([*before, len(read)]).tolist() == [*alone, 6 - sum(alone)]
    assert sorted(read) == list(range(6))
    detect(data, tmp_path / "one", "--set", SPANS, "--only", "videos/open")
    assert digests(tmp_path / "shares") == digests(tmp_path / "one")
    assert not (tmp_path / "shares" / "detect" / ".spans").exists()


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"device": None}, "Resources: device: expected a text such as cpu or cuda:0, got None"),
        ({"device": 0}, "Resources: device: expected a text such as cpu or cuda:0, got 0"),
        ({"workers": "2"}, "Resources: workers: expected a whole number of 1 or more, got '2'"),
        ({"per_device": 0}, "Resources: per_device: expected a whole number of 1 or more, got 0"),
        ({"batch": None}, "Resources: batch: expected a whole number of 1 or more, got None"),
    ],
)
def test_resources_that_nothing_can_use_are_refused(asked, words):
    with pytest.raises(ConfigError, match=words):
        Resources(**asked)
