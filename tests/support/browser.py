"""A headless Chromium with a microphone made of a file, driven over its DevTools protocol: no driver to install."""

from __future__ import annotations

import base64
import contextlib
import itertools
import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

from websockets.sync.client import ClientConnection, connect

# the shell alone is a third of the browser to install, and knows all that a page needs
NAMES = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
SWITCHES = (
    "--headless",
    "--no-sandbox",  # tests run as root in containers, and open nothing but the project's own page
    "--disable-dev-shm-usage",
    "--disable-gpu",
    "--hide-scrollbars",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--remote-debugging-port=0",
    "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
)


def program() -> str:
    """Which browser there is; `make test` installs one where there is none."""
    found = next((path for name in NAMES if (path := shutil.which(name))), None)
    assert found, f"none of {', '.join(NAMES)} is on PATH; `make browser` installs the first"
    return found


class Browser:
    """One browser with one page."""

    def __init__(self, folder: Path, microphone: Path):
        folder.mkdir(parents=True, exist_ok=True)
        arguments = [f"--user-data-dir={folder}", f"--use-file-for-fake-audio-capture={microphone}"]
        self._log = (folder / "browser.log").open("wb")
        self._process = subprocess.Popen(
            [program(), *SWITCHES, *arguments, "about:blank"],
            stdout=self._log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # the program may be a script that starts the browser: all of it must end
        )
        port, path = self._until(lambda: _lines(folder / "DevToolsActivePort"), "the browser listens")
        self._socket: ClientConnection = connect(f"ws://127.0.0.1:{port}{path}", max_size=None, open_timeout=60)
        self._ids, self._page, self.troubles = itertools.count(1), "", list[str]()

    def open(self, url: str, width: int = 1280, height: int = 800, scale: float = 1.0) -> None:
        """A new page, in place of the one before."""
        if self._page:
            self.call("Page.close")
        self._page = ""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._page = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self.troubles.clear()
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")
        self.size(width, height, scale)
        self.call("Page.navigate", url=url)
        self.wait("document.readyState === 'complete'")

    def size(self, width: int, height: int, scale: float = 1.0) -> None:
        """Of the window, in CSS pixels."""
        sizes = {"width": width, "height": height, "deviceScaleFactor": scale}
        self.call("Emulation.setDeviceMetricsOverride", mobile=width < 600, **sizes)

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """One command of the protocol; events on the way are looked through for errors of the page."""
        number = next(self._ids)
        message = {"id": number, "method": method, "params": parameters}
        self._socket.send(json.dumps(message | ({"sessionId": self._page} if self._page else {})))
        while True:
            answer = json.loads(self._socket.recv(timeout=60))
            if answer.get("id") == number:
                assert "error" not in answer, f"{method}: {answer}"
                return answer["result"]
            self._note(answer)

    def run(self, script: str) -> Any:
        """The value of a JavaScript expression; promises are awaited, and a click counts as a user's."""
        asked = {"expression": script, "awaitPromise": True, "returnByValue": True, "userGesture": True}
        result = self.call("Runtime.evaluate", **asked)
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    def wait(self, script: str, seconds: float = 60) -> Any:
        """Until an expression is true; its value."""
        return self._until(lambda: self.run(script), script, seconds)

    def choose(self, selector: str, file: Path) -> None:
        """Put a file into an input of the page."""
        found = self.call("Runtime.evaluate", expression=f"document.querySelector({json.dumps(selector)})")
        self.call("DOM.setFileInputFiles", files=[str(file)], objectId=found["result"]["objectId"])

    def press(self, key: str, code: int, text: str = "") -> None:
        """A key on the keyboard."""
        named = {"key": key, "code": key, "windowsVirtualKeyCode": code}
        self.call("Input.dispatchKeyEvent", type="keyDown", text=text, **named)
        self.call("Input.dispatchKeyEvent", type="keyUp", **named)

    def picture(self, file: Path) -> None:
        """What is seen, as a png file."""
        file.write_bytes(base64.b64decode(self.call("Page.captureScreenshot")["data"]))

    def close(self) -> None:
        self._socket.close()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(30)
        self._log.close()

    def _note(self, event: dict[str, Any]) -> None:
        if event["method"] == "Runtime.exceptionThrown":
            self.troubles.append(json.dumps(event["params"]["exceptionDetails"]))
        elif event["method"] == "Log.entryAdded" and event["params"]["entry"]["level"] == "error":
            self.troubles.append(json.dumps(event["params"]["entry"]))

    def _until(self, look: Any, what: str, seconds: float = 60) -> Any:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if found := look():
                return found
            assert self._process.poll() is None, f"the browser ended with {self._process.returncode}"
            time.sleep(0.05)
        raise AssertionError(f"{seconds:g} s passed without: {what}")


def _lines(file: Path) -> list[str]:
    text = file.read_text() if file.exists() else ""
    return text.split("\n") if text.count("\n") else []
