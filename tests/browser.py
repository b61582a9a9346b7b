"""A headless browser for tests, by the WebDriver protocol itself: Chromium and its driver are all it needs."""

from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
_ELEMENT = "element-6066-11e4-a52e-4f735466cecf"  # what the protocol calls an element in JSON


class Browser:
    def __init__(self, address: str) -> None:
        self._address = address

    def _ask(self, method: str, path: str, content: dict[str, Any] | None = None) -> Any:
        body = None if content is None else json.dumps(content).encode()
        request = urllib.request.Request(f"{self._address}{path}", body, {"Content-Type": "application/json"}, method=method)
        try:
            with urllib.request.urlopen(request, timeout=60) as reply:
                return json.load(reply)["value"]
        except urllib.error.HTTPError as error:
            raise LookupError(json.load(error)["value"]["message"]) from None

    def open(self, address: str) -> None:
        self._ask("POST", "/url", {"url": address})

    def run(self, script: str, *arguments: Any) -> Any:
        """Run JavaScript, which may ``return``; a promise is waited for."""
        return self._ask("POST", "/execute/sync", {"script": script, "args": list(arguments)})

    def upload(self, selector: str, *paths: Path) -> None:
        """Choose files in a field, as a person does in the dialogue."""
        found = self._ask("POST", "/element", {"using": "css selector", "value": selector})
        self._ask("POST", f"/element/{found[_ELEMENT]}/value", {"text": "\n".join(map(str, paths))})

    def click(self, selector: str) -> None:
        found = self._ask("POST", "/element", {"using": "css selector", "value": selector})
        self._ask("POST", f"/element/{found[_ELEMENT]}/click", {})

    def keys(self, text: str) -> None:
        """Type into whatever has the focus."""
        strokes = [{"type": kind, "value": key} for key in text for kind in ("keyDown", "keyUp")]
        self._ask("POST", "/actions", {"actions": [{"type": "key", "id": "keyboard", "actions": strokes}]})

    def text(self, selector: str = "body") -> str:
        found = self.run("return document.querySelector(arguments[0])?.innerText ?? ''", selector)
        return str(found)

    def still(self, selector: str) -> bool:
        """Whether an element stays where it is for a moment: a click goes to a place, not to an element."""
        place = "const box = document.querySelector(arguments[0]).getBoundingClientRect(); return [box.x, box.y]"
        before = self.run(place, selector)
        time.sleep(0.3)
        return bool(before == self.run(place, selector))

    def wait(self, ready: Callable[[], Any], what: str, seconds: float = 60) -> Any:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if found := ready():
                return found
            time.sleep(0.1)
        raise AssertionError(f"waited {seconds} s for {what}; the page says: {self.text()}")

    def wait_for(self, text: str, selector: str = "body") -> str:
        return str(self.wait(lambda: text in (now := self.text(selector)) and now, f"{text!r}"))

    def size(self, width: int, height: int) -> None:
        self.command("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)

    def prefer(self, scheme: str) -> None:
        """Be a browser that prefers light or dark."""
        self.command("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def picture(self, path: Path, *, whole: bool = True) -> None:
        """Save what is shown, as PNG; the whole page, or what is in view."""
        shot = self.command("Page.captureScreenshot", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(shot["data"]))

    def command(self, name: str, **arguments: Any) -> Any:
        """Ask Chromium for something that WebDriver does not know."""
        return self._ask("POST", "/goog/cdp/execute", {"cmd": name, "params": arguments})

    def console(self) -> list[str]:
        """Return what has been written on the console since it was last asked for, from warnings on."""
        return [entry["message"] for entry in self._ask("POST", "/se/log", {"type": "browser"})]

    def requests(self) -> list[str]:
        """Return the addresses that have been asked for since it was last asked for; refused ones too."""
        entries = [
            json.loads(entry["message"])["message"] for entry in self._ask("POST", "/se/log", {"type": "performance"})
        ]
        sent = [entry["params"]["request"]["url"] for entry in entries if entry["method"] == "Network.requestWillBeSent"]
        return [address for address in sent if not address.startswith(("data:", "blob:"))]


@contextmanager
def browser(folder: Path) -> Iterator[Browser]:
    """Start Chromium, without a network but for this machine; it writes into `folder`, downloads too."""
    assert CHROMIUM is not None
    assert DRIVER is not None
    with subprocess.Popen([DRIVER, "--port=0"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as driver:
        try:
            assert driver.stdout is not None
            port = next(found[1] for line in driver.stdout if (found := re.search(r"successfully on port (\d+)", line)))
            options = {
                "binary": CHROMIUM,
                "args": [
                    "--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder / 'profile'}",
                    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1", "--force-color-profile=srgb",
                ],
                "prefs": {"download.default_directory": str(folder)},
                "perfLoggingPrefs": {"enableNetwork": True},
            }  # fmt: skip
            wanted = {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "WARNING", "performance": "ALL"}}
            started = Browser(f"http://127.0.0.1:{port}")._ask("POST", "/session", {"capabilities": {"alwaysMatch": wanted}})
            opened = Browser(f"http://127.0.0.1:{port}/session/{started['sessionId']}")
            try:
                yield opened
            finally:
                opened._ask("DELETE", "")
        finally:
            driver.terminate()
