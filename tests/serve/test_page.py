"""The page in a real browser, with a microphone made of a file. What it shows and plays is asked of the page itself."""

from __future__ import annotations

import wave
from pathlib import Path

import numpy as np
import pytest
from browser import Browser
from PIL import Image
from skimage import data

from dualforce_model.serve.protocol import Sound

SCREEN = "document.querySelector('#screen').dataset"
STATE = "document.body.dataset.state"


@pytest.fixture(scope="module")
def files(tmp_path_factory, speech) -> Path:
    folder = tmp_path_factory.mktemp("files")
    Image.fromarray(data.astronaut()).save(folder / "astronaut.png")
    Image.new("RGB", (200, 200), "teal").save(folder / "nobody.png")
    for name, samples in (("speech.wav", speech), ("word.wav", speech[:12800])):
        with wave.open(str(folder / name), "wb") as out:
            out.setnchannels(1)
            out.setsampwidth(2)
            out.setframerate(16000)
            out.writeframes((samples * 32767).astype("<i2").tobytes())
    return folder


@pytest.fixture(scope="module")
def browser(files, tmp_path_factory):
    browser = Browser(tmp_path_factory.mktemp("profile"), files / "speech.wav")
    yield browser
    browser.close()


@pytest.fixture
def page(browser, server, wait):
    """The page, ready to be used; nothing may have gone wrong in it when the test is over."""
    browser.open(server.url)
    browser.wait(f"{STATE} === 'idle'")
    yield browser
    assert not browser.troubles
    browser.open("about:blank")
    wait(lambda: (server.health["sessions"], server.health["caches"]) == (0, 0))


def click(page, selector):
    page.run(f"document.querySelector('{selector}').click()")


def text(page, selector):
    return page.run(f"document.querySelector('{selector}').textContent")


def watch(page, until):
    """What is shown, second for second of the sound's clock, and how loud it is, until a state is reached."""
    page.run(f"""window.seen = []; window.loud = 0; (function look() {{
        const {{frame, time}} = {SCREEN};
        if (frame && time !== seen.at(-1)?.[1]) seen.push([+frame, time]);
        loud = Math.max(loud, document.querySelector('#level').value);
        requestAnimationFrame(look);
    }})()""")
    page.wait(f"{STATE} === '{until}' || !document.querySelector('#error').hidden", 120)
    assert text(page, "#error") == ""
    return [(frame, float(time)) for frame, time in page.run("seen")], page.run("loud")


def test_a_sound_file_is_seen_and_heard_together(page, files):
    page.choose("#picture", files / "astronaut.png")
    click(page, "[value=file]")
    page.choose("#sound", files / "speech.wav")
    click(page, "#start")
    seen, loud = watch(page, "done")
    assert text(page, "#status") == "Done: 1.6 s."
    assert loud > 0.05
    assert len(seen) > 5
    assert all(0 <= time - frame / 25 < 0.2 for frame, time in seen)  # never early; late only where the machine is busy
    assert np.median([time - frame / 25 for frame, time in seen]) <= 0.04 + 1 / 60  # within a frame of the sound
    assert [frame for frame, _ in seen] == sorted({frame for frame, _ in seen})
    assert page.run("document.querySelector('#screen').width") == 96
    # what stands on the screen is the person of the picture, not noise or nothing
    mean, spread = page.run("""(() => {
        const {data} = document.querySelector('#screen').getContext('2d').getImageData(0, 0, 96, 96);
        const mean = data.reduce((a, b) => a + b) / data.length;
        return [mean, Math.sqrt(data.reduce((a, b) => a + (b - mean) ** 2, 0) / data.length)];
    })()""")
    assert 60 < mean < 220
    assert spread > 20


def test_picture_and_sound_wait_together_for_a_slow_server(browser, serving, files):
    """Drawing takes far longer than playing; the clock stops until there is something to show."""
    browser.open(serving(generate={"steps": 300}, sessions=1).url)
    browser.wait(f"{STATE} === 'idle'")
    browser.choose("#picture", files / "astronaut.png")
    click(browser, "[value=file]")
    browser.choose("#sound", files / "word.wav")
    browser.run("""window.states = []; new MutationObserver(() => states.push(document.body.dataset.state))
        .observe(document.body, {attributes: true, attributeFilter: ['data-state']})""")
    click(browser, "#start")
    seen, _ = watch(browser, "done")
    states = browser.run("states")
    assert "waiting" in states[states.index("playing") :]
    assert all(0 <= time - frame / 25 < 0.2 for frame, time in seen)
    assert text(browser, "#status") == "Done: 0.8 s."


def test_the_microphone_is_drawn_to_its_last_word(page, files, monkeypatch):
    heard = []
    take = Sound.take
    monkeypatch.setattr(Sound, "take", lambda self, message: heard.append(take(self, message)) or heard[-1])
    page.choose("#picture", files / "astronaut.png")
    click(page, "#start")
    page.wait(f"+{SCREEN}.frame >= 10")
    assert text(page, "#status") in ("Live:", "Waiting for the server …")
    assert "behind you" in page.wait("document.querySelector('#clock').textContent")
    click(page, "#stop")
    seen, loud = watch(page, "done")
    assert text(page, "#status").startswith("Done: ")
    sound = np.concatenate(heard)
    assert np.abs(sound).max() > 0.02  # the file of the fake microphone, not silence
    frames = round(float(text(page, "#status").split()[1]) * 25 + 0.5)
    assert abs(frames - len(sound) / 640) < 4  # of all that was said
    assert seen[-1][0] >= frames - 5
    assert all(0 <= time - frame / 25 < 0.2 for frame, time in seen)
    assert loud > 0.01


def test_the_same_page_says_what_is_wrong_and_can_be_used_again(page, files):
    click(page, "#start")
    assert text(page, "#error") == "Choose a picture first."
    page.choose("#picture", files / "nobody.png")
    click(page, "[value=file]")
    click(page, "#start")
    page.wait("!document.querySelector('#error').hidden && !document.querySelector('#start').disabled")
    assert text(page, "#error") == "Choose a sound file first."
    page.choose("#sound", files / "astronaut.png")
    click(page, "#start")
    page.wait("document.querySelector('#error').textContent.includes('astronaut.png')")
    page.choose("#sound", files / "speech.wav")
    click(page, "#start")
    page.wait("document.body.dataset.reason === 'no_face'")
    assert text(page, "#error") == "No human face in this picture of 200x200 pixels."
    assert page.run("getComputedStyle(document.querySelector('#error')).display") == "block"
    page.choose("#picture", files / "astronaut.png")
    click(page, "#start")
    page.wait(f"{STATE} === 'playing'")
    assert page.run("document.querySelector('#error').hidden")
    click(page, "#stop")
    assert text(page, "#status") == "Stopped."


@pytest.mark.parametrize("allowed", [["seed", "steps"], ["seed", "guidance_reference"]])
def test_only_what_the_server_allows_can_be_set(browser, serving, files, allowed):
    browser.open(serving(sessions=1, options=allowed).url)
    browser.wait(f"{STATE} === 'idle'")
    browser.run("document.querySelector('details').open = true")
    shown = "[...document.querySelectorAll('.settings input')].filter((e) => e.checkVisibility()).map((e) => e.id)"
    assert browser.run(shown) == allowed
    assert browser.run("document.querySelector('#guidance').checkVisibility()") == ("guidance_reference" in allowed)
    # as left there by a browser that remembers what was typed before the page was loaded again
    browser.run("document.querySelector('#guidance_audio').value = 3")
    browser.choose("#picture", files / "astronaut.png")
    click(browser, "[value=file]")
    browser.choose("#sound", files / "word.wav")
    click(browser, "#start")
    watch(browser, "done")


def test_a_full_server_and_one_that_stops(browser, serving, talk, files):
    server = serving(sessions=1)
    browser.open(server.url)
    browser.wait(f"{STATE} === 'idle'")
    browser.choose("#picture", files / "astronaut.png")
    with talk(server) as other:
        other.say("start")
        click(browser, "#start")
        browser.wait("document.body.dataset.reason === 'busy'")
        assert "are taken; try again later." in text(browser, "#error")
    click(browser, "#start")
    browser.wait(f"+{SCREEN}.frame > 0")
    server.stop()
    browser.wait("!document.querySelector('#error').hidden")
    assert text(browser, "#error") == "The server was stopped."


def test_the_keyboard_is_enough(page, files):
    """The inputs are reached by Tab in the order of reading, and Enter starts."""
    page.choose("#picture", files / "astronaut.png")
    order = []
    for _ in range(5):
        page.press("Tab", 9)
        order.append(page.run("(({id, value, localName}) => id || value || localName)(document.activeElement)"))
    assert order == ["picture", "microphone", "hear", "summary", "start"]
    page.press("Enter", 13, "\r")
    page.wait(f"+{SCREEN}.frame > 0")


@pytest.mark.parametrize(("width", "height"), [(1280, 800), (390, 844)])
def test_layout_and_labels(page, server, width, height):
    page.size(width, height)
    assert page.run("document.documentElement.scrollWidth <= innerWidth")
    start = page.run("document.querySelector('#start').getBoundingClientRect().bottom")
    assert start <= height  # without scrolling
    unnamed = "[...document.querySelectorAll('input, button, canvas, meter')].filter((e) => !(e.labels?.length || e.ariaLabel || e.textContent.trim())).length"  # noqa: E501
    assert page.run(unnamed) == 0
    assert page.run("document.documentElement.lang") == "en"
    loaded = page.run("performance.getEntriesByType('resource').map((entry) => entry.name)")
    assert len(loaded) >= 4
    assert all(name.startswith((server.url, "blob:")) for name in loaded)
