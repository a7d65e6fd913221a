"""What a headless browser finds wrong with a page."""

import functools
import html
import http.server
import json
import re
import shutil
import subprocess
import tempfile
import threading
from pathlib import Path
from typing import NamedTuple

_NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")

# First in the page's head, before anything of its own can fail; the capturing listener
# hears of resources too, whose errors do not bubble.
_LISTEN = """<script>
window.heard = [];
addEventListener("error", event => heard.push(event.message ||
  event.target.tagName + " did not load: " + event.target.alt), true);
addEventListener("unhandledrejection", event => heard.push(String(event.reason)));
addEventListener("securitypolicyviolation", event =>
  heard.push(event.violatedDirective + " forbids " + event.blockedURI));
</script>"""

_WRAPPER = """<!DOCTYPE html><title>probe</title>
<iframe id="frame" src="/{page}" style="border:0;width:{width}px;height:800px"></iframe>
<pre id="verdict"></pre>
<script>
const frame = document.getElementById("frame");
frame.addEventListener("load", () => setTimeout(() => {{
  const view = frame.contentWindow, page = frame.contentDocument;
  const root = page.documentElement, images = [...page.images];
  document.getElementById("verdict").textContent = JSON.stringify({{
    errors: view.heard,
    broken: images.filter(image => image.naturalWidth === 0).map(image => image.alt),
    images: images.map(image => image.naturalWidth),
    width: root.clientWidth,
    needed: root.scrollWidth,
  }});
}}, 200));
</script>"""


class Verdict(NamedTuple):
    """What the browser found."""

    errors: list[str]  # of scripts, of resources, of the security policy
    broken: list[str]  # alternative texts of images that show nothing
    images: list[int]  # natural widths in pixels
    width: int  # pixels that the page has
    needed: int  # pixels that its content takes
    asked: list[str]  # what the page asked the server for beside itself


def find() -> str | None:
    """The path of a browser, if there is one."""
    return next((path for path in map(shutil.which, _NAMES) if path), None)


def probe(page: Path, width: int) -> Verdict:
    """Load a page in a frame of `width` pixels and look at it.

    Raises:
      RuntimeError: the browser gave no verdict.
    """
    asked: list[str] = []
    handler = functools.partial(
        _Handler, page=page, width=width, asked=asked, directory=str(page.parent)
    )
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        dom = _dom(f"http://127.0.0.1:{server.server_address[1]}/probe")
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    found = re.search(r'<pre id="verdict">(.+?)</pre>', dom, re.DOTALL)
    if found is None:
        raise RuntimeError(f"the browser gave no verdict: {dom[-2000:]}")
    return Verdict(**json.loads(html.unescape(found[1])), asked=asked)


class _Handler(http.server.SimpleHTTPRequestHandler):
    """Serves the wrapper, the page with the listeners, and the files beside it."""

    def __init__(self, *args, page: Path, width: int, asked: list[str], **options):
        self.page, self.width, self.asked = page, width, asked
        super().__init__(*args, **options)

    def do_GET(self):
        if self.path == "/probe":
            self._send(_WRAPPER.format(page=self.page.name, width=self.width))
        elif self.path == f"/{self.page.name}":
            text = self.page.read_text("utf-8")
            self._send(text.replace("<head>", "<head>" + _LISTEN, 1))
        elif self.path == "/favicon.ico":  # the browser's own wish, of the wrapper
            self.send_error(404)
        else:
            self.asked.append(self.path)
            super().do_GET()

    def log_message(self, *_):
        pass

    def _send(self, text: str):
        body = text.encode("utf-8")
        self.send_response(200)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def _dom(address: str) -> str:
    """The document after its scripts have run."""
    browser = find()
    assert browser is not None
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        done = subprocess.run(
            [
                *(browser, "--headless", "--no-sandbox", "--disable-gpu"),
                *("--disable-dev-shm-usage", "--hide-scrollbars"),
                f"--user-data-dir={profile}",
                "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
                "--window-size=1600,1000",
                "--virtual-time-budget=10000",
                "--dump-dom",
                address,
            ],
            capture_output=True,
            text=True,
            timeout=120,
            check=True,
        )
    return done.stdout
