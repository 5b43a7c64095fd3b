"""A run's report in a real browser: images load, nothing else is requested, tables sort, the page prints."""

from __future__ import annotations

import base64

import pytest
from paper_run import EVIL, write_paper_run

from tmqc.report.page import write_report

pytestmark = pytest.mark.browser

SECTIONS = ("steps", "cycles", "timeline", "ledger", "gallery", "test", "detection", "cost", "settings")
COLUMN = "return [...document.querySelectorAll('#cost tbody tr')].map(row => row.cells[2].textContent)"
HEAD = "const head = document.querySelectorAll('#cost th')[2]; "


@pytest.fixture(scope="module")
def paper(tmp_path_factory):
    return write_report(write_paper_run(tmp_path_factory.mktemp("paper")))


def check_page_is_complete(browser, path):
    """Every image is loaded, only the page itself was requested, and the console has no errors."""
    browser.ask("for (const image of document.images) image.loading = 'eager'")
    browser.wait("return [...document.images].every(image => image.complete)", "every picture")
    sizes = browser.ask("return [...document.images].map(image => image.naturalWidth)")
    assert sizes and all(size > 0 for size in sizes)
    asked = [url for url in browser.requests() if not url.startswith("data:")]
    assert asked == [path.as_uri()]
    assert browser.errors() == []


def test_report_of_a_real_run_has_all_sections(browser, sweep):
    for name, sections in (("screen", SECTIONS), ("clean", ("cycles", "test", "cost", "settings"))):
        path = sweep.directories[name] / "report.html"
        browser.open(path.as_uri(), height=3600)
        ids = browser.ask("return [...document.querySelectorAll('main section')].map(section => section.id)")
        assert [each for each in ids if each != "warnings"] == list(sections)
        check_page_is_complete(browser, path)
        browser.keep(f"report_{name}")


def test_markup_in_names_is_not_executed(browser, paper):
    browser.open(paper.as_uri(), height=2400)
    check_page_is_complete(browser, paper)
    assert browser.ask("return document.scripts.length") == 1
    assert EVIL in browser.ask("return document.querySelector('#ledger').innerText")
    browser.keep("report_paper")


def test_tables_can_be_sorted_by_mouse_and_keyboard(browser, paper):
    browser.open(paper.as_uri())
    assert browser.ask(COLUMN) == ["8", "1", "5"]
    browser.ask(HEAD + "head.querySelector('span').click()")
    assert browser.ask(COLUMN) == ["1", "5", "8"]
    press = "head.querySelector('span').dispatchEvent(new KeyboardEvent('keydown', {key: 'Enter'})); "
    assert browser.ask(HEAD + press + "return head.getAttribute('aria-sort')") == "descending"
    assert browser.ask(COLUMN) == ["8", "5", "1"]


def test_report_fits_a_narrow_window(browser, paper):
    browser.open(paper.as_uri(), width=600)
    assert browser.ask("return document.documentElement.scrollWidth <= window.innerWidth")
    browser.keep("report_narrow")


def test_printing_opens_all_collapsed_sections(browser, paper, tmp_path):
    browser.open(paper.as_uri())
    browser.wait("return [...document.images].every(image => image.complete || image.loading)", "the page")
    pdf = base64.b64decode(browser.driver.print_page())
    (tmp_path / "report.pdf").write_bytes(pdf)
    assert pdf.startswith(b"%PDF") and len(pdf) > 50_000
    assert browser.ask("return [...document.querySelectorAll('details')].every(each => each.open)")
