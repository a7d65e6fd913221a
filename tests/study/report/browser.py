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

import matplotlib.image
import numpy as np

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
<iframe id="frame" style="border:0;height:800px"></iframe>
<pre id="verdict"></pre>
<script>
const frame = document.getElementById("frame");
const wait = ms => new Promise(done => setTimeout(done, ms));
async function look(page, width) {{
  frame.style.width = width + "px";
  await new Promise(done => {{ frame.onload = done; frame.src = "/" + page; }});
  await wait({patience});
  const view = frame.contentWindow, root = frame.contentDocument.documentElement;
  const images = [...frame.contentDocument.images];
  return {{
    errors: view.heard,
    broken: images.filter(image => image.naturalWidth === 0).map(image => image.alt),
    images: images.map(image => image.naturalWidth),
    width: root.clientWidth,
    needed: root.scrollWidth,
    text: root.innerText,
    formulas: [root.querySelectorAll(".math").length,
               root.querySelectorAll("mjx-container").length],
  }};
}}
async function all() {{
  const found = [];
  for (const [page, width] of {visits}) found.push(await look(page, width));
  document.getElementById("verdict").textContent = JSON.stringify(found);
}}
all();
</script>"""


class Verdict(NamedTuple):
    """What the browser found."""

    errors: list[str]  # of scripts, of resources, of the security policy
    broken: list[str]  # alternative texts of images that show nothing
    images: list[int]  # natural widths in pixels
    width: int  # pixels that the page has
    needed: int  # pixels that its content takes
    text: str  # that is shown
    formulas: list[int]  # how many there are, and how many are drawn
    asked: list[str]  # what all pages asked the server for beside themselves


def find() -> str | None:
    """The path of a browser, if there is one."""
    return next((path for path in map(shutil.which, _NAMES) if path), None)


def probe(page: Path, width: int) -> Verdict:
    """Load a page in a frame of `width` pixels and look at it.

    Raises:
      RuntimeError: the browser gave no verdict.
    """
    return tour(page.parent, [(page.name, width)])[0]


def tour(folder: Path, visits: list[tuple[str, int]], patience=200) -> list[Verdict]:
    """The same of several pages, addresses below the folder, one after the other.

    Each is looked at so many milliseconds after it was loaded.
    """
    asked: list[str] = []
    wrapper = _WRAPPER.format(visits=json.dumps(visits), patience=patience)
    pages = {f"/{page.partition('?')[0]}" for page, _ in visits}
    handler = functools.partial(
        _Handler, wrapper=wrapper, pages=pages, asked=asked, directory=str(folder)
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
    return [
        Verdict(**verdict, asked=asked)
        for verdict in json.loads(html.unescape(found[1]))
    ]


def picture(page: Path, width: int, height: int) -> np.ndarray:
    """[height, width, 3 or 4], what a page shows in a frame of so many pixels."""
    browser = find()
    assert browser is not None
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        frame = Path(folder) / "frame.html"
        look = f"border:0;width:{width}px;height:{height}px"
        frame.write_text(
            f'<body style="margin:0"><iframe src="{page.as_uri()}" style="{look}">'
        )
        path = Path(folder) / "page.png"
        subprocess.run(
            [
                *(browser, "--headless", "--no-sandbox", "--disable-gpu"),
                *("--disable-dev-shm-usage", "--hide-scrollbars"),
                f"--user-data-dir={folder}/profile",
                "--host-resolver-rules=MAP * ~NOTFOUND",
                f"--window-size={max(width, 600)},{height}",
                "--virtual-time-budget=5000",
                f"--screenshot={path}",
                frame.as_uri(),
            ],
            capture_output=True,
            timeout=120,
            check=True,
        )
        shown = matplotlib.image.imread(path)
    return (255 * shown[:height, :width]).round()


class _Handler(http.server.SimpleHTTPRequestHandler):
    """Serves the wrapper, the pages with the listeners, and the files beside them."""

    def __init__(self, *args, wrapper: str, pages: set, asked: list[str], **options):
        self.wrapper, self.pages, self.asked = wrapper, pages, asked
        super().__init__(*args, **options)

    def do_GET(self):
        place = self.path.partition("?")[0]
        if place == "/probe":
            self._send(self.wrapper)
        elif place in self.pages:
            text = (Path(self.directory) / place[1:]).read_text("utf-8")
            self._send(text.replace("<head>", "<head>" + _LISTEN, 1))
        elif place == "/favicon.ico":  # the browser's own wish, of the wrapper
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
                "--virtual-time-budget=120000",
                "--dump-dom",
                address,
            ],
            capture_output=True,
            text=True,
            timeout=120,
            check=True,
        )
    return done.stdout
