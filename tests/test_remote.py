"""Remote videos: the same rows as of local ones, through a cache that keeps its limit; errors are one line each."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from mdfpipe.errors import ConfigError, DataError, StoreError
from mdfpipe.inspecting.pictures import draw_frame
from mdfpipe.running.pushing import push
from mdfpipe.store import fetching
from mdfpipe.store.run import Run
from mdfpipe.store.urls import plain_url
from mdfpipe.store.video_cache import VideoCache
from mdfpipe.study.study import Study
from tests.drawn import draw
from tests.inline import DEMO, Inline, runner
from tests.remote import Server, certificate, serving
from tests.runs import call_here


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("drawn")
    draw(folder, frames=6)
    return folder


@pytest.fixture
def server(drawn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("MDFPIPE_VIDEO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(fetching, "_WAITS", [0.0, 0.0])
    shutil.copytree(drawn, tmp_path / "served")
    with serving(tmp_path / "served") as found:
        yield found


@pytest.fixture
def remote(drawn: Path, server: Server, tmp_path: Path) -> Path:
    """The drawn data set, whose tables name URLs."""
    data = tmp_path / "data"
    shutil.copytree(drawn, data, ignore=shutil.ignore_patterns("videos"))
    for name in ("faces.csv", "boxes.csv"):
        table = data / name
        table.write_text(table.read_text().replace("videos/", server.url("videos/")))
    return data


def run(data: Path, folder: Path, *settings: str) -> tuple[dict[str, str], Inline]:
    """The failures of a run up to the manifest, by unit, and what ran."""
    make, executor = runner(data, folder, "dataset.remote=[http]", *settings)
    outcome = make.execute(last="crop")
    return {f"{f.stage}/{f.key}": f.message for f in outcome.failures}, executor


def fetched(server: Server) -> int:
    return sum(method == "GET" for method, _ in server.asked)


def test_rows_of_remote_videos_are_those_of_local_ones(
    drawn: Path, remote: Path, server: Server, tmp_path: Path
) -> None:
    assert run(drawn, tmp_path / "local")[0] == {}
    assert run(remote, tmp_path / "remote")[0] == {}
    local, other = Run(tmp_path / "local"), Run(tmp_path / "remote")
    for name in ("VIS-500m_a", "LWIR-30m_b"):
        rows = local.table("crop", f"videos/{name}"), other.table("crop", f"127.0.0.1/videos/{name}")
        assert rows[0]["crc32"].to_pylist() == rows[1]["crc32"].to_pylist() != []
    assert fetched(server) == 4  # each once: index, detect and crop share the cache
    asked = len(server.asked)
    _, executor = run(remote, tmp_path / "remote")
    assert (executor.ran, len(server.asked)) == ([], asked)  # nothing due, nothing asked
    assert not list((tmp_path / "cache").glob(".part-*"))
    draw_frame(tmp_path / "remote", "127.0.0.1/videos/VIS-500m_a", 2, tmp_path / "frame.png")
    shutil.rmtree(tmp_path / "cache")
    with pytest.raises(DataError, match="is not in the video cache"):
        draw_frame(tmp_path / "remote", "127.0.0.1/videos/VIS-500m_a", 2, tmp_path / "frame.png")


def test_a_small_cache_makes_room_and_the_run_ends_alike(
    remote: Path, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = [file.stat().st_size for file in (tmp_path / "served" / "videos").iterdir()]
    monkeypatch.setenv("MDFPIPE_VIDEO_CACHE_GB", str(max(sizes) * 1.1 / 1e9))
    cache, most = tmp_path / "cache", 0
    monkeypatch.setattr("mdfpipe.stages.index._IO_THREADS", 1)
    assert run(remote, tmp_path / "run")[0] == {}
    most = sum(file.stat().st_size for file in cache.iterdir())
    assert most <= max(sizes) * 1.1
    assert fetched(server) > 4
    monkeypatch.setenv("MDFPIPE_VIDEO_CACHE_GB", "0.000001")
    failures, _ = run(remote, tmp_path / "other")
    assert all("raise MDFPIPE_VIDEO_CACHE_GB" in line for line in failures.values())
    assert len(failures) == 4


FAULTS = [
    ("404", "no such file on the server; correct its name"),
    ("401", "the server refuses access (401); give it by ~/.netrc"),
    ("403", "the server refuses access (403)"),
    ("500", "the server answers 500"),
    ("short", "give the same command again: it resumes"),
    ("silent", "no answer for 0.2 s"),
    ("page", "expected a video, got a web page"),
    ("ftp://127.0.0.1/a.mp4", "the server redirects"),
    ("file:///etc/passwd", "the server redirects"),
    ("https://127.0.0.1:1/videos/VIS-500m_a.mp4", "cannot be fetched: ClientConnectorError: "),
]


@pytest.mark.parametrize(("fault", "says"), FAULTS)
def test_an_error_is_one_line(fault: str, says: str, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching, "_SILENCE", 0.2)
    monkeypatch.setattr(fetching, "_clients", {})
    server.faults["videos/VIS-500m_a.mp4"] = fault
    url, cache = server.url("videos/VIS-500m_a.mp4"), VideoCache()
    with pytest.raises(DataError) as error, cache.at(url, cache.stamp(url)):
        pass
    line = str(error.value)
    assert line.startswith(f"{url}: ")
    assert says in line
    assert "\n" not in line


def test_an_error_is_of_one_video_and_gone_with_its_cause(remote: Path, server: Server, tmp_path: Path) -> None:
    server.faults["videos/VIS-500m_a.mp4"] = "404"
    (remote / "out.txt").write_text("127.0.0.1/videos/VIS-500m_b\n127.0.0.1/videos/LWIR-30m_a\n")
    failures, executor = run(remote, tmp_path / "run", "dataset.leave_out.file=out.txt")
    assert [*failures] == ["detect/127.0.0.1/videos/VIS-500m_a"]
    assert failures["detect/127.0.0.1/videos/VIS-500m_a"].startswith(server.url("videos/VIS-500m_a.mp4: no such file"))
    assert "detect/127.0.0.1/videos/LWIR-30m_b" in " ".join(executor.ran)
    server.faults.clear()  # the same command mends it
    assert run(remote, tmp_path / "run", "dataset.leave_out.file=out.txt")[0] == {}


def test_a_certificate_that_is_not_trusted_is_one_line_and_one_that_is_named_works(
    server: Server, tmp_path: Path
) -> None:
    path = "videos/LWIR-30m_a.mkv"
    with pytest.raises(DataError, match=r"TLS as expected: .*; does its URL begin with http"):
        VideoCache().stamp(server.url(path).replace("http", "https"))
    named = certificate(tmp_path)
    with serving(server.folder, named) as other:
        with pytest.raises(
            DataError, match=r"certificate is not trusted: .*; name your site's certificates in SSL_CERT"
        ):
            VideoCache().stamp(other.url(path))
        assert other.asked == []
        other.faults["step-down"] = server.url(path)
        script = (
            "import sys\nfrom mdfpipe.store.video_cache import VideoCache\n"
            "cache, (url, less) = VideoCache(), sys.argv[1:]\n"
            "with cache.at(url, cache.stamp(url)) as place: print(place.stat().st_size)\n"
            "try: cache.stamp(less)\nexcept Exception as error: print(type(error).__name__, error)\n"
        )
        (tmp_path / "served" / "step-down").touch()
        made = subprocess.run(
            [sys.executable, "-c", script, other.url(path), other.url("step-down")],
            capture_output=True,
            text=True,
            env=os.environ | {"SSL_CERT_FILE": str(named)},
            check=False,
        )
    size, refused = made.stdout.splitlines() or [made.stderr, ""]
    assert int(size) == (server.folder / path).stat().st_size
    assert refused.startswith("DataError https://127.0.0.1:")
    assert "redirects from https to 'http://127.0.0.1:" in refused


def test_a_login_of_one_host_is_not_sent_to_another(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login ann password secret\n")
    (tmp_path / "netrc").chmod(0o600)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    path, cache = "videos/LWIR-30m_a.mkv", VideoCache()
    with serving(server.folder) as other:
        server.faults[path] = other.url(path).replace("127.0.0.1", "localhost")
        url = server.url(path)
        with cache.at(url, cache.stamp(url)) as place:  # a server may send elsewhere
            assert place.read_bytes() == (server.folder / path).read_bytes()
        assert set(server.given) == {"Basic YW5uOnNlY3JldA=="}
        assert set(other.given) == {""}
    server.faults[path] = "403"
    with pytest.raises(DataError) as error:
        cache.stamp(url)
    assert "secret" not in str(error.value)


@pytest.mark.parametrize(
    ("url", "missing", "install"),
    [
        ("s3://bucket/a.mp4", "s3fs", "pip install 'mdfpipe[remote]' s3fs"),
        ("gs://bucket/a.mp4", "gcsfs", "pip install 'mdfpipe[remote]' gcsfs"),
        ("sftp://host/a.mp4", "paramiko", "pip install 'mdfpipe[remote]' paramiko"),
        ("https://127.0.0.1:1/a.mp4", "aiohttp", "pip install 'mdfpipe[remote]'"),
        ("https://127.0.0.1:1/a.mp4", "fsspec", "pip install 'mdfpipe[remote]'"),
        ("s3://bucket/a.mp4", "fsspec", "pip install 'mdfpipe[remote]' s3fs"),
    ],
)
def test_a_package_that_is_missing_is_one_line(
    url: str, missing: str, install: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(DataError) as error:
        VideoCache().stamp(url)
    line = str(error.value)
    assert line.startswith(f"{url}: ")
    assert line.endswith(f"needs more packages: {install}")
    assert "\n" not in line


def test_several_at_once_share_a_cache_that_holds_less_than_all(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What one reads stays until it is read; what makes room is fetched again; nothing of another one is removed."""
    files = sorted((server.folder / "videos").iterdir())
    sizes = sorted(file.stat().st_size for file in files)
    monkeypatch.setenv("MDFPIPE_VIDEO_CACHE_GB", str(sum(sizes[-3:]) * 1.01 / 1e9))

    def read(first: int) -> int:
        cache = VideoCache()
        for number in range(first, first + 3 * len(files)):
            file = files[number * (1 + first) % len(files)]
            url, data = server.url(f"videos/{file.name}"), file.read_bytes()
            with cache.at(url, cache.stamp(url), hashlib.sha256(data).hexdigest()) as place:
                time.sleep(0.002)
                assert place.read_bytes() == data
        return 3 * len(files)

    with ThreadPoolExecutor(3) as pool:
        assert sum(pool.map(read, (0, 1, 2))) == 9 * len(files)
    assert fetched(server) > len(files)
    assert not list((tmp_path / "cache").glob(".part-*"))


@pytest.mark.parametrize("fault", ["dies", "no ranges", "no head", ""])
def test_a_file_arrives_whole(fault: str, server: Server, tmp_path: Path) -> None:
    path, cache = "videos/LWIR-30m_a.mkv", VideoCache()
    server.faults[path] = fault
    url = server.url(path)
    with cache.at(url, cache.stamp(url)) as place:
        assert place.read_bytes() == (server.folder / path).read_bytes()
    if fault == "dies":
        ranges = [int(asked[6:-1]) for _, asked in server.asked if asked]
        assert len(ranges) == 2
        assert 0 < ranges[0] < ranges[1]


@pytest.mark.parametrize("ranges", [True, False])
def test_what_a_killed_process_left_is_continued(ranges: bool, server: Server, tmp_path: Path) -> None:
    path, cache = "videos/LWIR-30m_a.mkv", VideoCache()
    url, data = server.url(path), (server.folder / path).read_bytes()
    server.faults[path] = "short"
    for _ in range(2):
        with pytest.raises(DataError, match="resumes"), cache.at(url, cache.stamp(url)):
            pass
    (rest,) = (tmp_path / "cache").iterdir()
    assert data.startswith(rest.read_bytes())
    server.faults[path] = "" if ranges else "no ranges"
    asked = len(server.asked)
    with cache.at(url, cache.stamp(url), hashlib.sha256(data).hexdigest()) as place:
        assert place.read_bytes() == data
    assert any(asked for _, asked in server.asked[asked:])
    assert len(list((tmp_path / "cache").iterdir())) == 1


@pytest.mark.parametrize("etags", [True, False])
def test_a_video_that_was_replaced_makes_the_index_due(
    etags: bool, remote: Path, server: Server, tmp_path: Path
) -> None:
    server.etags = etags
    (remote / "out.txt").write_text("127.0.0.1/videos/VIS-500m_b\n127.0.0.1/videos/LWIR-30m_a\n")
    settings = ["dataset.leave_out.file=out.txt"]
    assert run(remote, tmp_path / "run", *settings)[0] == {}
    a, b = (server.folder / "videos" / f"VIS-500m_{name}.mp4" for name in "ab")
    size = a.stat().st_size
    a.write_bytes(b.read_bytes() if etags else b.read_bytes()[: size - 8].ljust(size, b"\0"))
    shutil.rmtree(tmp_path / "cache")
    key = "127.0.0.1/videos/VIS-500m_a"
    failures, _ = run(remote, tmp_path / "run", *settings, "crop.face_margin=0.3")
    assert [*failures] == [f"crop/{key}"]
    assert "since it was indexed" in failures[f"crop/{key}"] or "when it was indexed" in failures[f"crop/{key}"]
    _, executor = run(remote, tmp_path / "run", *settings, "crop.face_margin=0.3")
    assert executor.ran[0] == "index/videos"
    assert f"detect/{key}" in executor.ran


def test_damage_in_the_cache_is_fetched_again(server: Server, tmp_path: Path) -> None:
    cache, url = VideoCache(), server.url("videos/VIS-500m_a.mp4")
    data = (server.folder / "videos/VIS-500m_a.mp4").read_bytes()
    stamp, digest = cache.stamp(url), hashlib.sha256(data).hexdigest()
    with cache.at(url, stamp, digest):
        pass
    (entry,) = (tmp_path / "cache").iterdir()
    entry.write_bytes(b"x" * len(data))
    with cache.at(url, stamp, digest) as place:
        entry.unlink()  # as another process does that needs room
        assert place.read_bytes() == data
    assert not list((tmp_path / "cache").iterdir())


def test_a_full_disk_is_one_line(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(fetching, "_get_from_web", full)
    url = server.url("videos/VIS-500m_a.mp4")
    with (
        pytest.raises(StoreError, match="No space left on device; free some space"),
        VideoCache().at(url, VideoCache().stamp(url)),
    ):
        pass


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("https://evil.org/a.mp4", "dataset.remote allows https://data.org/ijb; allow"),
        ("https://data.org.evil.org/ijb/a.mp4", "dataset.remote allows"),
        ("https://data.org/ijb2/a.mp4", "dataset.remote allows"),
        ("https://data.org@evil.org/ijb/a.mp4", "names a user or a password"),
        ("https://ann:secret@data.org/ijb/a.mp4", "'https://data.org/ijb/a.mp4', which names a user"),
        ("https://data.org/ijb/a.mp4?X-Amz-Signature=secret", "'https://data.org/ijb/a.mp4', which has a query"),
        ("https://data.org/ijb/../a.mp4", "climbs"),
        ("https://data.org/ijb/%2E%2e/a.mp4", "climbs"),
        ("https://data.org/ijb/", "names no file"),
        ("https://data.org/ijb/a.zip::file:///etc/passwd", "names a file inside another one"),
        ("file:///etc/passwd", "is of a protocol that is never opened"),
        ("local:///etc/passwd", "is of a protocol that is never opened"),
        ("memory://a.mp4", "is of a protocol that is never opened"),
        ("http://data.org/ijb/a.mp4", "dataset.remote allows"),
        ("HTTPS://DATA.org/ijb/a.mp4", ""),
        ("https://data.org/ijb/day 1/a.mp4", ""),
    ],
)
def test_what_a_table_may_name(url: str, says: str) -> None:
    if not says:
        assert plain_url(url, "faces.csv row 2", ["https://data.org/ijb"]).startswith("https://data.org/ijb/")
        return
    with pytest.raises(DataError) as error:
        plain_url(url, "faces.csv row 2", ["https://data.org/ijb"])
    assert says in str(error.value)
    assert str(error.value).startswith("faces.csv row 2: ")
    assert "secret" not in str(error.value)


def test_without_the_setting_no_url_is_taken_and_nothing_is_asked(remote: Path, server: Server, tmp_path: Path) -> None:
    make, _ = runner(remote, tmp_path / "run")
    with pytest.raises(DataError, match=r"faces.csv row 2, FILENAME: .*dataset.remote allows URLs"):
        make.execute()
    assert server.asked == []


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("dataset.remote=[file]", "expected a protocol"),
        ("dataset.remote=['https://ann:x@data.org/']", "without user, password"),
        ("dataset.videos=['https://data.org/a.mp4']", "dataset.remote allows URLs"),
        ("dataset.videos=['https://data.org/*.mp4']", "expected one URL, got the pattern"),
    ],
)
def test_a_bad_setting_is_one_line(setting: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        Study.load(DEMO, [setting])


def test_videos_names_urls_beside_files(remote: Path, server: Server, tmp_path: Path) -> None:
    """A data set may be spread: here one video is below the data root, another is named by a setting alone."""
    (remote / "videos").mkdir()
    shutil.copy(server.folder / "videos/VIS-500m_a.mp4", remote / "videos/VIS-500m_c.mp4")
    shutil.copy(server.folder / "videos/VIS-500m_a.mp4", server.folder / "videos/VIS-500m_d.mp4")
    (remote / "out.txt").write_text(server.url("videos/LWIR-30m_a.mkv") + "\n127.0.0.1/videos/LWIR-30m_b\n")
    extra = f"dataset.videos=['videos/*', '{server.url('videos/VIS-500m_d.mp4')}']"
    run(remote, tmp_path / "run", extra, "dataset.leave_out.file=out.txt")
    paths = {row["video_id"]: row["problem"] for row in Run(tmp_path / "run").table("index", "videos").to_pylist()}
    far = {f"127.0.0.1/videos/VIS-500m_{name}": None for name in "abd"}
    assert paths == {**far, "videos/VIS-500m_c": None}


def test_a_cache_that_cannot_be(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = server.url("videos/VIS-500m_a.mp4")
    (tmp_path / "file").touch()
    monkeypatch.setenv("MDFPIPE_VIDEO_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(StoreError, match="MDFPIPE_VIDEO_CACHE"), VideoCache().at(url, VideoCache().stamp(url)):
        pass
    monkeypatch.setenv("MDFPIPE_VIDEO_CACHE_GB", "lots")
    with pytest.raises(ConfigError, match="expected a number of gigabytes above 0, got 'lots'"):
        VideoCache()
    assert os.environ["MDFPIPE_VIDEO_CACHE"]


def test_push_copies_what_is_finished_and_replaces_nothing(labelled: Path, tmp_path: Path) -> None:
    source, target = labelled / "run", tmp_path / "copy"
    tried = call_here("push", source, target, "--dry-run", "--json").json
    assert not target.exists()
    first = call_here("push", source, target, "--json").json
    assert (first["sent"], first["sent_bytes"], first["equal"]) == (tried["sent"], tried["sent_bytes"], 0)
    assert first["complete"]
    for file in target.rglob("*"):
        if file.is_file():
            assert file.read_bytes() == (source / file.relative_to(target)).read_bytes()
    kept = {file.relative_to(source) for file in source.rglob("*.parquet")}
    assert {file.relative_to(target) for file in target.rglob("*.parquet")} == kept
    second = call_here("push", source, target, "--json").json
    assert (second["sent"], second["equal"]) == (0, first["sent"])

    part, shard = target / "crop/videos__VIS-500m_a.parquet", target / "crop/videos__VIS-500m_a.body.tar"
    part.unlink()  # as of a push that was killed before it
    assert call_here("push", source, target, "--json").json["sent"] == 1
    part.unlink()
    shard.write_bytes(b"x" * shard.stat().st_size)
    said = call_here("push", source, target)
    assert said.code == 3
    assert "refused: crop/videos__VIS-500m_a.body.tar: is there with other content" in said.out
    assert not part.exists()  # a part is never there without its files
    assert shard.read_bytes()[:1] == b"x"


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("https://ann:secret@data.org/runs", "https://data.org/runs: expected a folder that can be written"),
        ("nonsense://a", "nonsense://a: cannot be opened"),
        ("file:///proc/nowhere", "file:///proc/nowhere: cannot be written"),
    ],
)
def test_push_says_in_one_line_what_it_cannot(url: str, says: str, labelled: Path) -> None:
    line = call_here("push", labelled / "run", url).line()
    assert says in line
    assert "secret" not in line


def test_push_to_another_file_system(labelled: Path) -> None:
    done = push(labelled / "run", "memory://less/walk")
    assert done.complete
    assert push(labelled / "run", "memory://less/walk").equal == done.sent > 0
