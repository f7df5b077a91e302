"""The web page in a browser: it speaks, draws, marks words, saves files, remembers texts, asks for a key.

Tests with `speech_server` use the real server, with tiny models; those with `script` one whose answers they set.
"""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

pytest.importorskip("selenium", reason="a browser is driven by selenium (requirements-dev.txt)")
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import Select

from tests.helpers.scripted_speech import PAGE, ScriptedSpeech, delta, scripted_speech, tone, words
from tests.helpers.server import Running, running

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
if not (CHROMIUM and DRIVER):
    pytest.skip("there is no chromium with chromedriver on this machine", allow_module_level=True)

FLAGS = (
    "headless=new no-sandbox disable-gpu disable-quic no-first-run disable-background-networking "
    "disable-component-update disable-sync autoplay-policy=no-user-gesture-required window-size=1280,900"
)
TEXT = "Hello there, old friend. How are you?"
COLOURS = """
const canvas = document.getElementById(arguments[0]);
const {data} = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
return new Set(new Uint32Array(data.buffer)).size;
"""


class Page:
    """The page as a person meets it."""

    def __init__(self, driver: webdriver.Chrome, downloads: Path) -> None:
        self.driver, self.downloads = driver, downloads

    def open(self, server: Running | ScriptedSpeech, key: str | None = None) -> None:
        """Open it as on a first visit; then give the key, if there is one."""
        self.driver.get(server.url)
        self.driver.execute_script("localStorage.clear(); sessionStorage.clear()")
        self.driver.refresh()
        if key:
            self.give_key(key)
        if key or not server.key:
            self.wait(lambda: Select(self["voice"]).options, "voices")

    def give_key(self, key: str) -> None:
        self.wait(self["key"].is_displayed, "the field for the key")
        self["key"].send_keys(key, Keys.ENTER)

    def __getitem__(self, name: str) -> WebElement:
        return self.driver.find_element(By.ID, name)

    def type(self, text: str) -> None:
        """Paste a text: typed by the driver, a character beyond the first plane of Unicode would be refused."""
        self.driver.execute_script(
            "arguments[0].value = arguments[1]; arguments[0].dispatchEvent(new Event('input'))", self["text"], text
        )

    def speak(self, text: str) -> None:
        self.type(text)
        self["speak"].click()

    @property
    def state(self) -> str | None:
        return self.driver.find_element(By.TAG_NAME, "body").get_attribute("data-state")

    def marked(self) -> str | None:
        """Return the word that is marked as heard now."""
        found: str | None = self.driver.execute_script("return document.querySelector('#reading .now')?.textContent")
        return found

    def is_drawn(self, canvas: str) -> bool:
        """Return whether a canvas has more than a few colours."""
        number: int = self.driver.execute_script(COLOURS, canvas)
        return number > 8

    def entries(self) -> list[str]:
        return [entry.text for entry in self.driver.find_elements(By.CSS_SELECTOR, "#entries button span:first-child")]

    def wait(self, condition: Callable[[], Any], what: str, seconds: float = 30) -> Any:
        end = time.monotonic() + seconds
        while not (found := condition()):
            assert time.monotonic() < end, f"{what}: not seen; state {self.state}, error {self['error'].text!r}"
            time.sleep(0.03)
        return found

    def problems(self) -> list[str]:
        """Return what the browser complains of (errors, violations of the policy), but for refused requests."""
        entries = self.driver.get_log("browser")  # type: ignore[no-untyped-call]
        return [
            entry["message"] for entry in entries if "the server responded with a status of" not in entry["message"]
        ]


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    downloads = tmp_path_factory.mktemp("downloads")
    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for flag in FLAGS.split():
        options.add_argument(f"--{flag}")
    options.add_argument(f"--user-data-dir={tmp_path_factory.mktemp('profile')}")
    options.add_experimental_option("prefs", {"download.default_directory": str(downloads)})
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(str(DRIVER)))
    yield Page(driver, downloads)
    driver.quit()


@pytest.fixture
def page(browser: Page, speech_server: Running) -> Iterator[Page]:
    browser.open(speech_server, speech_server.key)
    yield browser
    assert browser.problems() == []


@pytest.fixture
def keyed_server(tmp_path: Path) -> Iterator[Running]:
    """A server with the bundled voice that asks for a key."""
    key = "page-" + 32 * "k"
    (tmp_path / "keys").write_text(key)
    with running(key, keys=str(tmp_path / "keys")) as server:
        yield server


@pytest.fixture
def script() -> Iterator[ScriptedSpeech]:
    with scripted_speech() as server:
        yield server


@pytest.fixture
def scripted(browser: Page, script: ScriptedSpeech) -> Iterator[Page]:
    browser.open(script)
    yield browser
    assert browser.problems() == []


def test_it_is_small_and_asks_no_other_server() -> None:
    files = {path.name: path.read_text(encoding="utf-8") for path in PAGE.iterdir()}
    assert set(files) == {"index.html", "page.css", "page.js"}
    assert sum(len(text.encode()) for text in files.values()) < 60_000
    for name, text in files.items():
        without = text.replace("http://www.w3.org/2000/svg", "")
        assert [word for word in ("http:", "https:", "innerHTML", "@import", "eval(") if word in without] == [], name


def test_it_speaks_draws_and_marks_words_until_stopped(page: Page) -> None:
    assert page["stop"].get_attribute("aria-disabled") == "true"
    page.speak(TEXT)
    assert page.wait(page.marked, "a marked word").strip(",.?") in re.findall(r"\w+", TEXT)
    assert page.state == "speaking"
    assert page["status"].text == "speaking"
    for name in ("mel", "alignment"):
        page.wait(partial(page.is_drawn, name), f"values in {name}")
        assert "seconds" in str(page[name].get_attribute("aria-label"))
    assert page["reading"].text == TEXT
    page["stop"].click()
    assert page.state == page["status"].text == "stopped"
    assert page.marked() is None
    heard = page["time"].text
    time.sleep(1.2)
    assert page["time"].text == heard
    assert page["error"].text == ""


@pytest.mark.parametrize("file_format", ["mp3", "wav"])
def test_a_downloaded_file_is_speech_named_by_its_words(page: Page, file_format: str) -> None:
    page.type(TEXT)
    Select(page["format"]).select_by_value(file_format)
    page["download"].click()
    path = page.downloads / f"hello-there-old-friend-how-are.{file_format}"
    page.wait(path.exists, "the file")
    page.wait(lambda: page["status"].text == f"saved {path.name}", "the message")
    samples, sample_rate = soundfile.read(path)
    assert len(samples) > 0.5 * sample_rate
    assert np.abs(samples).max() > 0.01


def test_texts_are_kept_over_a_reload(page: Page) -> None:
    page.speak("The first.")
    page["speed"].send_keys(Keys.ARROW_RIGHT, Keys.ARROW_RIGHT)
    page.speak("The second.")
    page["stop"].click()
    assert page.entries() == ["The second.", "The first."]
    page.driver.refresh()
    assert page.entries() == ["The second.", "The first."]
    page.driver.find_elements(By.CSS_SELECTOR, "#entries button")[0].click()
    assert page["text"].get_attribute("value") == "The second."
    assert page["speed-value"].text == "1.1×"
    page["clear"].click()
    page.driver.refresh()
    assert page.entries() == []
    assert not page["history"].is_displayed()


def test_a_key_is_asked_for_only_when_it_is_needed(browser: Page, keyed_server: Running) -> None:
    browser.open(keyed_server)
    browser.wait(browser["key"].is_displayed, "the field for the key")
    assert browser["error"].text == ""
    browser.give_key("wrong")
    browser.wait(lambda: browser["error"].text, "the server's message")
    assert browser["key"].is_displayed()
    browser.give_key(str(keyed_server.key))
    browser.wait(lambda: Select(browser["voice"]).options, "voices")
    assert browser["error"].text == ""
    assert not browser["key"].is_displayed()
    browser.driver.refresh()
    browser.wait(lambda: Select(browser["voice"]).options, "voices")
    browser.speak("Hello.")
    browser.wait(lambda: browser.state in ("speaking", "done"), "speech")
    assert str(keyed_server.key) not in browser.driver.execute_script("return JSON.stringify(localStorage)")
    browser["stop"].click()
    assert browser.problems() == []


def test_all_can_be_done_with_the_keyboard(page: Page) -> None:
    page["text"].send_keys(TEXT)
    page["text"].send_keys(Keys.CONTROL, Keys.ENTER)
    page.wait(lambda: page.state == "speaking", "speech")
    page["text"].send_keys(Keys.ESCAPE)
    assert page.state == "stopped"
    wanted = ["ssml", "text", "voice", "format", "speed", "speak", "stop", "download", "reading", "clear"]
    page.driver.execute_script("document.getElementById('ssml').focus()")
    reached = []
    for _ in wanted:
        focused = page.driver.switch_to.active_element
        reached.append(focused.get_attribute("id"))
        assert page.driver.execute_script("return arguments[0].matches(':focus-visible')", focused)
        focused.send_keys(Keys.TAB)
    assert reached == wanted
    page.driver.switch_to.active_element.send_keys(Keys.ENTER)  # the only text of the history
    assert page.driver.switch_to.active_element.get_attribute("id") == "text"


def test_a_phone_scrolls_in_one_direction(page: Page) -> None:
    narrow = {"width": 360, "height": 740, "deviceScaleFactor": 2, "mobile": True}
    page.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", narrow)
    try:
        page.speak("Incomprehensibilities" * 8)
        page.wait(lambda: page.state != "waiting", "speech")
        assert page.driver.execute_script("return document.documentElement.scrollWidth") <= 360
        for name in ("speak", "stop", "download", "mel", "reading"):
            box = page[name].rect
            assert box["x"] >= 0
            assert box["x"] + box["width"] <= 360, name
        page["stop"].click()
    finally:
        page.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


@pytest.mark.slow
def test_speech_is_heard_to_its_end(scripted: Page, script: ScriptedSpeech) -> None:
    pcm = tone(0.7)
    script.events = [
        delta(pcm[:1001]),
        words((0.0, 0, 5)),
        delta(pcm[1001:]),
        {"type": "speech.audio.done", "usage": {}},
    ]
    Select(scripted["voice"]).select_by_value("ben")
    scripted["ssml"].click()
    scripted.speak("Hello.")
    scripted.wait(lambda: scripted.state == "done", "the end")
    assert scripted["status"].text == "done, 0.7 s"
    asked = {"voice": "ben", "speed": 1, "input": "Hello.", "input_type": "ssml", "response_format": "pcm"}
    assert asked.items() <= script.requests[0].items()


@pytest.mark.slow
def test_what_is_played_is_what_was_sent(scripted: Page) -> None:
    """Events of any number of bytes, also odd ones, leave no gap and change no sample."""
    pcm = np.random.default_rng(0).integers(-20000, 20000, 12000).astype("<i2")
    data = pcm.tobytes()
    cuts = [0, 1, 4802, 4803, 4804, 4804, 9999, 17000, len(data)]
    pieces = [list(data[a:b]) for a, b in pairwise(cuts)]
    heard = scripted.driver.execute_async_script(
        """
        const [pieces, done] = arguments;
        import("/page.js").then(async ({Player}) => {
          const context = new OfflineAudioContext(1, 24000, 24000);
          const player = new Player(context);
          for (const piece of pieces) player.push(Uint8Array.from(piece));
          player.end();
          done(Array.from((await context.startRendering()).getChannelData(0)));
        });
        """,
        pieces,
    )
    samples = np.round(np.array(heard) * 32768).astype(int)
    begin = int(np.flatnonzero(samples)[0])
    assert samples[begin : begin + len(pcm)].tolist() == pcm.tolist()
    assert not samples[begin + len(pcm) :].any()


@pytest.mark.parametrize(("mean", "loud"), [(True, 150), (False, 200)])
@pytest.mark.slow
def test_an_hour_is_drawn_in_fixed_memory(scripted: Page, mean: bool, loud: int) -> None:
    used, size, seconds, first, last = scripted.driver.execute_async_script(
        """
        const [mean, done] = arguments;
        import("/page.js").then(({Picture}) => {
          const picture = new Picture(document.getElementById("mel"), "Mel spectrogram", 80, mean);
          const quiet = new Uint8Array(8000).fill(50);
          const loud = Uint8Array.from({length: 8000}, (_, i) => i % 160 < 80 ? 100 : 200); // every other frame
          for (let start = 0; start < 3600; start += 5) picture.add(start, 100, 80, 0.05, start < 1800 ? quiet : loud);
          const {used, columns, seconds} = picture;
          done([used, columns.length, seconds, picture.value(0, 3), picture.value(used - 1, 79)]);
        });
        """,
        mean,
    )
    assert 1024 < used <= 2048
    assert size == 2048 * 80
    assert seconds == pytest.approx(3600)
    assert first == 50
    assert last == pytest.approx(loud, abs=3)


@pytest.mark.slow
def test_words_are_found_by_their_characters(scripted: Page, script: ScriptedSpeech) -> None:
    """The server counts characters, the browser UTF-16 units; "$5" is read as two words; markup is text."""
    text = "😀 <img src=x onerror=document.title='bad'> 🎵 $5"
    at = text.index("$")
    x = text.index("🎵")
    script.events = [words((0.0, x, x + 1), (0.1, at, at + 2), (0.2, at, at + 2)), delta(tone(30)), {"type": "error"}]
    script.events[-1]["error"] = {"message": "The model is lost.", "param": None}
    scripted.speak(text)
    scripted.wait(lambda: scripted["time"].text.startswith("0:01"), "the time of the last word")
    assert scripted.marked() == "$5"
    said = scripted.driver.find_elements(By.CSS_SELECTOR, "#reading .said")
    assert [node.text for node in said if node.text][1::2] == ["🎵", "$5"]
    assert scripted["reading"].text == text
    assert scripted.driver.find_elements(By.TAG_NAME, "img") == []
    assert scripted.entries() == [text]
    assert scripted.driver.title == "Speech"
    assert scripted["count"].text == f"{len(text)} characters"
    assert scripted["error"].text == "The model is lost."
    assert scripted.state == "speaking"  # what came before the error is heard
    scripted["text"].send_keys(Keys.ESCAPE)


@pytest.mark.parametrize(
    ("status", "headers", "body", "shown"),
    [
        (
            429,
            {"Retry-After": "7"},
            {"error": {"message": "The server is busy."}},
            "The server is busy. Try again in 7 s.",
        ),
        (400, {}, {"error": {"message": "The text is too long.", "param": "input"}}, "The text is too long."),
        (502, {}, "<html>", "The server answered 502 Bad Gateway"),
    ],
)
def test_a_refusal_is_explained(
    scripted: Page, script: ScriptedSpeech, status: int, headers: dict[str, str], body: object, shown: str
) -> None:
    script.refusal = (status, headers, json.dumps(body).encode())
    scripted.speak("Hello.")
    scripted.wait(lambda: scripted["error"].text, "an error")
    assert scripted["error"].text == shown
    assert scripted.state == "idle"
    assert scripted["text"].get_attribute("aria-invalid") == ("true" if status == 400 else None)
    script.refusal, script.events = None, [delta(tone(0.1)), {"type": "speech.audio.done"}]
    scripted["speak"].click()
    scripted.wait(lambda: scripted.state == "done", "the end")
    assert scripted["error"].text == ""


def test_a_connection_that_ends_early_is_no_success(scripted: Page, script: ScriptedSpeech) -> None:
    script.events = [delta(tone(0.2))]
    scripted.speak("Hello.")
    scripted.wait(lambda: scripted.state == "done", "the end")
    assert scripted["status"].text == "ended early, 0.2 s"
    assert scripted["error"].text == "The connection ended before the speech was complete."


@pytest.mark.parametrize("way", ["Escape", "another text", "another page"])
@pytest.mark.slow
def test_the_server_need_not_finish_what_nobody_hears(scripted: Page, script: ScriptedSpeech, way: str) -> None:
    script.events, script.endless = [delta(tone(9))], True
    scripted.speak("Hello.")
    scripted.wait(lambda: scripted.state == "speaking", "speech")
    assert script.aborted == 0
    script.endless = way == "another text"
    if way == "Escape":
        scripted["text"].send_keys(Keys.ESCAPE)
    elif way == "another text":
        scripted.speak("Hello again.")
    else:
        scripted.driver.get("about:blank")
    wait_for = time.monotonic() + 20
    while not script.aborted:
        assert time.monotonic() < wait_for
        time.sleep(0.03)
    if way == "another text":
        scripted["text"].send_keys(Keys.ESCAPE)


def test_without_text_nothing_is_asked(scripted: Page, script: ScriptedSpeech) -> None:
    scripted.speak("  \n")
    assert scripted["error"].text == "There is no text yet. Type or paste one."
    scripted["download"].click()
    assert script.requests == []


@pytest.mark.slow
def test_without_storage_it_still_speaks(scripted: Page, script: ScriptedSpeech) -> None:
    """Full storage keeps the newest texts; none at all keeps them as long as the page is open."""
    script.events = [delta(tone(0.1)), {"type": "speech.audio.done"}]
    scripted.driver.execute_script("localStorage.setItem('other', 'x'.repeat(5 * 1024 * 1024 - 400))")
    for letter in "abc":
        scripted.speak(letter * 100)
    scripted.driver.refresh()
    assert [entry[0] for entry in scripted.entries()] == ["c", "b"]
    scripted.driver.execute_script("Object.defineProperty(window, 'localStorage', {get() { throw new Error() }})")
    scripted.speak("Hello.")
    scripted.wait(lambda: scripted.state == "done", "the end")
    assert scripted.entries()[0] == "Hello."
