"""``edgeseg report`` in a real browser: one file that needs nothing else, on a phone, on a desk and in print."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from shell import edgeseg, refused
from workshop import Workshop

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
browser = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine: the report is not opened in a browser")
# What the page is asked from inside, written where --dump-dom shows it.
PROBE = """<script>addEventListener("load", () => { const root = document.documentElement;
root.dataset.probe = JSON.stringify({ width: innerWidth, content: root.scrollWidth,
images: [...document.images].map(i => i.naturalWidth),
fetched: performance.getEntriesByType("resource").map(e => e.name).filter(n => !n.startsWith("data:")),
unnamed: [...document.querySelectorAll("img:not([alt]), svg:not([role=img])")].length,
dark: getComputedStyle(document.body).backgroundColor,
cut: [...document.querySelectorAll(".scroll")].filter(e => e.scrollWidth > e.clientWidth + 1).length }); });</script>"""


@pytest.fixture(scope="module")
def report(embedded: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("report") / "report.html"
    done = edgeseg(
        "report", embedded("onnx-fp32"), embedded("onnx-int8"), "--html", path, "--budget", "0", "--no-memory",
        "--rule", "miou:-0.5pt", "--rule", "size:300kB", cwd=path.parent,
    )  # fmt: skip
    assert done.code == 0, done.err
    assert "scenes-onnx-fp32: fail" in done.out
    assert "scenes-onnx-int8: pass" in done.out
    return path


class _Text(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.words: list[str] = []
        self._hidden = 0

    def handle_starttag(self, tag: str, attrs: object) -> None:
        del attrs
        self._hidden += tag == "style"

    def handle_endtag(self, tag: str) -> None:
        self._hidden -= tag == "style"

    def handle_data(self, data: str) -> None:
        if not self._hidden:
            self.words += data.split()


def chromium(page: Path, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Headless, with a profile of its own. What the page writes to its console comes on stderr."""
    assert CHROMIUM is not None
    command = [
        CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
        "--disable-background-networking", "--disable-component-update", "--disable-sync", "--hide-scrollbars",
        "--enable-logging=stderr", f"--user-data-dir={folder / 'profile'}", *arguments, page.as_uri(),
    ]  # fmt: skip
    return subprocess.run(command, capture_output=True, text=True, timeout=180, check=True)


def probe(report: Path, folder: Path, *arguments: str) -> dict[str, Any]:
    page = folder / "probed.html"
    page.write_text(report.read_text().replace("</body>", PROBE + "</body>"))
    done = chromium(page, folder, *arguments, "--virtual-time-budget=5000", "--dump-dom")
    assert "CONSOLE" not in done.stderr, done.stderr
    found = re.search(r'data-probe="([^"]*)"', done.stdout)
    assert found is not None
    seen: dict[str, Any] = json.loads(html.unescape(found[1]))
    return seen


def test_page_says_everything_and_needs_nothing(report: Path) -> None:
    text = report.read_text()
    assert not re.findall(r"https?:|<script|<link|url\(", text), "the page reaches out"
    parser = _Text()
    parser.feed(text)
    said = " ".join(parser.words)
    assert said.index("scenes-onnx-fp32: fail") < said.index("Targets"), "the verdict comes first"
    for phrase in ("Speed against quality", "IoU by class", "building", "Where it arises", "quantize", "Error of each tensor",
                   "Pictures", "was right", "Latency", "Machine and versions", "onnxruntime", "sha256:"):  # fmt: skip
        assert phrase in said, phrase
    pictures = re.findall(r'<img src="data:image/jpeg;base64,', text)
    assert len(pictures) == 5 * (2 + 5), "typical ones for both, the worst where anything is lost; five panels each"


@browser
@pytest.mark.parametrize("width", [390, 1200])
def test_layout(report: Path, tmp_path: Path, width: int) -> None:
    """Nothing sticks out, no table is cut, every picture is decoded, nothing is fetched."""
    seen = probe(report, tmp_path, f"--window-size={width},900")
    assert seen["content"] <= seen["width"], seen
    assert seen["cut"] == 0
    assert seen["fetched"] == []
    assert seen["images"]
    assert min(seen["images"]) > 100
    assert seen["unnamed"] == 0, "a picture or plot without a name for those who cannot see it"


@browser
def test_dark_where_the_reader_prefers_it(report: Path, tmp_path: Path) -> None:
    seen = [probe(report, tmp_path, f"--blink-settings=preferredColorScheme={scheme}")["dark"] for scheme in (0, 1)]
    assert [sum(map(int, re.findall(r"\d+", color)[:3])) < 128 for color in seen] == [True, False]


def test_every_text_colour_has_contrast(report: Path) -> None:
    """WCAG 2.1, success criterion 1.4.3: 4.5 to 1 against the card and the page, light and dark."""
    text = report.read_text()
    light, dark, printed = re.findall(r":root \{([^}]*)\}", text)
    for scheme in (light, dark, printed):
        colors = {name: _luminance(value) for name, value in re.findall(r"--([a-z]+):#([0-9a-f]+)", scheme)}
        for name in ("ink", "soft", "pass", "fail", "open", "blue"):
            for behind in ("card", "ground"):
                high, low = sorted((colors[name], colors[behind]), reverse=True)
                assert (high + 0.05) / (low + 0.05) >= 4.5, (name, behind, scheme)


def _luminance(digits: str) -> float:
    """Relative luminance, WCAG 2.1."""
    full = "".join(digit * 2 for digit in digits) if len(digits) == 3 else digits
    parts = [int(full[i : i + 2], 16) / 255 for i in (0, 2, 4)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@browser
def test_screenshot_and_print(report: Path, tmp_path: Path) -> None:
    picture, printed = tmp_path / "phone.png", tmp_path / "page.pdf"
    chromium(report, tmp_path, "--window-size=390,1200", f"--screenshot={picture}")
    shown = np.asarray(Image.open(picture).convert("RGB")).reshape(-1, 3)
    for red, green, blue in ((0xC0, 0x32, 0x2B), (0x1A, 0x7F, 0x4B)):  # the bars of a failed and of a passed verdict
        assert (shown == (red, green, blue)).all(axis=1).sum() > 500
    chromium(report, tmp_path, "--no-pdf-header-footer", f"--print-to-pdf={printed}")
    assert printed.read_bytes().startswith(b"%PDF")
    assert printed.stat().st_size > 50_000


def test_refusals(embedded: Callable[[str], Path], artifact: Callable[[str], Path], workshop: Workshop, tmp_path: Path) -> None:
    del workshop
    refused(edgeseg("report", embedded("onnx-fp32"), artifact("onnx-fp32"), cwd=tmp_path), 2, "2 models")
    refused(edgeseg("report", embedded("onnx-fp32"), "--rule", "miou", cwd=tmp_path), 2, "miou")
