"""The page of ``minixception serve`` as a person uses it, in a real browser without a window.

What it needs, and what SCREENSHOTS does: tests/helpers/browser.py.
"""

from __future__ import annotations

import io
import os
import re
import threading
from pathlib import Path

import pytest

import minixception as mx
from minixception.apps.hub import Hub
from minixception.apps.hub.samples import SAMPLES
from tests.helpers.browser import Page as AnyPage
from tests.helpers.browser import browser as browser
from tests.helpers.browser import needs_browser
from tests.helpers.colours import BLUE, GREEN, RED, Colours, picture, serving

pytestmark = needs_browser


class Page(AnyPage):
    """The page in the browser: what it shows, and what a person does with it."""

    def __init__(self, browser, url, samples=tuple(SAMPLES)):
        super().__init__(browser)
        browser.get(url)
        self.until(lambda: self.one("#model").text and len(self.all("#samples img")) == len(samples))
        self.until(lambda: all(image.size["width"] for image in self.all("#samples img")))

    def choose(self, path):
        self.one("#file").send_keys(str(path))

    def send(self, how, name, colour):
        """Make a file in the page and drop or paste it, as an event that the page cannot tell from a person's."""
        self.browser.execute_async_script(
            """
            const [how, name, colour, done] = arguments;
            const canvas = Object.assign(document.createElement("canvas"), {width: 90, height: 60});
            const context = canvas.getContext("2d");
            context.fillStyle = `rgb(${colour})`;
            context.fillRect(0, 0, 90, 60);
            canvas.toBlob(blob => {
              const data = new DataTransfer();
              if (name) data.items.add(new File([blob], name, {type: blob.type}));
              else data.setData("text/plain", "no file");
              const options = {bubbles: true, cancelable: true};
              document.getElementById("drop").dispatchEvent(how === "drop"
                ? new DragEvent("drop", {...options, dataTransfer: data})
                : new ClipboardEvent("paste", {...options, clipboardData: data}));
              done();
            });
            """,
            how,
            name,
            list(colour),
        )

    def names(self):
        """The names at the bars, from the top."""
        return [element.text for element in self.all("#bars .name")]

    def wait_for(self, first):
        """Wait until the top bar has this name and nothing is under way."""
        self.until(lambda: self.names()[:1] == [first] and not self.one("#working").is_displayed())

    def error(self):
        self.until(lambda: self.one("#error").is_displayed())
        assert self.one("#error").aria_role == "alert"
        assert self.names() == []
        assert not self.one("#working").is_displayed()
        return self.one("#error").text


@pytest.fixture
def page(browser, server):
    return Page(browser, server.url)


@pytest.fixture
def photo(tmp_path):
    """A function that writes a photo of one colour."""

    def write(colour, name="photo.png", **how):
        path = tmp_path / name
        path.write_bytes(picture(colour, **how))
        return path

    return write


def expected(colour):
    """Names and percentages of the five likeliest classes."""
    prediction = Hub(Colours()).predict(picture(colour))["output"][0]["prediction"]
    best = sorted(prediction, key=lambda p: -p["probability"])[:5]
    return [p["label"] for p in best], [f"{100 * p['probability']:.1f} %" for p in best]


def test_the_page_before_anything_is_asked(page):
    assert page.one("h1").text == "What does the network see?"
    assert page.one("#model").text == "colours, 1000 classes, pictures resized to 71x71 pixels without cropping."
    assert page.one("#hint strong").text == "Drop a photo here"
    assert not page.one("#error").is_displayed()
    assert not page.one("#working").is_displayed()
    assert page.browser.title == "colours: What does the network see?"
    loaded = (
        "return [...document.images].filter(i => i.id !== 'photo').every(i => i.complete && i.naturalWidth === 400)"
    )
    assert page.until(lambda: page.browser.execute_script(loaded))
    assert page.complaints() == []


def test_a_chosen_photo_gets_five_bars_with_the_right_names_in_order(page, photo):
    page.choose(photo(RED))
    page.wait_for("strawberry")
    names, shares = expected(RED)
    assert page.names() == names
    assert [element.text for element in page.all("#bars .share")] == shares
    full = page.all("#bars .track")[0].size["width"]
    widths = [element.size["width"] / full for element in page.all("#bars .fill")]
    assert widths == pytest.approx([float(share.split()[0]) / 100 for share in shares], abs=0.01)
    assert page.one("#photo").is_displayed()
    assert page.one("#photo").get_attribute("alt") == "photo.png"
    assert not page.one("#hint").is_displayed()
    said = page.one("#status").get_attribute("textContent")
    assert re.match(rf"Most likely strawberry, {re.escape(shares[0])}\. It took \d+\.\d", said)
    assert page.complaints() == []


@pytest.mark.parametrize("how", ["drop", "paste"])
def test_a_dropped_or_pasted_photo(page, how):
    page.send(how, "sent.png", GREEN)
    page.wait_for("Granny Smith")
    assert page.names() == expected(GREEN)[0]
    page.send(how, "next.png", BLUE)
    page.wait_for("jay")
    assert page.one("#photo").get_attribute("alt") == "next.png"


def test_something_else_dropped(page):
    page.send("drop", None, RED)
    assert page.error() == "That was no file. Save the picture first, then drop the file here."


def test_samples_can_be_clicked_and_reached_by_keyboard(page):
    from selenium.webdriver.common.keys import Keys

    buttons = page.all("#samples button")
    assert [b.accessible_name for b in buttons] == [name[:-4].replace("_", " ") for name in SAMPLES]
    buttons[list(SAMPLES).index("orange.png")].click()
    page.wait_for("strawberry")
    assert page.one("#photo").get_attribute("alt") == "orange"
    page.browser.switch_to.active_element.send_keys(Keys.SHIFT + Keys.TAB)  # to the one before
    page.browser.switch_to.active_element.send_keys(Keys.ENTER)
    page.until(lambda: page.one("#photo").get_attribute("alt") == "crossword")
    page.until(lambda: page.names() and not page.one("#working").is_displayed())


def test_assistive_technology_finds_its_way(page):
    assert page.one("#file").accessible_name == "Choose a photo"
    assert page.one("#samples").accessible_name == "Or try a drawing"
    assert page.one("#status").aria_role == "status"
    assert page.one("#answer").accessible_name == "What it sees"
    page.browser.execute_script("document.getElementById('file').focus()")
    ring = "return getComputedStyle(document.getElementById('drop')).outlineStyle"
    assert page.browser.execute_script(ring) == "solid"


def test_a_file_that_is_no_picture_and_then_one_that_is(page, photo, tmp_path):
    page.choose(photo(RED))
    page.wait_for("strawberry")
    drawing = tmp_path / "drawing.png"
    drawing.write_bytes(b"<svg/>")
    page.choose(drawing)
    assert page.error() == (
        "That did not work: expected an image, got something else: the bytes given (what is read: PNG, JPEG, WEBP)."
    )
    page.until(lambda: page.one("#hint").is_displayed() and not page.one("#photo").is_displayed())
    page.choose(photo(BLUE, "blue.png"))
    page.wait_for("jay")
    assert not page.one("#error").is_displayed()


def test_a_file_that_is_too_large_is_not_even_sent(page, tmp_path, server, monkeypatch):
    monkeypatch.setattr(server.hub, "predict", None)
    path = tmp_path / "large.png"
    path.write_bytes(picture(RED) + bytes(16_000_000))
    page.choose(path)
    assert page.error() == "This file is too large: 16.0 MB, at most 16 MB can be sent."


def test_a_name_is_text_even_if_it_looks_like_a_page(browser, photo):
    with serving(Hub(Colours(), "<b>bold</b>", ["<img src=x onerror=alert(1)>"] * 1000)) as server:
        page = Page(browser, server.url)
        assert page.one("#model").text.startswith("<b>bold</b>, 1000 classes")
        page.choose(photo(RED, "<i>.png"))
        page.wait_for("<img src=x onerror=alert(1)>")
        assert page.all("#bars img") == []
        assert page.complaints() == []


def test_a_run_of_ones_own_has_its_classes_and_no_drawings(browser, photo):
    model = mx.models.mini_xception(2, (8,), 0, 4, (16, 16, 3))
    model.class_names = ("daisy", "tulip")
    hub = Hub(model, "runs/photos")
    expected = max(model.predict([io.BytesIO(picture(RED))])[0], key=lambda p: p.probability)
    with serving(hub) as server:
        page = Page(browser, server.url, samples=())
        assert page.one("#model").text == "runs/photos, 2 classes, pictures resized to 16x16 pixels without cropping."
        assert not page.one("#drawings").is_displayed()
        page.choose(photo(RED))
        page.wait_for(expected.name)
        assert sorted(page.names()) == ["daisy", "tulip"]
        assert page.complaints() == []


def test_while_it_looks_and_an_answer_that_comes_too_late(browser, photo, tmp_path):
    hub = Hub(Colours())
    network, go_on = hub._network, threading.Event()

    def waiting(x):
        assert go_on.wait(1800)
        return network(x)

    hub._network = waiting
    with serving(hub) as server:
        page = Page(browser, server.url)
        page.choose(photo(RED))
        page.until(lambda: page.one("#status").text == "Looking …" and page.one("#working").is_displayed())
        drawing = tmp_path / "drawing.png"
        drawing.write_bytes(b"<svg/>")
        page.choose(drawing)
        told = page.error()
        go_on.set()
        both = (
            "return performance.getEntriesByType('resource').filter(e => e.name.endsWith('/api/predict')).length === 2"
        )
        page.until(lambda: page.browser.execute_script(both))
        page.browser.execute_async_script("setTimeout(arguments[0], 100)")
        assert page.error() == told


def test_a_server_that_is_gone(browser, photo):
    with serving(Hub(Colours())) as server:
        page = Page(browser, server.url)
    page.choose(photo(RED))
    assert page.error() == "The server does not answer. Is “minixception serve” still running?"


@pytest.mark.parametrize(
    ("width", "height", "scheme"),
    [
        (1280, 720, "light"),
        (390, 844, "dark"),
        *(
            pytest.param(*screen, marks=pytest.mark.slow)
            for screen in ((1280, 720, "dark"), (390, 844, "light"), (1920, 1080, "light"), (1920, 1080, "dark"))
        ),
    ],
)
def test_it_fits_the_screen_in_light_and_dark(page, photo, tmp_path, width, height, scheme):
    page.view(width, height, scheme)
    page.choose(photo(RED, size=(900, 600)))
    page.wait_for("strawberry")
    scroll = (
        "const e = document.documentElement; return [e.scrollWidth - e.clientWidth, e.scrollHeight - e.clientHeight]"
    )
    across, down = page.browser.execute_script(scroll)
    assert across == 0
    assert down <= (0 if width > 500 else height / 4)
    smallest = min(float(e.value_of_css_property("font-size")[:-2]) for e in page.all("#bars .name"))
    assert smallest >= (height / 28 if width > 500 else 18)  # pixels
    folder = Path(os.environ.get("SCREENSHOTS", tmp_path))
    image = page.screenshot(folder / f"{width}x{height}-{scheme}.png")
    assert image.size == (width, height)
    corner = image.getpixel((2, 2))
    assert (min(corner) > 200) if scheme == "light" else (max(corner) < 60)
