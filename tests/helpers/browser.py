"""A real browser without a window: what tests of pages share.

Needs Chromium or Chrome, and its driver; where they are missing the tests are skipped. SCREENSHOTS=FOLDER keeps
pictures of the page.
"""

from __future__ import annotations

import contextlib
import os
import shutil

import pytest

from tests.helpers.processes import HANG

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
DRIVER = shutil.which("chromedriver")
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--force-prefers-reduced-motion",
)

needs_browser = pytest.mark.skipif(
    not (BROWSER and DRIVER),
    reason="opens pages in Chromium. To have these tests too (Debian): apt install chromium chromium-driver",
)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with started(tmp_path_factory.mktemp("profile")) as driver:
        yield driver


@contextlib.contextmanager
def started(profile):
    """A browser that keeps what it must in the folder ``profile``; it ends with the block."""
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    for flag in (*FLAGS, f"--user-data-dir={os.path.abspath(profile)}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    try:
        yield driver
    finally:
        driver.quit()


class Page:
    """A page in the browser: what it shows, and what a person does with it."""

    def __init__(self, browser):
        self.browser = browser
        browser.get_log("browser")  # what earlier tests left
        self.view(1280, 720)

    def all(self, selector):
        from selenium.webdriver.common.by import By

        return self.browser.find_elements(By.CSS_SELECTOR, selector)

    def one(self, selector):
        (element,) = self.all(selector)
        return element

    def until(self, condition):
        from selenium.webdriver.support.ui import WebDriverWait

        return WebDriverWait(self.browser, HANG, poll_frequency=0.02).until(lambda _: condition())

    def view(self, width, height, scheme="light"):
        """The size of the window, and whether the person likes it light or dark."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
        self.browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})

    def screenshot(self, path):
        """Keep a picture of the page, and hand it over."""
        from PIL import Image

        self.browser.save_screenshot(str(path))
        return Image.open(path).convert("RGB")

    def complaints(self):
        """What the browser's console holds: scripts that failed, things that the content security policy blocked."""
        return [entry["message"] for entry in self.browser.get_log("browser")]
