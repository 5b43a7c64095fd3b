"""A comparison's page in a real browser: all its pictures are drawn, and it asks for nothing."""

from __future__ import annotations

import pytest
from report.made_runs import HARM, make_run

from tmqc.report.compare.gather import gather
from tmqc.report.compare.page import write_comparison

pytestmark = pytest.mark.browser

# The pictures are part of the page; a heat map has an image inside of it, which tells its size to a copy only.
LOAD = """
window.sizes = null
const sources = [...document.querySelectorAll('svg image')].map(each => each.href.baseVal)
Promise.all(sources.map(async source => {
    const copy = new Image()
    copy.src = source
    await copy.decode()
    return copy.naturalWidth
})).then(sizes => { window.sizes = sizes }, error => { window.sizes = [String(error)] })
"""
DRAWN = "return [...document.querySelectorAll('figure > svg')].map(each => each.getBoundingClientRect().width)"


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    outputs = tmp_path_factory.mktemp("outputs")
    make_run(outputs, "clean", "c")
    for error in (0.01, 0.02):
        found = {"n_harmful": 4, "n_eliminated": 2, "recall": 0.5, "precision": 1.0, "n_good_lost": 0}
        make_run(outputs, "qc", f"e{error}", *HARM, f"qc.error={error}", detection=found)
    return write_comparison(gather([outputs]), outputs / "comparison", title="Side by side")


def test_the_page_and_its_pictures_are_whole(browser, page):
    browser.open(page.as_uri(), height=2400)
    browser.wait_for_text("Harmful scans found")
    drawn = browser.ask(DRAWN)
    assert len(drawn) == 3 and all(width > 100 for width in drawn)  # models, precision against recall, maps
    browser.ask(LOAD)
    sizes = browser.wait("return window.sizes", "every image")
    assert len(sizes) == 5 and all(isinstance(size, int) and size > 0 for size in sizes), sizes
    assert [url for url in browser.requests() if not url.startswith("data:")] == [page.as_uri()]
    assert browser.errors() == []
    browser.keep("comparison")
