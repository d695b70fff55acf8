"""Debian's Chromium, driven over its DevTools protocol on two pipes: no library, no port.

Expressions are evaluated by the browser itself, so a page's Content-Security-Policy does not block
them. Every request, console message and uncaught error of the page is kept.
"""

from __future__ import annotations

import base64
import fcntl
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from select import select
from typing import Any

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-dev-shm-usage",
    "--no-first-run", "--no-default-browser-check", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--hide-scrollbars",
    "--remote-debugging-pipe", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
)  # fmt: skip
ANSWER_S = 120.0
WIDTH, HEIGHT = 1200, 900


class Page:
    """One page of a browser."""

    def __init__(self, to_browser: int, from_browser: int) -> None:
        self.requests: list[str] = []
        self.problems: list[str] = []  # console errors, warnings of the browser, uncaught errors
        self._write, self._read = to_browser, from_browser
        self._buffer, self._number = b"", 0
        self._session: str | None = None
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        found = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = found["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")
        self.resize(WIDTH, HEIGHT)

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send a command of the DevTools protocol, and return its result."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self._write, data) :]
        ends = time.monotonic() + ANSWER_S
        while time.monotonic() < ends:
            for answer in self._receive(ends - time.monotonic()):
                if answer.get("id") == self._number:
                    assert "error" not in answer, answer["error"]
                    return dict(answer["result"])
        raise AssertionError(f"the browser did not answer {method} in {ANSWER_S:g} s")

    def _receive(self, timeout_s: float) -> list[dict[str, Any]]:
        if not select([self._read], [], [], max(0.0, timeout_s))[0]:
            return []
        data = os.read(self._read, 1 << 20)
        assert data, "the browser has ended"
        *messages, self._buffer = (self._buffer + data).split(b"\0")
        found = [json.loads(each) for each in messages]
        for each in found:
            self._note(each.get("method", ""), each.get("params", {}))
        return found

    def _note(self, method: str, event: dict[str, Any]) -> None:
        match method:
            case "Network.requestWillBeSent":
                self.requests.append(event["request"]["url"])
            case "Runtime.consoleAPICalled" if event["type"] in ("error", "warning", "assert"):
                self.problems.append(str(event["args"]))
            case "Runtime.exceptionThrown":
                self.problems.append(str(event["exceptionDetails"]))
            case "Log.entryAdded" if event["entry"]["level"] in ("error", "warning"):
                self.problems.append(f"{event['entry']['text']} {event['entry'].get('url', '')}")
            case _:
                pass

    def evaluate(self, expression: str) -> Any:
        """Return the value of a JavaScript *expression*, awaited."""
        found = self.call(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def wait_for(self, expression: str, within_s: float = 60.0) -> Any:
        """Return the first value of *expression* that is true."""
        ends = time.monotonic() + within_s
        while not (found := self.evaluate(expression)):
            if time.monotonic() > ends:
                text = self.evaluate("document.body.innerText")
                raise AssertionError(f"not seen in {within_s:g} s: {expression}\n{text[:2000]}")
            time.sleep(0.1)
        return found

    def open(self, address: str) -> None:
        """Load *address* and wait for it; a page with an open stream counts as loaded."""
        found = self.call("Page.navigate", url=address)
        assert "errorText" not in found, found["errorText"]
        self.wait_for("document.readyState === 'complete' && location.href !== 'about:blank'")

    def close_document(self) -> None:
        """Leave the document, before its server ends: it would try to connect again."""
        self.call("Page.navigate", url="about:blank")

    def press(self, key: str) -> None:
        """Press and release *key*, such as Tab or Enter."""
        code = {"Tab": 9, "Enter": 13}[key]
        text = {"text": "\r"} if key == "Enter" else {}
        fields = {"key": key, "code": key, "windowsVirtualKeyCode": code}
        self.call("Input.dispatchKeyEvent", type="keyDown", **fields, **text)
        self.call("Input.dispatchKeyEvent", type="keyUp", **fields)

    def prefer(self, scheme: str) -> None:
        """Make the browser prefer the colour *scheme*, light or dark."""
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.call("Emulation.setEmulatedMedia", features=features)

    def resize(self, width: int, height: int) -> None:
        """Set the size of the window."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=height, deviceScaleFactor=1, mobile=False,
        )  # fmt: skip

    def screenshot(self, file: Path, height: int | None = None) -> None:
        """Write what the window shows to *file*, or the page's first *height* pixels."""
        if height is not None:
            self.resize(WIDTH, height)
        self.evaluate("new Promise((done) => setTimeout(done, 400))")  # charts follow the size
        data = self.call("Page.captureScreenshot", format="png")["data"]
        file.write_bytes(base64.b64decode(data))

    def heap_bytes(self) -> int:
        """Return the memory of the page's JavaScript objects after a collection of garbage."""
        self.call("HeapProfiler.collectGarbage")
        return int(self.call("Runtime.getHeapUsage")["usedSize"])


@contextmanager
def open_browser(fail: Callable[[str], Any] = pytest.skip) -> Iterator[Page]:
    """Start a browser with an empty profile, and yield its page."""
    if CHROMIUM is None:
        fail("chromium is not installed: apt-get install chromium")
    assert CHROMIUM is not None
    near, to_browser = os.pipe()
    from_browser, far = os.pipe()
    ours, theirs = (fcntl.fcntl(each, fcntl.F_DUPFD, 20) for each in (near, far))  # neither 3 nor 4
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        # The browser reads from descriptor 3 and writes to descriptor 4.
        shell = f'exec "$0" "$@" 3<&{ours} 4>&{theirs} {ours}<&- {theirs}>&-'
        process = subprocess.Popen(
            ["bash", "-c", shell, CHROMIUM, *FLAGS, f"--user-data-dir={profile}", "about:blank"],
            pass_fds=(ours, theirs),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for each in (near, far, ours, theirs):
            os.close(each)
        try:
            yield Page(to_browser, from_browser)
        finally:
            os.close(to_browser)
            os.close(from_browser)
            process.terminate()
            process.wait(60)
