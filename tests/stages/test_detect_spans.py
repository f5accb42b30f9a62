"""Detect by spans: the rows and facts of one pass, for one worker and for several, after a kill, in damaged videos."""

import pytest

from mdfpipe.store.hashing import table_sha256
from mdfpipe.store.run import Run
from mdfpipe.video.decoders import Decoder
from tests import clips
from tests.inline import runner
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
