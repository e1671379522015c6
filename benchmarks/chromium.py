"""A headless Chromium for pictures and tests of pages, driven through its own debugging pipe.

The DevTools protocol over a pipe needs no other package: JSON messages that end in a zero byte.
"""

from __future__ import annotations

import base64
import fcntl
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome")
BROWSER = next(filter(None, map(shutil.which, NAMES)), None)
"""Path of the browser; None if there is none."""

FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-sync", "--disable-background-networking", "--disable-component-update",
    "--hide-scrollbars", "--remote-debugging-pipe",
)  # fmt: skip

KEYS = {
    "Tab": 9,
    "Enter": 13,
    "Escape": 27,
    "End": 35,
    "Home": 36,
    "ArrowLeft": 37,
    "ArrowRight": 39,
}
"""Name of a key -> its virtual key code."""


TAKE_ENDS = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.dup2(int(sys.argv[2]), 4)
os.execv(sys.argv[3], sys.argv[3:])
"""
"""A program that becomes the browser, which reads from file descriptor 3 and writes to 4."""


@dataclass
class Page:
    """One tab, which is driven by methods of the DevTools protocol."""

    _to_browser: int
    _from_browser: int
    _session: str = ""
    _last: int = 0
    _rest: bytes = b""
    events: list[dict[str, Any]] = field(default_factory=list)
    """Events that the browser sent unasked, such as errors of scripts."""

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """The result of a method of the DevTools protocol. Raises RuntimeError if it fails."""
        self._last += 1
        message = {"id": self._last, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._to_browser, json.dumps(message).encode() + b"\0")
        while (answer := self._next_message()).get("id") != self._last:
            self.events.append(answer)
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']['message']}")
        result: dict[str, Any] = answer["result"]
        return result

    def _next_message(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            read = os.read(self._from_browser, 1 << 16)
            if not read:
                raise RuntimeError("Chromium ended before it answered.")
            self._rest += read
        text, _, self._rest = self._rest.partition(b"\0")
        message: dict[str, Any] = json.loads(text)
        return message

    def attach(self) -> None:
        """Create a tab and attach to it."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        answer = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = answer["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def show(self, width: int, height: int, *, dark: bool = False, printed: bool = False) -> None:
        """Set the size of the window in pixels, the colour scheme that the reader prefers, and
        whether the page is laid out as on paper."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=height, deviceScaleFactor=1, mobile=False,
        )  # fmt: skip
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        media = "print" if printed else "screen"
        self.call("Emulation.setEmulatedMedia", media=media, features=[scheme])

    def open(self, file: Path) -> None:
        """Load a file and wait until its scripts have run."""
        self.events.clear()
        self.call("Page.navigate", url=file.resolve().as_uri())
        while not any(event.get("method") == "Page.loadEventFired" for event in self.events):
            self.events.append(self._next_message())

    def js(self, expression: str) -> Any:
        """The value of an expression as JSON holds it, or that to which its promise resolves.
        Raises RuntimeError for an exception."""
        answer = self.call(
            "Runtime.evaluate",
            expression=expression, returnByValue=True, awaitPromise=True, userGesture=True,
        )  # fmt: skip
        if "exceptionDetails" in answer:
            raise RuntimeError(f"{expression}: {answer['exceptionDetails']}")
        return answer["result"].get("value")

    def press(self, *names: str) -> None:
        """Press and release keys of `KEYS`, one after the other, on the element with the focus."""
        for name in names:
            key = {"key": name, "code": name, "windowsVirtualKeyCode": KEYS[name]}
            self.call("Input.dispatchKeyEvent", type="rawKeyDown", **key)
            self.call("Input.dispatchKeyEvent", type="keyUp", **key)

    def type(self, text: str) -> None:
        """Type a text into the element with the focus."""
        self.call("Input.insertText", text=text)

    def click(self, selector: str) -> None:
        """Click the middle of the first element that a CSS selector finds."""
        found = f"document.querySelector({json.dumps(selector)})"
        self.js(f"{found}.scrollIntoView({{block: 'center'}})")
        box = self.js(
            f"(({{x, y, width, height}}) => [x + width / 2, y + height / 2])"
            f"({found}.getBoundingClientRect())"
        )
        for kind in ("mousePressed", "mouseReleased"):
            self.call(
                "Input.dispatchMouseEvent",
                type=kind, x=box[0], y=box[1], button="left", clickCount=1,
            )  # fmt: skip

    def picture(self, file: Path, most: int) -> None:
        """Write a PNG file of the page, cut off below `most` pixels."""
        size = self.call("Page.getLayoutMetrics")["cssContentSize"]
        clip = size | {"height": min(size["height"], most), "scale": 1}
        answer = self.call("Page.captureScreenshot", captureBeyondViewport=True, clip=clip)
        file.write_bytes(base64.b64decode(answer["data"]))

    def pdf(self) -> bytes:
        """The page as it is printed."""
        return base64.b64decode(self.call("Page.printToPDF")["data"])

    @property
    def errors(self) -> list[str]:
        """Errors of scripts, and requests that the page's own policy refused, since the page was
        opened."""
        told = []
        for event in self.events:
            found = event.get("params", {})
            if event.get("method") == "Runtime.exceptionThrown":
                told.append(str(found["exceptionDetails"].get("exception", found)))
            if event.get("method") == "Log.entryAdded" and found["entry"]["level"] == "error":
                told.append(found["entry"]["text"])
        return told


@contextmanager
def browser() -> Iterator[Page]:
    """A page of a new browser, which is closed at the end of the `with`. Raises RuntimeError
    without Chromium."""
    if BROWSER is None:
        raise RuntimeError(f"Expected one of {', '.join(NAMES)} on this machine, got none.")
    theirs, ours, to_browser, from_browser = _pipes()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        command = [
            sys.executable, "-c", TAKE_ENDS, str(theirs), str(ours), BROWSER, *FLAGS,
            f"--user-data-dir={profile}",
        ]  # fmt: skip
        process = subprocess.Popen(  # noqa: S603 the browser of this machine
            command, pass_fds=(theirs, ours), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        os.close(theirs)
        os.close(ours)
        try:
            page = Page(to_browser, from_browser)
            page.attach()
            yield page
        finally:
            process.terminate()
            process.wait(timeout=30)
            os.close(to_browser)
            os.close(from_browser)


def _pipes() -> tuple[int, int, int, int]:
    """Ends for the browser to read and write, which are none of the files that it gets them as, and
    ours to write and read."""
    theirs, to_browser = os.pipe()
    from_browser, ours = os.pipe()
    high = [fcntl.fcntl(end, fcntl.F_DUPFD, 5) for end in (theirs, ours)]
    os.close(theirs)
    os.close(ours)
    return high[0], high[1], to_browser, from_browser
