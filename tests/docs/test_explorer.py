"""The cost explorer, docs/explorer.html, as a person uses it: opened as a file, in a real browser without a window.

What it needs, and what SCREENSHOTS does: tests/helpers/browser.py.
"""

from __future__ import annotations

import json
import os
import random
import re
from pathlib import Path

import pytest

from minixception import nn
from minixception.bench.limits import Limits
from minixception.graph import cost
from minixception.viz import style
from tests.helpers.browser import Page as AnyPage
from tests.helpers.browser import browser as browser
from tests.helpers.browser import needs_browser

pytestmark = [needs_browser, pytest.mark.slow]

DOCS = Path(__file__).parents[2] / "docs"
START = {"size": 19, "in": 728, "out": 728, "kernel": 3, "segments": 3, "batch": 1, "gflops": 527.0, "gbs": 42.0}
SLIDERS = ("size", "in", "out", "kernel", "segments", "batch")  # the output channels before the segments they limit


class Page(AnyPage):
    """The page in the browser, fresh from its file."""

    def __init__(self, browser, address=""):
        super().__init__(browser)
        self.open(address)

    def open(self, address=""):
        self.browser.get("about:blank")
        self.browser.get((DOCS / "explorer.html").as_uri() + address)

    def script(self, script, *arguments):
        return self.browser.execute_script(script, *arguments)

    def value(self, key):
        return self.one(f"#{key}").get_property("value")

    def paste(self, key, text):
        """Put text into a field at once: half typed it may make sense."""
        self.type(key, "")
        self.script("document.execCommand('insertText', false, arguments[0])", text)

    def prefer(self, preset):
        from selenium.webdriver.support.ui import Select

        Select(self.one("#preset")).select_by_visible_text(preset)

    def type(self, key, text):
        """Type into a field in place of what stands there."""
        from selenium.webdriver.common.keys import Keys

        self.one(f"#{key}").send_keys(Keys.CONTROL + "a", Keys.NULL, Keys.DELETE, text)

    def slide(self, key, place):
        """Move a slider to a share of its way, as an event that the page cannot tell from a person's."""
        self.script(
            """
            const [id, place] = arguments, slider = document.getElementById(id);
            slider.value = Math.round(place * slider.max);
            slider.dispatchEvent(new Event("input", {bubbles: true}));
            """,
            key + "-slider",
            place,
        )

    def settings(self):
        return {key: type(START[key])(self.value(key)) for key in START}

    def rows(self):
        """The texts of the table's body."""
        read = "return [...document.querySelectorAll('#rows tr')].map(r => [...r.cells].map(c => c.textContent))"
        return self.script(read)

    def charts(self):
        return self.script("return [...document.querySelectorAll('#charts svg')].map(svg => svg.innerHTML)")

    def error(self, key):
        return self.one(f"#{key}-error").text


@pytest.fixture
def page(browser):
    page = Page(browser)
    yield page
    assert page.complaints() == []


# What mx.cost says ----------------------------------------------------------------------------------------------------


def total(s, layers):
    """Layers as (parameters, MACs and activations' bytes for one image), for the batch and on the roofline."""
    peak, rate = s["gflops"] * 1e9, s["gbs"] * 1e9
    limits = Limits(2, "float32", fma_flops=peak, read=rate, copy=rate, triad=rate, copies={1: rate})
    found = {"params": 0, "macs": 0, "bytes": 0, "seconds": 0.0}
    for params, macs, activations in layers:
        nbytes = 4 * params + s["batch"] * activations
        found["params"] += params
        found["macs"] += s["batch"] * macs
        found["bytes"] += nbytes
        found["seconds"] += limits.seconds(2 * s["batch"] * macs, nbytes)
    return found


def counted(s, *modules):
    """The cost of modules one after the other, by mx.cost.table."""
    table = cost.table(nn.Sequential(*modules), (s["size"], s["size"], s["in"]))
    return total(s, [(r.params, r.macs, r.bytes_read + r.bytes_written - 4 * r.params) for r in table.rows[1:]])


def spectrum(s, segments):
    """A 1x1 and a spatial convolution; from the counts of mx.cost.inception_params where segments are not all equal."""
    ci, co, pixels = s["in"], s["out"], s["size"] ** 2
    if co % segments == 0:
        return counted(s, nn.SpectrumConv2d(ci, co, s["kernel"], segments))
    spatial = cost.inception_params((s["kernel"], s["kernel"]), ci, co, segments) - ci * co
    layers = [(ci * co, ci + co), (spatial, co + co)]
    return total(s, [(params, params * pixels, 4 * pixels * channels) for params, channels in layers])


def expected(s):
    ci, co, k = s["in"], s["out"], s["kernel"]
    return {
        "regular": counted(s, nn.Conv2d(ci, co, k)),
        "inception": spectrum(s, 3) if co >= 3 else None,
        "chosen": spectrum(s, s["segments"]),
        "separable": counted(s, nn.SeparableConv2d(ci, co, k)),
        "separableLayers": counted(s, nn.DepthwiseConv2d(ci, k), nn.PointwiseConv2d(ci, co)),
    }


def random_settings(number):
    draw = random.Random(number)
    out = draw.randint(1, 130)
    return {
        "size": draw.randint(1, 64),
        "in": draw.randint(1, 130),
        "out": out,
        "kernel": draw.randint(1, 7),
        "segments": draw.randint(1, out),
        "batch": draw.randint(1, 64),
        "gflops": draw.choice([0.5, 527, 12345.5]),
        "gbs": draw.choice([0.25, 42, 3350]),
    }


UNITS = {"s": 1, "ms": 1e-3, "µs": 1e-6, "ns": 1e-9}


def assert_table_shows(page, settings):
    for texts, wanted in zip(page.rows(), expected(settings).values(), strict=True):
        if wanted is None:
            assert texts[1:] == ["–", "–", "–", "–", "needs 3 output channels"]
            continue
        assert texts[1:4] == [f"{wanted[key]:,}" for key in ("params", "macs", "bytes")]
        number, unit = texts[4].split()
        assert float(number) * UNITS[unit] == pytest.approx(wanted["seconds"], rel=0.006)  # three digits


# Tests ----------------------------------------------------------------------------------------------------------------


def test_the_pages_function_counts_as_the_package_does(page):
    for number in range(24):
        settings = random_settings(number)
        found, wanted = page.script("return costs(arguments[0])", settings), expected(settings)
        assert found.keys() == wanted.keys()
        for form, cost_of in wanted.items():
            assert (found[form] is None) == (cost_of is None)
            if cost_of:
                assert {key: found[form][key] for key in cost_of} == pytest.approx(cost_of, rel=1e-15), (settings, form)


def test_every_point_of_the_curve_and_the_largest_counts_are_exact(page):
    most = {"size": 512, "in": 2048, "out": 2048, "kernel": 11, "segments": 1, "batch": 64, "gflops": 1, "gbs": 1}
    pixels = most["batch"] * most["size"] ** 2
    points = page.script("return curve(arguments[0])", most)
    assert (points[0]["g"], points[-1]["g"]) == (1, 2048)
    for point in points:
        params = cost.inception_params((11, 11), 2048, 2048, point["g"])
        assert (point["params"], point["macs"]) == (params, params * pixels)
    regular = page.script("return costs(arguments[0]).regular", most)
    assert regular["macs"] == pixels * cost.regular_params((11, 11), 2048, 2048)


def test_moving_the_sliders(page):
    draw = random.Random(1)
    seen = set()
    for _ in range(20):
        for key in SLIDERS:
            page.slide(key, draw.uniform(0, 0.5 if key in ("size", "in", "out") else 1))  # half the stops are small
        settings = page.settings()
        assert_table_shows(page, settings)
        seen.add(tuple(settings.values()))
    assert len(seen) == 20


def test_typed_numbers_and_the_slider_beside_them(page):
    typed = {"in": 10, "out": 100, "size": 33, "segments": 7, "batch": 5, "kernel": 9}
    for key, value in typed.items():
        page.type(key, str(value))
    page.type("gflops", "1000.5")
    assert page.settings() == START | typed | {"gflops": 1000.5}
    assert_table_shows(page, page.settings())
    assert page.one("#segments-slider").get_attribute("aria-valuetext") == "7"
    assert page.value("preset") == "own"
    page.slide("segments", 1)
    assert page.value("segments") == "100"
    page.slide("segments", 0)
    assert page.value("segments") == "1"


def test_by_keyboard_alone(page):
    from selenium.webdriver.common.keys import Keys

    def press(*keys):
        page.browser.switch_to.active_element.send_keys(*keys)

    order = []
    press(Keys.TAB, Keys.TAB, Keys.TAB)  # past the links to the site
    for _ in range(15):
        order.append(page.browser.switch_to.active_element.get_attribute("id"))
        if order[-1] == "segments-slider":
            assert page.script("return getComputedStyle(document.activeElement).outlineStyle") == "solid"
            press(Keys.END)
            assert (page.value("segments"), page.rows()[2][0]) == ("728", "Yours, g = 728")
            press(Keys.ARROW_LEFT)
            assert page.value("segments") == "512"
            press(Keys.HOME)
            assert page.rows()[2][0] == "Yours, g = 1"
        press(Keys.TAB)
    assert order == [*(key + end for key in SLIDERS for end in ("", "-slider")), "preset", "gflops", "gbs"]


def test_fewer_output_channels_take_segments_away_and_more_give_them_back(page):
    page.type("segments", "200")
    page.type("out", "12")
    assert (page.value("segments"), page.rows()[2][0]) == ("12", "Yours, g = 12")
    page.type("out", "256")
    assert page.value("segments") == "200"
    page.type("out", "2")
    assert page.rows()[1][5] == "needs 3 output channels"
    assert_table_shows(page, page.settings())


def test_the_address_keeps_the_settings(page):
    page.type("in", "60")
    page.type("out", "100")
    page.slide("kernel", 1)
    page.type("segments", "7")
    page.type("gbs", "20.5")
    address = "in=60&out=100&kernel=11&segments=7&batch=1&gflops=527&gbs=20.5"
    page.until(lambda: address in page.browser.current_url)
    address, settings, rows = page.browser.current_url, page.settings(), page.rows()
    page.open()
    assert page.settings() == START
    page.open(address[address.index("#") :])
    assert (page.settings(), page.rows()) == (settings, rows)
    page.script("location.hash = '#in=8&out=2'")
    page.until(lambda: page.value("in") == "8")
    assert page.settings() == START | {"in": 8, "out": 2, "segments": 2}


def test_an_address_that_makes_no_sense(page):
    rows, charts = page.rows(), page.charts()
    page.open("#size=0&out=<b>no</b>&segments=5")
    assert page.error("size") == "Expected a whole number from 1 to 512, got 0."
    assert page.error("out") == "Expected a whole number from 1 to 2,048, got <b>no</b>."
    page.view(1000, 700)  # drawn again at its new size, with the same message
    page.until(lambda: page.charts() != charts)
    page.view(1280, 720)
    page.until(lambda: page.charts() == charts)
    assert page.rows() == rows
    assert page.one("#said").text.startswith("Curves and numbers are still")


@pytest.mark.parametrize("text", ["", "ten", "0", "-3", "2.5", "99999", "1e3", "NaN"])
@pytest.mark.parametrize("key", ["size", "segments"])
def test_bad_input_says_so_and_keeps_the_last_good_curve(page, key, text):
    page.type("in", "64")
    rows, charts = page.rows(), page.charts()
    page.paste(key, text)
    field = page.one(f"#{key}")
    most = "512" if key == "size" else "728, the output channels"
    assert page.error(key) == f"Expected a whole number from 1 to {most}, got {text or 'nothing'}."
    assert page.one(f"#{key}-error").aria_role == "alert"
    assert (field.get_attribute("aria-invalid"), field.get_attribute("aria-describedby")) == ("true", f"{key}-error")
    assert page.one("#said").text == "Curves and numbers are still those of the last settings that made sense."
    assert (page.rows(), page.charts()) == (rows, charts)
    page.type(key, "2")
    assert page.error(key) == ""
    assert page.charts() != charts
    assert_table_shows(page, page.settings())


@pytest.mark.parametrize("text", ["", "fast", "0", "-1", "1e9"])
def test_a_roofline_that_makes_no_sense(page, text):
    rows = page.rows()
    page.paste("gbs", text)
    assert page.error("gbs") == f"Expected a number from 0.01 to 1,000,000, got {text or 'nothing'}."
    assert page.rows() == rows
    page.prefer("AMD EPYC, 1 core")
    assert page.error("gbs") == ""
    assert page.rows() != rows


def test_presets_are_what_was_measured(page):
    result = json.loads((DOCS / "results" / "bench_kernels.json").read_text("utf-8"))
    one, two = result["limits"]
    assert (one["threads"], two["threads"]) == (1, 2)
    measured = {
        "2 cores": (two["fma_flops"], two["copy"]),
        "1 core": (one["fma_flops"], one["copy"]),
        "2 cores, in caches": (two["fma_flops"], two["copies"][str(2**24)]),
    }
    digits = []
    for cores, rates in measured.items():
        peak, memory = (float(f"{rate / 1e9:.3g}") for rate in rates)
        digits.append({"name": f"{result['machine']['processor']}, {cores}", "gflops": peak, "gbs": memory})
    assert page.script("return PRESETS") == digits
    for preset in digits:
        page.prefer(preset["name"])
        assert page.settings() == START | {"gflops": preset["gflops"], "gbs": preset["gbs"]}
        assert_table_shows(page, page.settings())
    page.prefer("Your own numbers")
    assert page.browser.switch_to.active_element.get_attribute("id") == "gflops"


def test_the_marks_stand_where_their_numbers_are(page):
    page.open("#in=64&out=128&segments=5&size=40&batch=3")
    found = page.script("return costs(settings)")
    for chart, key in zip(page.all("#charts svg"), ("params", "macs", "bytes", "seconds"), strict=True):
        markup = chart.get_attribute("innerHTML")
        number = r"([\d.]+)"
        left, upper = map(float, re.search(f'd="M{number} {number}h12v12', markup).groups())  # of the square
        right, top = map(float, re.search(f'd="M{number} {number}l8.5 8.5', markup).groups())  # of the diamond
        circles = [tuple(map(float, place)) for place in re.findall(f'cx="{number}" cy="{number}"', markup)]
        places = dict(zip(("inception", "chosen"), circles, strict=True))
        places |= {"regular": (left + 6, upper + 6), "separable": (right, top + 8.5)}
        zero = page.script("return +arguments[0].querySelector('.grid').getAttribute('y1')", chart)
        heights = {form: (zero - y) / found[form][key] for form, (_, y) in places.items()}
        assert list(heights.values()) == pytest.approx([heights["regular"]] * 4)
        ticks = {e.text: float(e.get_attribute("x")) for e in chart.find_elements("css selector", "text")}
        assert (places["regular"][0], places["separable"][0]) == pytest.approx((ticks["1"], ticks["128"]))
        assert ticks["2"] < places["inception"][0] < ticks["4"] < places["chosen"][0] < ticks["8"]


def test_assistive_technology_finds_its_way(page):
    names = ["Image size, pixels", "Input channels", "Output channels", "Kernel size", "Segments g", "Batch"]
    for key, label in zip(SLIDERS, names, strict=True):
        assert page.one(f"#{key}").accessible_name == label
        assert page.one(f"#{key}-slider").accessible_name == label + ", slider"
    assert page.one("#gflops").accessible_name == "Peak, GFLOP/s"
    assert page.one("#gbs").accessible_name == "Memory, GB/s"
    assert page.one("#preset").accessible_name == "Machine"
    assert page.one("#said").aria_role == "status"
    assert page.one("#said").text == "3 segments: 0.44 × the MACs, 0.6 × the bytes, 0.44 × the time of regular."
    said = page.all("#charts svg")[0].accessible_name
    assert said == "Parameters along the segments: regular 4.77 M, 3 segments 2.12 M, separable 537 k"
    page.view(390, 844)
    roles = [page.one("table").aria_role, page.all("#rows tr")[0].aria_role, page.all("#rows td")[0].aria_role]
    assert roles == ["table", "row", "cell"]


def test_one_file_that_asks_for_nothing_with_the_colours_of_the_figures(page):
    assert page.script("return performance.getEntriesByType('resource').length") == 0
    text = (DOCS / "explorer.html").read_text("utf-8")
    assert not re.search(r'src=|@import|url\(|fetch\(|<link (?!rel="icon" href="data:,")', text)
    assert re.findall(r'<a href="([^"]*)\.html"', text) == ["index", "course"]  # pages of the site beside it
    assert all((DOCS / f"{page}.md").exists() for page in ("index", "course"))
    for name in ("blue", "vermilion", "green", "orange"):
        drawn = page.script(f"return getComputedStyle(document.documentElement).getPropertyValue('--{name}')")
        assert drawn.strip().upper() == getattr(style, name.upper())


SCREENS = [
    (width, height, scheme)
    for width, height in ((320, 600), (390, 844), (740, 900), (1280, 720), (1920, 1080))
    for scheme in ("light", "dark")
]


@pytest.mark.parametrize(("width", "height", "scheme"), SCREENS)
def test_it_fits_the_screen_in_light_and_dark(page, tmp_path, width, height, scheme):
    page.view(width, height, scheme)
    page.open("#size=512&in=2048&out=2048&kernel=11&segments=1&batch=64&gbs=1")  # the longest numbers
    across = "const e = document.documentElement; return e.scrollWidth - e.clientWidth"
    assert page.script(across) == 0
    page.paste("size", "much too large a number for an image")
    assert page.script(across) == 0
    page.open()
    wide, last = width >= 1280, page.all("#charts figure")[3].rect
    assert not wide or last["y"] + last["height"] <= height  # all four curves at once
    smallest = min(float(e.value_of_css_property("font-size")[:-2]) for e in page.all("svg text, td, label, .soft"))
    assert smallest >= (height / 50 if wide else 14)  # pixels
    image = page.screenshot(Path(os.environ.get("SCREENSHOTS", tmp_path)) / f"explorer-{width}x{height}-{scheme}.png")
    assert image.size == (width, height)
    corner = image.getpixel((2, 2))
    assert (min(corner) > 200) if scheme == "light" else (max(corner) < 60)
