"""The real lists are read whole, with exact counts; every flaw is a problem with a name, none an exception."""

from __future__ import annotations

import io
import json
import tarfile
import zipfile
from collections import Counter

import pytest

from dualforce_model.download import celebv, hdtf, links, vfhq
from dualforce_model.download.config import DownloadConfig
from dualforce_model.download.listed import Box, Span, link, safe_key, seconds_of
from dualforce_model.download.lists import read_lists
from dualforce_model.errors import BadInput


@pytest.fixture(scope="module")
def real(shared_data):
    return hdtf.read(shared_data / "manifests" / "HDTF")


def reasons(manifest):
    return dict(Counter(problem.reason for problem in manifest.problems))


def test_the_real_hdtf_list_has_exactly_its_videos_and_clips(real):
    assert Counter(video.group for video in real.videos) == {"RD": 57, "WDA": 182, "WRA": 130}
    assert real.clips == 436
    clips = [clip for video in real.videos for clip in video.clips]
    assert (
        sum(clip.box is None for clip in clips) == 15 + 2
    )  # without a crop line, and without a resolution to scale it by
    assert all(clip.span is not None for clip in clips)
    assert sum(not video.clips for video in real.videos) == 1  # Radio24 has no times
    assert reasons(real) == {
        "list_no_crop": 15,
        "list_no_times": 1,
        "list_same_video": 1,
        "list_bad_resolution": 1,
        "list_crop_without_resolution": 2,
    }
    assert round(sum(clip.span.seconds for clip in clips)) == 61453


def test_marks_blanks_and_seconds_in_links_change_nothing(real):
    by_clip = {clip.name: (video, clip) for video in real.videos for clip in video.clips}
    assert by_clip["CarolynMaloney2_0"][0].key == "RApGxN-O9Qc"  # the first line, behind the byte-order mark
    assert by_clip["Radio2_0"][0].url == "https://www.youtube.com/watch?v=uBWJJvynXpA"  # listed with &t=6s
    video, clip = by_clip["AdamKinzinger2_2"]  # its line ends in a blank
    assert clip.span == Span(210, 230)
    assert clip.box == Box((396, 32, 861, 497), "pixels", 720)
    assert video.height == 720


def test_clips_of_one_person_are_one_group_under_any_name(real):
    person = {clip.name: clip.person for video in real.videos for clip in video.clips}
    assert person["AmyKlobuchar0_0"] == person["AmyKlobuchar1_0"] == "AmyKlobuchar"
    assert person["Radio1_0"] != person["Radio2_0"]
    assert person["WhipJimClyburn_0"] == person["JamesClyburn1_0"]  # one video under two names


def test_two_names_of_one_video_join_all_the_videos_of_either(tmp_path):
    urls = {"Jim0": "a", "James1": "a", "James2": "b", "Jimmy": "b", "Ann": "c"}
    text = "".join(f"{name} https://youtu.be/{letter * 11}\n" for name, letter in urls.items())
    times = "".join(f"{name}.mp4 00:01-00:02\n" for name in urls)
    for name, content in (("video_url", text), ("annotion_time", times)):
        (tmp_path / f"WDA_{name}.txt").write_text(content)
    person = {clip.name: clip.person for video in hdtf.read(tmp_path).videos for clip in video.clips}
    assert len({person[f"{name}_0"] for name in ("Jim0", "James1", "James2", "Jimmy")}) == 1
    assert person["Ann_0"] == "Ann"


def hdtf_folder(path, **files):
    for name, text in files.items():
        (path / f"RD_{name}.txt").write_text(text, encoding="utf-8")
    return path


def test_every_flaw_of_an_hdtf_list_is_a_problem_and_the_rest_is_read(tmp_path):
    folder = hdtf_folder(
        tmp_path,
        video_url="\ufeffA https://youtu.be/aaaaaaaaaaa?t=3\r\nB https://www.youtube.com/watch?v=bbbbbbbbbbb&t=6s \r\n\r\n"
        "C not-a-link\nD\nB https://www.youtube.com/watch?v=ccccccccccc\nE https://www.youtube.com/watch?v=eeeeeeeeeee\n",
        annotion_time="A.mp4 00:05-00:10 1:00:02-1:00:09 \nB.mp4 00:09-00:03 xx:10-00:20 00:01-00:02\n"
        "F.mp4 00:01-00:02 00:03-00:04\n",
        crop_wh="A_0.mp4 10 100 20 100\nA_1.mp4 1 2 3\nZ_0.mp4 1 2 3 4\nB_2.mp4 5 50 5 50\n",
        resolution="A.mp4 720\nB.mp4 0\n",
    )
    manifest = hdtf.read(folder)
    assert [(video.key, [clip.name for clip in video.clips]) for video in manifest.videos] == [
        ("aaaaaaaaaaa", ["A_0", "A_1"]),
        ("bbbbbbbbbbb", ["B_2"]),  # the number is the place in the line, whatever became of those before
        ("eeeeeeeeeee", []),
    ]
    assert manifest.videos[0].clips[1].span == Span(3602, 3609)
    assert reasons(manifest) == {
        "list_bad_line": 2,
        "list_name_twice": 1,
        "list_bad_time": 2,
        "list_bad_crop": 1,
        "list_no_crop": 1,
        "list_bad_resolution": 1,
        "list_crop_without_resolution": 1,
        "list_no_times": 1,
        "list_no_link": 1,
        "list_crop_without_times": 1,
    }
    assert sum(problem.lost for problem in manifest.problems) == 2 + 2  # two bad times, and the two clips of F
    (line,) = (p for p in manifest.problems if p.reason == "list_name_twice")
    assert line.where == "RD_video_url.txt:6"


def test_missing_sister_files_are_said(tmp_path):
    manifest = hdtf.read(hdtf_folder(tmp_path, video_url="A https://youtu.be/aaaaaaaaaaa\n"))
    assert reasons(manifest) == {"list_file_missing": 3, "list_no_times": 1}


def test_the_real_celebv_excerpt(shared_data):
    path = shared_data / "manifests" / "CelebV-Text" / "celebvtext_info-sample.json"
    manifest = celebv.read(path, "celebv_text")
    assert (len(manifest.videos), manifest.clips) == (42, 42)
    assert reasons(manifest) == {"list_same_clip": 1}
    assert len(json.loads(path.read_text())) == 43
    clip = manifest.videos[0].clips[0]
    assert (clip.name, clip.span) == ("oC9r-CTbToE_0_0", Span(58.07, 76.27))
    assert clip.box == Box((0.18, 0.0, 0.795, 0.9569), "share")  # wider by 0.02, but never beyond the picture


def test_celebv_hq_form_and_its_flaws(tmp_path):
    good = {
        "ytb_id": "aaaaaaaaaaa",
        "duration": {"start_sec": 1, "end_sec": 4.5},
        "bbox": {"top": 0, "bottom": 1, "left": 0.2, "right": 0.7},
    }
    clips = {
        "aaaaaaaaaaa_0": good,
        "no_box": {**good, "duration": {"start_sec": 5, "end_sec": 6}, "bbox": {"top": 0.5}},
        "upside_down": {
            **good,
            "duration": {"start_sec": 7, "end_sec": 8},
            "bbox": {"top": 0.9, "bottom": 0.1, "left": 0, "right": 1},
        },
        "backwards": {**good, "duration": {"start_sec": 4, "end_sec": 1}},
        "no_time": {**good, "duration": {}},
        "bad_id": {**good, "ytb_id": "../../etc"},
        "nan": {**good, "duration": {"start_sec": float("nan"), "end_sec": 3}},
        "no object": 5,
    }
    path = tmp_path / "list.json"
    path.write_text("\ufeff" + json.dumps({"meta_info": {"appearance_mapping": []}, "clips": clips}), encoding="utf-8")
    manifest = celebv.read(path)
    assert (len(manifest.videos), manifest.clips) == (1, 3)
    assert reasons(manifest) == {"list_no_crop": 2, "list_bad_clip": 5}


VFHQ = "H 1080\nW 1920\nFPS 25.0\nCROP: 583 66 1218 701\n100 1.0 2.0 3.0\n"


def vfhq_files():
    return {
        "Clip+-2iTxFvVcXU+P0+C0+F100-124.txt": VFHQ,
        "Clip+-2iTxFvVcXU+P1+C1+F500-599.txt": VFHQ.replace("25.0", "23.976").replace("CROP: 583", "CROP 1300"),
        "Clip+bbbbbbbbbbb+P0+C0+F9-3.txt": VFHQ,
        "Clip+ccccccccccc+P0+C0+F3-9.txt": VFHQ.replace("FPS 25.0", ""),
        "readme.txt": "hello",
    }


def check_vfhq(manifest):
    assert [(video.key, video.height, len(video.clips)) for video in manifest.videos] == [("-2iTxFvVcXU", 1080, 2)]
    first, second = manifest.videos[0].clips
    assert first.span == Span(4.0, 5.0, frames=True)  # frames 100 to 124, both of them
    assert first.box == Box((583, 66, 1218, 701), "pixels", 1080)
    assert (first.person, second.person) == ("-2iTxFvVcXU_P0", "-2iTxFvVcXU_P1")
    assert second.box is None  # its right side lies left of its left one
    assert reasons(manifest) == {"list_bad_clip": 2, "list_bad_name": 1, "list_no_crop": 1}


def test_vfhq_folder(tmp_path):
    for name, text in vfhq_files().items():
        (tmp_path / name).write_text(text)
    check_vfhq(vfhq.read(tmp_path))


@pytest.mark.parametrize("kind", ["zip", "tar.gz"])
def test_vfhq_archives_are_read_where_they_lie_whatever_their_members_are_called(tmp_path, kind):
    place = tmp_path / "lists"
    place.mkdir()
    path = place / f"meta.{kind}"
    files = {f"../../{name}": text for name, text in vfhq_files().items()}
    if kind == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            for name, text in files.items():
                archive.writestr(name, text)
    else:
        with tarfile.open(path, "w:gz") as tar:
            for name, text in files.items():
                member = tarfile.TarInfo(name)
                member.size = len(text)
                tar.addfile(member, io.BytesIO(text.encode()))
            tie = tarfile.TarInfo("Clip+ddddddddddd+P0+C0+F1-2.txt")
            tie.type, tie.linkname = tarfile.SYMTYPE, "/etc/passwd"
            tar.addfile(tie)
    before = sorted(tmp_path.rglob("*"))
    check_vfhq(vfhq.read(path))
    assert sorted(tmp_path.rglob("*")) == before


def test_links_with_names_remarks_and_twins(tmp_path):
    path = tmp_path / "links.txt"
    path.write_text(
        "# mine\nhttp://example.org/a.mp4\n  ana http://example.org/b/../b.mp4?x=1 \nhttp://example.org/a.mp4\n"
        "ana http://example.org/c.mp4\nbob http://example.org/a.mp4\nftp://example.org/d.mp4\none two three\n"
        "https://youtu.be/aaaaaaaaaaa\n"
    )
    manifest = links.read(path)
    assert [video.key for video in manifest.videos] == [safe_key("http://example.org/a.mp4"), "ana", "aaaaaaaaaaa"]
    assert reasons(manifest) == {"list_name_twice": 1, "list_same_video": 1, "list_bad_line": 2}
    assert all(video.clips[0].span is None for video in manifest.videos)


@pytest.mark.parametrize(
    "hostile", ["../../etc/passwd", "a/b", "x" * 300, "..", "-", "a b", "http://h/..%2f..%2fx.mp4", "CON:", "\u202emp4"]
)
def test_file_names_are_made_of_ids_only(hostile):
    key = safe_key(hostile)
    assert set(key) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-")
    assert 0 < len(key) <= 64
    assert safe_key(hostile + "x") != key


def test_links_to_youtube_become_one_address():
    for url in (
        "youtube.com/watch?v=CPCoMyuBRM0&t=6s",
        "youtu.be/CPCoMyuBRM0?t=6",
        "m.youtube.com/embed/CPCoMyuBRM0",
        "www.youtube.com/shorts/CPCoMyuBRM0/",
    ):
        assert link(f"https://{url}") == ("CPCoMyuBRM0", "https://www.youtube.com/watch?v=CPCoMyuBRM0")
    assert link("https://www.youtube.com/") is None
    assert link("file:///etc/passwd") is None


@pytest.mark.parametrize(
    ("text", "seconds"), [("05", 5), ("01:02", 62), ("1:02:03", 3723), ("00:01.5", 1.5), ("90:00", 5400)]
)
def test_times(text, seconds):
    assert seconds_of(text) == seconds


@pytest.mark.parametrize("text", ["", "a", "1:2:3:4", "-1", "1:", ":5", "1:-2"])
def test_what_is_no_time(text):
    with pytest.raises(ValueError, match="no time"):
        seconds_of(text)


def test_a_missing_list_says_where_to_get_it(tmp_path):
    with pytest.raises(BadInput, match=r"github.com/MRzzm/HDTF.*download.lists.hdtf=PATH"):
        read_lists(DownloadConfig(lists={"hdtf": tmp_path / "nowhere"}))
    (tmp_path / "bad.json").write_bytes(b"\xff\xfe{")
    with pytest.raises(BadInput, match="not UTF-8"):
        read_lists(DownloadConfig(lists={"celebv_hq": tmp_path / "bad.json"}))
