"""A comparison page in a real browser: all images load, and nothing else is requested."""

from __future__ import annotations

import pytest
from report.made_runs import HARM, make_run

from tmqc.report.compare.page import write_comparison
from tmqc.report.compare.runs import gather

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    outputs = tmp_path_factory.mktemp("outputs")
    make_run(outputs, "clean", "c")
    for error in (0.01, 0.02):
        found = {"harmful": 4, "eliminated": 2, "recall": 0.5, "precision": 1.0, "good_lost": 0}
        make_run(outputs, "qc", f"e{error}", *HARM, f"qc.error={error}", detection=found)
    return write_comparison(gather([outputs]), outputs / "comparison", title="Side by side")


def test_comparison_page_loads_all_images_and_requests_nothing_else(browser, page):
    browser.open(page.as_uri(), height=2400)
    browser.wait_for_text("Harmful scans found")
    browser.ask("for (const image of document.images) image.loading = 'eager'")
    browser.wait("return [...document.images].every(image => image.complete)", "every figure")
    sizes = browser.ask("return [...document.images].map(image => image.naturalWidth)")
    assert len(sizes) == 3 and all(size > 100 for size in sizes)  # models, precision against recall, maps
    assert [url for url in browser.requests() if not url.startswith("data:")] == [page.as_uri()]
    assert browser.errors() == []
    browser.keep("comparison")
