"""Headless Chromium for tests, driven by the DevTools protocol through two pipes."""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
MISSING = "no Chromium on this machine; apt-get install chromium"


class Tab:
    """A page in Chromium.

    Attributes:
        console: messages of the console and errors of scripts.
    """

    def __init__(self, reads: int, writes: int, deadline: float) -> None:
        self._reads, self._writes, self._deadline = reads, writes, deadline
        self._buffer, self._count, self._session = b"", 0, ""
        self.console: list[str] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "DOM"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Run a command of the protocol and return its result."""
        answer = self._ask(method, **parameters)
        assert "error" not in answer, answer
        return answer["result"]

    def _ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._count += 1
        message: dict[str, Any] = {"id": self._count, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._writes, json.dumps(message).encode() + b"\0")
        while (answer := self._next()).get("id") != self._count:
            if answer.get("method") == "Log.entryAdded":
                self.console.append(answer["params"]["entry"]["text"])
            elif answer.get("method") == "Runtime.exceptionThrown":
                self.console.append(str(answer["params"]["exceptionDetails"]))
        return answer

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            rest = self._deadline - time.monotonic()
            assert rest > 0 and select.select([self._reads], [], [], rest)[0], "Chromium does not answer"
            data = os.read(self._reads, 1 << 16)
            assert data, "Chromium ended"
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\0")
        return json.loads(line)

    def open(self, address: str, width: int = 1400, scheme: str = "light") -> None:
        """Load a page at a width in pixels, in the colour scheme `light` or `dark`."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False)
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self.call("Page.navigate", url=address)
        self.wait(f"document.readyState === 'complete' && location.href.startsWith({json.dumps(address)})")

    def run(self, script: str) -> Any:
        """Return the value of an expression."""
        answer = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def wait(self, script: str) -> None:
        """Wait until an expression is true; fail after the time of the browser."""
        while True:
            # Without awaitPromise, which is never answered if the page is left meanwhile.
            answer = self._ask("Runtime.evaluate", expression=f"!!({script})", returnByValue=True)
            result = answer.get("result", {})  # an error while another page is loaded
            assert "exceptionDetails" not in result, result
            if result.get("result", {}).get("value"):
                return
            assert time.monotonic() < self._deadline, f"never true: {script}\n{self.run('document.body.innerText')}"
            time.sleep(0.05)

    def upload(self, selector: str, *files: Path) -> None:
        """Choose files in a file input."""
        root = self.call("DOM.getDocument")["root"]["nodeId"]
        node = self.call("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.call("DOM.setFileInputFiles", files=[str(file) for file in files], nodeId=node)

    def click(self, selector: str) -> None:
        """Click with the mouse on the centre of an element."""
        x, y = self.run(
            f"(() => {{ const e = document.querySelector({json.dumps(selector)});"
            "e.scrollIntoView({block: 'center'});"
            "const b = e.getBoundingClientRect(); return [b.x + b.width / 2, b.y + b.height / 2] })()"
        )
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def press(self, key: str, text: str = "") -> None:
        """Press a key, such as "ArrowRight" or "2"."""
        code = {"ArrowRight": 39, "Tab": 9, "Enter": 13, " ": 32}.get(key, ord(key[0]))
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, text=text, windowsVirtualKeyCode=code)

    def photograph(self, target: Path) -> None:
        """Write a PNG of the whole page."""
        image = self.call("Page.captureScreenshot", captureBeyondViewport=True)["data"]
        target.write_bytes(base64.b64decode(image))


@contextmanager
def browse(profile: Path, seconds: float = 120) -> Iterator[Tab]:
    """Yield a tab of a new browser, which ends after `seconds`."""
    to_chromium, from_us = os.pipe()
    to_us, from_chromium = os.pipe()

    def connect() -> None:  # Chromium reads from descriptor 3 and writes to 4
        os.dup2(to_chromium, 10)
        os.dup2(from_chromium, 11)
        os.dup2(10, 3)
        os.dup2(11, 4)

    process = subprocess.Popen(
        [str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--remote-debugging-pipe",
         "--disable-dev-shm-usage", f"--user-data-dir={profile}"],
        preexec_fn=connect, pass_fds=(3, 4), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        start_new_session=True,
    )  # fmt: skip
    os.close(to_chromium)
    os.close(from_chromium)
    try:
        yield Tab(to_us, from_us, time.monotonic() + seconds)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, 9)
        process.wait()
        os.close(from_us)
        os.close(to_us)
