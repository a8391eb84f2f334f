"""The report of a small real run: each item with its reason, the ledger's numbers, nothing from outside."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import av
import pytest
from PIL import Image

from dualforce_model.media import Clip
from dualforce_model.quality import CHECKS
from dualforce_model.report import contact_sheet, funnel, render
from dualforce_model.report.funnel import Journey, Step, Story
from dualforce_model.report.page import sample
from dualforce_model.report.words import REASONS, plain
from dualforce_model.store import ledger

HOSTILE = "a <img src=x onerror='alert(1)'> & \"b\" \U0001f3ac\nsecond line.mp4"  # the name in conftest.py
VOID = {"meta", "link", "input", "img", "br", "line", "polyline", "circle"}


class Page(HTMLParser):
    """Checks that elements are closed in order and ids are unique; collects what the tests ask for."""

    def __init__(self, text: str):
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.images: list[dict[str, str | None]] = []
        self.headings: list[int] = []
        self.cards: dict[str, str] = {}
        self.attributes: dict[str, dict[str, str | None]] = {}
        self.words = ""
        self._card = ""
        self.feed(text)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        assert len(values) == len(attrs), f"an attribute twice in <{tag}>"
        if values.get("id"):
            self.ids.append(str(values["id"]))
        self.links += [str(values[name]) for name in ("href", "src", "action", "srcset", "poster") if name in values]
        if tag == "img":
            self.images.append(values)
        if re.fullmatch(r"h[1-6]", tag):
            self.headings.append(int(tag[1]))
        if tag == "article":
            self._card = str(values["id"])
            self.cards[self._card], self.attributes[self._card] = "", values
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag
        if tag in ("td", "th", "dt", "span"):
            self.handle_data(" ")
        if tag == "article":
            self._card = ""

    def handle_data(self, data: str) -> None:
        self.words += data
        if self._card:
            self.cards[self._card] += data


@pytest.fixture(scope="module")
def text(run: Path) -> str:
    return render(run).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(text: str) -> Page:
    return Page(text)


def test_page_is_sound_and_needs_nothing_from_outside(page: Page, text: str) -> None:
    assert len(page.ids) == len(set(page.ids))
    assert all(link.startswith(("data:", "#")) or link == "../ledger/" for link in page.links)
    assert not re.search(r"(?<!data:)https?://|url\(|@import", text)
    assert all(image.get("alt") for image in page.images)
    assert page.headings[0] == 1
    assert all(b <= a + 1 for a, b in zip(page.headings, page.headings[1:], strict=False))
    for inner in (link[1:] for link in page.links if link.startswith("#")):
        assert inner in page.ids


def test_every_item_has_its_card_with_reason_and_message(run: Path, page: Page) -> None:
    story = Story(run)
    ways = story.ways
    assert len(page.cards) == len(ways) == 7
    assert {way.reason for way in ways} == {"", "several_faces", "no_face", "no_audio", "truncated"}
    for number, way in enumerate(ways):
        card, attributes = page.cards[f"item-{number}"], page.attributes[f"item-{number}"]
        assert attributes["data-status"] == way.status
        assert (way.clip_id or way.source.split("\n")[0]) in card
        assert str(story.row(way, way.last)["message"]).split("\n")[0][:20] in card
        if way.reason:
            assert way.reason in str(attributes["data-reasons"]).split()


def test_scores_stand_beside_their_thresholds(run: Path, page: Page) -> None:
    number = next(k for k, way in enumerate(Story(run).ways) if way.reason == "several_faces")
    card = " ".join(page.cards[f"item-{number}"].split())
    assert re.search(r"multi face share 0\.\d+ ≤ 0\.05 failed ✗", card)
    assert re.search(r"sharpness \d+ ≥ 30 passed ✓", card)


def test_names_are_escaped_and_visible(page: Page, text: str) -> None:
    assert "<img src=x" not in text
    assert HOSTILE.replace("\n", "\\n") in page.words
    assert "small <run>" in page.words
    assert text.count("<script>") == 1


def test_funnel_is_the_ledgers(run: Path, page: Page) -> None:
    def count(stage: str, status: str) -> int:
        return int((ledger.read(run, stage)["status"] == status).sum())

    steps = {label: (number, detail) for label, number, detail in funnel(run)}
    assert steps["sources"][0] == len(ledger.read(run, "source")) == 6
    assert steps["readable sources"] == (count("source", "accepted"), "2 failed: truncated 2")
    assert steps["face clips"] == (count("face_crop", "accepted"), "from 3 sources; 1 rejected: no_face 1")
    assert steps["accepted clips"] == (count("quality", "accepted"), "3 rejected: several_faces 2, no_audio 1")
    assert steps["clips with all features"] == (1, "")
    for label, (number, _) in steps.items():
        assert f"{label} {number} " in page.words


def test_films_play_with_sound(page: Page, run: Path) -> None:
    films = [link for link in page.links if link.startswith("data:video/mp4")]
    assert len(films) == 2  # the accepted clip, and the same from its latents
    frames = Clip(run / "clips", next(w.clip_id for w in Story(run).ways if w.status == "accepted")).frame_count
    for film in films:
        with av.open(io.BytesIO(base64.b64decode(film.partition(",")[2]))) as movie:
            assert movie.streams.video[0].codec_context.name == "h264"
            assert movie.streams.audio[0].codec_context.name == "aac"
            assert frames - 3 <= movie.streams.video[0].frames <= frames
    assert "dB PSNR" in page.words


def test_sheets_are_pictures(page: Page) -> None:
    for image in page.images:
        with Image.open(io.BytesIO(base64.b64decode(str(image["src"]).partition(",")[2]))) as picture:
            assert picture.size == (int(str(image["width"])), int(str(image["height"])))


def test_same_folder_same_bytes(run: Path, text: str) -> None:
    assert render(run).read_text(encoding="utf-8") == text


def test_loss_curve_is_drawn_up_to_the_last_whole_line(page: Page) -> None:
    assert "59 optimiser steps" in page.words


def test_damaged_run_folder_still_gives_a_report(run: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(run, broken)
    for path in (broken / "clips").glob("*.mp4"):
        path.write_bytes(path.read_bytes()[:1000])
    for path in (broken / "clips").glob("*.safetensors"):
        path.unlink()
    shutil.rmtree(broken / "features")
    page = Page(render(broken).read_text(encoding="utf-8"))
    assert len(page.cards) == 7
    assert page.words.count("can't be shown") >= 4


def test_empty_run_says_so(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(json.dumps({"format": 1, "config": {"name": "fresh"}}), encoding="utf-8")
    page = Page(render(tmp_path).read_text(encoding="utf-8"))
    assert "No source has been read yet." in page.words
    assert funnel(tmp_path) == [("sources", 0, ""), ("readable sources", 0, "")]


def test_large_runs_show_a_declared_sample_of_every_reason() -> None:
    def way(k: int) -> Journey:
        reason = "rare" if k == 777 else ("blurry", "no_audio", "")[k % 3]
        step = Step("rejected" if reason else "accepted", reason)
        return Journey(f"{k:05d}.mp4", f"s{k}-s0t0", {"quality": step})

    ways = [way(k) for k in range(3000)]
    kept, cuts = sample(ways, 80)
    assert 40 < len(kept) <= 80
    assert {w.reason for w in kept} == {"", "blurry", "no_audio", "rare"}
    assert cuts == [
        "accepted: 20 of 1000 shown",
        "rejected as blurry: 20 of 999 shown",
        "rejected as no_audio: 20 of 1000 shown",
    ]
    assert sample(ways[:80], 80) == (ways[:80], [])


def test_every_check_has_its_plain_words() -> None:
    assert {check.reason for check in CHECKS} <= REASONS.keys()
    assert plain("some_new_reason") == "Some new reason"


def test_contact_sheet_shows_clips_and_counts_the_rest(run: Path) -> None:
    clips = [Clip(run / "clips", way.clip_id) for way in Story(run).ways if way.clip_id]
    data = contact_sheet(clips, limit=3)
    with Image.open(io.BytesIO(data)) as picture:
        assert picture.format == "JPEG"
        assert picture.width == 4 * (picture.height - 16)  # three clips and the tile that says how many more
    assert contact_sheet([])[:3] == b"\xff\xd8\xff"
