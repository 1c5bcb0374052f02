"""A headless Chromium, driven through its DevTools protocol over a pipe; standard library only.

`chromium --screenshot` waits for ever on pages with WebGL, so the screenshots are taken through the protocol.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import tempfile
import threading
import time
from collections import deque
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "chromium-headless-shell", "google-chrome", "chrome")
_ANSWER_SECONDS = 90


def find_browser() -> str | None:
    """The program, or None; MAMBAMED_TEST_BROWSER names another one."""
    given = os.environ.get("MAMBAMED_TEST_BROWSER")
    return given or next(filter(None, map(shutil.which, NAMES)), None)


class Browser:
    """One page of a browser of its own.

    Attributes:
        requests: addresses that the page asked for, of any host.
        complaints: errors of the console, violations of the policy included.
    """

    def __init__(self, width: int = 1500, height: int = 900) -> None:
        program = find_browser()
        assert program is not None
        self._profile = tempfile.TemporaryDirectory(prefix="mambamed-browser-")
        to_browser, from_browser = os.pipe(), os.pipe()

        def pipes() -> None:
            # 3 is read and 4 is written by the browser; first out of the way, so that neither is overwritten.
            high = [os.dup(to_browser[0]), os.dup(from_browser[1])]
            os.dup2(high[0], 3)
            os.dup2(high[1], 4)

        flags = [
            "--headless=new", "--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader",
            "--remote-debugging-pipe", "--hide-scrollbars", "--mute-audio", "--disable-gpu-watchdog",
            "--disable-background-networking", "--disable-component-update", "--disable-sync",
            "--no-first-run", "--disable-dev-shm-usage", f"--user-data-dir={self._profile.name}",
            f"--window-size={width},{height}",
        ]  # fmt: skip
        self._process = subprocess.Popen(
            [program, *flags, "about:blank"], close_fds=False, preexec_fn=pipes,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(to_browser[0])
        os.close(from_browser[1])
        self._write, self._read = to_browser[1], from_browser[0]
        self._number, self._answers = 0, {}
        self._arrived = threading.Condition()
        self.requests: list[str] = []
        self.complaints: deque[str] = deque(maxlen=50)
        threading.Thread(target=self._listen, daemon=True).start()
        self._session = None
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")
        self.resize(width, height)

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """A command of the protocol."""
        self._number += 1
        number = self._number
        message: dict[str, Any] = {"id": number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        with self._arrived:
            if not self._arrived.wait_for(lambda: number in self._answers, _ANSWER_SECONDS):
                raise TimeoutError(f"{method}: the browser did not answer")
            answer = self._answers.pop(number)
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']}")
        return answer["result"]

    def resize(self, width: int, height: int) -> None:
        """Another size of the page."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.call("Emulation.setDeviceMetricsOverride", **size)

    @property
    def process(self) -> int:
        """Id of the browser's first process."""
        return self._process.pid

    def open(self, url: str) -> None:
        """Go to a page; it may still be loading."""
        self.requests.clear()
        self.complaints.clear()
        self.call("Page.navigate", url=url)

    def run(self, script: str) -> Any:
        """The value of a script's expression; promises are awaited."""
        answer = self.call(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True, userGesture=True
        )
        if "exceptionDetails" in answer:
            raise RuntimeError(json.dumps(answer["exceptionDetails"])[:2000])
        return answer["result"].get("value")

    def wait(self, script: str, seconds: float = 60) -> Any:
        """Wait until an expression is true."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            try:
                if value := self.run(script):
                    return value
            except RuntimeError:  # the page is not there yet
                pass
            time.sleep(0.05)
        raise TimeoutError(f"{script}: not true after {seconds} s; {list(self.complaints)}")

    def press(self, key: str) -> None:
        """A key, e.g. "ArrowDown" or "f"."""
        text = key if len(key) == 1 else ""
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, text=text if kind == "keyDown" else "")

    def mouse(self, kind: str, selector: str) -> None:
        """Press ("mousePressed") or release ("mouseReleased") the left button on an element."""
        middle = (
            "(() => { const b = document.querySelector(%s).getBoundingClientRect();"
            " return [b.x + b.width / 2, b.y + b.height / 2]; })()"
        )
        x, y = self.run(middle % json.dumps(selector))
        self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def click(self, selector: str) -> None:
        """Click on an element with the mouse."""
        for kind in ("mousePressed", "mouseReleased"):
            self.mouse(kind, selector)

    def type(self, text: str) -> None:
        """Type into the element that has the focus."""
        self.call("Input.insertText", text=text)

    def screenshot(self, path: Path | None = None) -> bytes:
        """The page as PNG."""
        data = base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"])
        if path is not None:
            path.write_bytes(data)
        return data

    def close(self) -> None:
        """End the browser."""
        self._session = None
        try:
            self.call("Browser.close")
            self._process.wait(20)
        except (OSError, TimeoutError, RuntimeError, subprocess.TimeoutExpired):
            self._process.kill()
            self._process.wait()
        os.close(self._write)
        for _ in range(20):
            try:
                self._profile.cleanup()
                break
            except OSError:  # its helpers are still writing
                time.sleep(0.1)

    def _listen(self) -> None:
        rest = b""
        while data := os.read(self._read, 2**20):
            *messages, rest = (rest + data).split(b"\0")
            for message in map(json.loads, messages):
                self._take(message)
        os.close(self._read)

    def _take(self, message: dict[str, Any]) -> None:
        params = message.get("params", {})
        if "id" in message:
            with self._arrived:
                self._answers[message["id"]] = message
                self._arrived.notify_all()
        elif message["method"] == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])
        elif message["method"] == "Runtime.exceptionThrown":
            details = params["exceptionDetails"]
            self.complaints.append(details.get("exception", {}).get("description") or details["text"])
        elif message["method"] == "Log.entryAdded" and params["entry"]["level"] == "error":
            self.complaints.append(f"{params['entry']['text']} {params['entry'].get('url', '')}")
        elif message["method"] == "Runtime.consoleAPICalled" and params["type"] == "error":
            self.complaints.append(str([arg.get("value", arg.get("description")) for arg in params["args"]]))
