"""The page of a table: it needs nothing else, can be read by keyboard and screen reader, and fits a phone."""

import base64
import html
import io
import re
import shutil
import subprocess
from html.parser import HTMLParser

import pytest
from PIL import Image
from support.tables import TableFolder

from scorelight.tables.page import as_page

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
]


@pytest.fixture
def page(tmp_path):
    picture = tmp_path / "samples.png"
    Image.new("L", (40, 40), 128).save(picture)
    result = TableFolder(tmp_path).collect({"A <b>": [3.0, 3.2], "B": [3.05, 3.1]}, published={"B": "≤ 3.17"})
    curves = {"A <b>": [(100.0, 2.0), (200.0, 1.0)], "B": [(100.0, 2.5), (200.0, 0.5)]}
    commands = {("A <b>", "10"): ["scorelight fit --config=digits/quick", "scorelight evaluate run"]}
    return as_page(result, curves, {"A <b>, 10": picture}, commands, {"torch": "2.6"})


class Elements(HTMLParser):
    """Tags with their attributes and text, and whether all that are opened are closed."""

    VOID = ("meta", "link", "img", "path")

    def __init__(self, text):
        super().__init__()
        self.open, self.found, self.urls = [], [], []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))
        self.urls += [v for k, v in attrs if k in ("src", "href", "srcset", "action", "data")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_it_asks_for_nothing_and_runs_nothing(page):
    elements = Elements(page)
    assert elements.urls and all(url.startswith(("data:", "#")) for url in elements.urls)
    assert not {"script", "iframe", "object", "embed"} & {tag for tag, _ in elements.found}
    assert "@import" not in page and "url(" not in page


def test_it_can_be_used_without_eyes_or_mouse(page):
    elements = Elements(page).found
    tags = [tag for tag, _ in elements]
    assert ("html", {"lang": "en"}) in elements and tags.count("main") == tags.count("h1") == 1
    assert [attrs["scope"] for tag, attrs in elements if tag == "th"].count("row") == 2
    assert "caption" in tags
    assert all(attrs.get("alt") for tag, attrs in elements if tag == "img")
    named = [attrs for tag, attrs in elements if tag == "svg" and "aria-hidden" not in attrs]
    assert named and all(attrs["role"] == "img" and attrs["aria-label"] for attrs in named)
    ids = {attrs["id"] for _, attrs in elements if "id" in attrs}
    links = {attrs["href"][1:] for tag, attrs in elements if tag == "a"}
    assert links == ids and len(ids) == 4
    assert all(attrs["tabindex"] == "0" for tag, attrs in elements if tag == "pre")  # what scrolls


def test_names_are_text(page):
    assert "A &lt;b&gt;" in page and "<b>" not in page
    assert "scorelight fit --config=digits/quick\nscorelight evaluate run" in page


def contrast(one, other):
    """Of two colours (WCAG 2.2)."""

    def luminance(colour):
        digits = colour.lstrip("#")
        digits = "".join(2 * d for d in digits) if len(digits) == 3 else digits
        channels = [c / 255 for c in bytes.fromhex(digits)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_text_can_be_read_in_light_and_dark(page):
    themes = re.findall(r"--text: (\S+); --page: (\S+); --line: \S+; --paper: (\S+); --link: (\S+);", page)
    assert len(themes) == 2
    for text, background, *others in themes:
        assert all(contrast(colour, background) >= 4.5 for colour in (text, *others))


def framed(page, width):
    """The page in a frame of some width, narrower than a window can be; the title says how wide it became."""
    return (
        f'<body style="margin:0"><iframe srcdoc="{html.escape(page)}" width="{width}" height="900" '
        'style="border:0" onload="document.title = contentDocument.documentElement.scrollWidth"></iframe>'
    )


@pytest.mark.skipif(BROWSER is None, reason="no Chromium is installed")
@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("dark", [False, True])
def test_a_browser_shows_all_of_it_within_the_width(page, width, dark, tmp_path):
    file, picture = tmp_path / "table.html", tmp_path / "shot.png"
    file.write_text(framed(page, width))
    options = [*FLAGS, f"--user-data-dir={tmp_path / 'profile'}", "--window-size=1280,900"]
    options += ["--force-dark-mode"] if dark else []

    def browse(*what):
        command = [BROWSER, *options, *what, f"file://{file}"]
        return subprocess.run(command, check=True, capture_output=True, timeout=120).stdout.decode()

    browse(f"--screenshot={picture}")
    with Image.open(picture) as shot:
        seen = shot.convert("L").crop((0, 0, width, 900))
    low, high = seen.getextrema()
    assert high - low > 150  # text on its background
    assert (seen.getpixel((2, 2)) < 64) == dark
    title = re.search(r"<title>(\d+)</title>", browse("--dump-dom"))
    assert int(title[1]) == width


def test_the_picture_is_in_the_page(page):
    (content,) = re.findall(r'<img src="data:image/png;base64,([^"]+)"', page)
    with Image.open(io.BytesIO(base64.b64decode(content))) as picture:
        assert picture.size == (40, 40)
