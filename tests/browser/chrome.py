"""A small driver of headless Chromium over the DevTools protocol.

https://chromedevtools.github.io/devtools-protocol/
"""

import asyncio
import base64
import json
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Self

from websockets.asyncio.client import ClientConnection, connect

BINARIES = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--no-default-browser-check",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-extensions",
    "--hide-scrollbars",
    "--remote-debugging-port=0",
    # Whatever a page asks for, no other host is reached.
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
)
WAIT_S = 60.0


def binary() -> str | None:
    return next((found for name in BINARIES if (found := shutil.which(name))), None)


class Page:
    """One tab. What it asked for and what it complained about is kept for the test to judge."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket
        self._next_id = 0
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._reader: asyncio.Task[None] | None = None
        self.requests: list[str] = []
        self.complaints: list[str] = []

    async def open(self) -> Self:
        self._reader = asyncio.create_task(self._read())
        for domain in ("Page", "Runtime", "Network", "Log"):
            await self.send(f"{domain}.enable")
        return self

    async def close(self) -> None:
        if self._reader is not None:
            self._reader.cancel()
        await self._socket.close()

    async def _read(self) -> None:
        async for text in self._socket:
            message = json.loads(text)
            if "id" in message:
                answer = self._answers.pop(message["id"], None)
                if answer is not None and not answer.done():
                    answer.set_result(message)
            else:
                self._note(message["method"], message["params"])

    def _note(self, method: str, params: dict[str, Any]) -> None:
        if method == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])
        elif method == "Runtime.exceptionThrown":
            details = params["exceptionDetails"]
            self.complaints.append(details.get("exception", {}).get("description", str(details)))
        elif method == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning"):
            self.complaints.append(str([arg.get("value") for arg in params["args"]]))
        elif method == "Log.entryAdded" and params["entry"]["level"] == "error":
            entry = params["entry"]
            self.complaints.append(f"{entry['text']} {entry.get('url', '')}")

    async def send(self, method: str, **params: Any) -> dict[str, Any]:
        self._next_id += 1
        answer: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._answers[self._next_id] = answer
        await self._socket.send(
            json.dumps({"id": self._next_id, "method": method, "params": params})
        )
        message = await asyncio.wait_for(answer, WAIT_S)
        assert "error" not in message, message
        result: dict[str, Any] = message["result"]
        return result

    async def run(self, script: str) -> Any:
        """Evaluate an expression in the page, await it, and return its JSON value."""
        result = await self.send(
            "Runtime.evaluate",
            expression=script,
            awaitPromise=True,
            returnByValue=True,
            userGesture=True,
        )
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    async def until(self, condition: str) -> None:
        """Wait until the expression is true, looking at it once a frame, inside the page."""
        script = f"""
            new Promise((resolve) => {{
              const end = performance.now() + {WAIT_S * 1000 - 1000};
              const look = () => {{
                let found = false;
                try {{ found = Boolean({condition}); }} catch {{ found = false; }}
                if (found || performance.now() > end) resolve(found);
                else setTimeout(look, 16);
              }};
              look();
            }})"""
        if not await self.run(script):
            text = await self.run("document.body.innerText")
            raise AssertionError(f"never true: {condition}\n{self.complaints}\n{text}")

    async def goto(self, url: str) -> None:
        await self.send("Page.navigate", url=url)
        await self.until(
            f"location.href.startsWith({json.dumps(url)}) && document.readyState === 'complete'"
        )

    async def click(self, selector: str) -> None:
        await self.until(f"document.querySelector({json.dumps(selector)})")
        await self.run(f"document.querySelector({json.dumps(selector)}).click()")

    async def fill(self, selector: str, value: str) -> None:
        await self.run(
            f"(() => {{ const f = document.querySelector({json.dumps(selector)});"
            f" f.focus(); f.value = {json.dumps(value)};"
            " f.dispatchEvent(new Event('input', {bubbles: true})); })()"
        )

    async def press(self, key: str) -> None:
        text = "\r" if key == "Enter" else ""
        code = {"Enter": 13, "Escape": 27, "Tab": 9}[key]
        for kind in ("keyDown", "keyUp"):
            await self.send(
                "Input.dispatchKeyEvent",
                type=kind,
                key=key,
                code=key,
                windowsVirtualKeyCode=code,
                text=text if kind == "keyDown" else "",
            )

    async def resize(self, width: int, height: int, *, dark: bool = False) -> None:
        await self.send(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        await self.send("Emulation.setEmulatedMedia", features=scheme)

    async def screenshot(self, path: Path) -> None:
        image = await self.send("Page.captureScreenshot", format="png")
        await asyncio.to_thread(path.write_bytes, base64.b64decode(image["data"]))


@asynccontextmanager
async def browser(profile: Path) -> AsyncIterator["Browser"]:
    """Start Chromium with its own profile and stop it at the end."""
    found = binary()
    assert found is not None
    process = await asyncio.create_subprocess_exec(
        found,
        *FLAGS,
        f"--user-data-dir={profile}",
        "about:blank",
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stderr is not None
    stderr = process.stderr
    try:
        address = await asyncio.wait_for(_devtools_address(stderr), WAIT_S)
        drain = asyncio.create_task(_drain(stderr))
        async with connect(address, max_size=None, open_timeout=WAIT_S) as socket:
            yield Browser(socket, address)
        drain.cancel()
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def _devtools_address(stderr: asyncio.StreamReader) -> str:
    seen = b""
    while line := await stderr.readline():
        seen += line
        if line.startswith(b"DevTools listening on "):
            return line.decode().removeprefix("DevTools listening on ").strip()
    raise AssertionError(f"Chromium did not start:\n{seen.decode(errors='replace')}")


async def _drain(stderr: asyncio.StreamReader) -> None:
    while await stderr.readline():
        pass


class Browser:
    def __init__(self, socket: ClientConnection, address: str) -> None:
        self._control = Page(socket)
        self._control._reader = asyncio.create_task(self._control._read())
        self._origin = address.split("/devtools/")[0]

    @asynccontextmanager
    async def page(self) -> AsyncIterator[Page]:
        """Open a tab with cookies and storage of its own."""
        context = (await self._control.send("Target.createBrowserContext"))["browserContextId"]
        target = await self._control.send(
            "Target.createTarget", url="about:blank", browserContextId=context
        )
        async with connect(
            f"{self._origin}/devtools/page/{target['targetId']}",
            max_size=None,
            open_timeout=WAIT_S,
        ) as socket:
            page = await Page(socket).open()
            yield page
            await page.close()
        await self._control.send("Target.disposeBrowserContext", browserContextId=context)
