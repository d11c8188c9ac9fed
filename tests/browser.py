"""A headless Chromium for the tests of pages, driven by chromedriver over plain HTTP (the W3C's WebDriver)."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
_ELEMENT = "element-6066-11e4-a52e-4f735466cecf"
_SECONDS = 60
TAB = "\ue004"
LEFT, RIGHT, HOME, END = "\ue012", "\ue014", "\ue011", "\ue010"


def missing() -> str | None:
    """Why there is no browser to test with; None if there is one."""
    if shutil.which("chromedriver") is None:
        return "no chromedriver on the PATH (Debian: chromium-driver)"
    if not any(map(shutil.which, NAMES)):
        return "no Chromium on the PATH (Debian: chromium)"
    return None


class Browser:
    """One window of a session."""

    def __init__(self, address: str) -> None:
        self._address = address

    def call(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        """One WebDriver command.

        Raises:
            RuntimeError: with the driver's message.
        """
        data = None if method != "POST" else json.dumps(body or {}).encode()
        request = urllib.request.Request(
            self._address + path, data, {"Content-Type": "application/json"}, method=method
        )
        try:
            with urllib.request.urlopen(request, timeout=_SECONDS) as answer:
                return json.load(answer)["value"]
        except urllib.error.HTTPError as error:
            raise RuntimeError(json.load(error)["value"]["message"]) from None

    def open(self, page: Path, *, width: int = 1280, height: int = 1000, dark: bool = False) -> None:
        """Shows a page in a viewport of that size, as one of a phone where it is narrow."""
        self.devtools(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.devtools("Emulation.setEmulatedMedia", features=[scheme])
        self.call("POST", "/url", {"url": page.resolve().as_uri()})

    def devtools(self, command: str, **parameters: Any) -> Any:
        """A command of the DevTools protocol."""
        return self.call("POST", "/goog/cdp/execute", {"cmd": command, "params": parameters})

    def run(self, script: str, *arguments: Any) -> Any:
        """What a function body in JavaScript returns."""
        return self.call("POST", "/execute/sync", {"script": script, "args": list(arguments)})

    def point(self, selector: str) -> None:
        """Moves the pointer over the middle of an element, scrolled into view."""
        element = self.call("POST", "/element", {"using": "css selector", "value": selector})
        self.run("arguments[0].scrollIntoView({block: 'center'})", element)
        move = {"type": "pointerMove", "origin": {_ELEMENT: element[_ELEMENT]}, "x": 0, "y": 0, "duration": 0}
        pointer = {"type": "pointer", "id": "mouse", "parameters": {"pointerType": "mouse"}, "actions": [move]}
        self.call("POST", "/actions", {"actions": [pointer]})

    def press(self, *keys: str) -> None:
        """Presses keys one after the other, wherever the focus is."""
        actions = [{"type": kind, "value": key} for key in keys for kind in ("keyDown", "keyUp")]
        self.call("POST", "/actions", {"actions": [{"type": "key", "id": "keyboard", "actions": actions}]})

    def screenshot(self, *, whole: bool = False) -> bytes:
        """PNG of what is seen, or of the whole page."""
        if not whole:
            return base64.b64decode(self.call("GET", "/screenshot"))
        return base64.b64decode(self.devtools("Page.captureScreenshot", captureBeyondViewport=True)["data"])

    def complaints(self) -> list[str]:
        """What the console has said since the last call: errors of scripts, things that were not allowed to load."""
        return [entry["message"] for entry in self.call("POST", "/se/log", {"type": "browser"})]


@contextmanager
def browser(folder: Path) -> Iterator[Browser]:
    """A browser of its own with an empty profile in the folder; it and its driver end with the block.

    Tests are left out, too, where it does not start, as beside a driver of another version.
    """
    program = next(path for path in map(shutil.which, NAMES) if path)
    arguments = [
        "--headless=new",
        "--no-sandbox",  # the tests may run as root
        "--disable-dev-shm-usage",
        "--disable-gpu",
        "--hide-scrollbars",
        "--no-first-run",
        f"--user-data-dir={folder}",
    ]
    driver = subprocess.Popen(
        ["chromedriver", "--port=0"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=folder
    )
    watch = threading.Timer(_SECONDS, driver.kill)  # a driver that never says its port
    watch.start()
    try:
        assert driver.stdout is not None
        port = next((line.rsplit(" ", 1)[1].strip(" .\n") for line in driver.stdout if "success" in line), None)
        watch.cancel()
        if port is None:
            raise RuntimeError("chromedriver ended before it listened")
        started = Browser(f"http://127.0.0.1:{port}")
        wanted = {
            "browserName": "chrome",
            "goog:chromeOptions": {"binary": program, "args": arguments},
            "goog:loggingPrefs": {"browser": "ALL"},
        }
        try:
            session = started.call("POST", "/session", {"capabilities": {"alwaysMatch": wanted}})
        except RuntimeError as error:
            pytest.skip(f"the browser does not start: {str(error).splitlines()[0]}")
        opened = Browser(f"http://127.0.0.1:{port}/session/{session['sessionId']}")
        try:
            yield opened
        finally:
            opened.call("DELETE", "")
    finally:
        watch.cancel()
        driver.terminate()
        driver.wait(_SECONDS)
        if driver.stdout is not None:
            driver.stdout.close()
