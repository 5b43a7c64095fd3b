"""A run's report page: complete and safe HTML from the run's files, also if some of them are missing."""

from __future__ import annotations

import re
import shutil
import sys
from html import escape
from html.parser import HTMLParser
from pathlib import Path

import pytest
from matplotlib import rc_context
from omegaconf import OmegaConf
from paper_run import EVIL, EVIL_CENTER, MONEY, name_by_tokens, write_paper_run
from scripts_of import load_script

from tmqc.errors import RunError
from tmqc.report.closing import illustrate
from tmqc.report.page import write_figures, write_report

VOID = {"meta", "link", "img", "br"}


class Page(HTMLParser):
    """Parsed HTML: elements with their attributes, and the text of every section."""

    def __init__(self, html):
        super().__init__()
        self.elements, self.text, self.open, self._section = [], {}, [], ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag == "section":
            self._section = dict(attributes).get("id", "")
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text[self._section] = f"{self.text.get(self._section, '')} {' '.join(data.split())}".strip()

    def of(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return write_paper_run(tmp_path_factory.mktemp("paper"))


@pytest.fixture(scope="module")
def page(run):
    return Page(write_report(run).read_text("utf-8"))


@pytest.fixture
def copy(run, tmp_path):
    return Path(shutil.copytree(run, tmp_path / "run"))


def read(directory, **more):
    """The page with empty figures, because drawing them takes most of the time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tmqc.report.html.to_svg", lambda figure: b"<svg/>")
        return Page(write_report(directory, **more).read_text("utf-8"))


def test_verdicts_section_of_evidence(copy):
    """Power by size of center, only accused centers, and the first rows of the review ranking."""
    (copy / "power.csv").write_text(
        "kind,smallest,largest,n,n_found,low,high\nlabels flipped,1,1,4,0,0,0.6\nlabels flipped,5,,19,13,0.434,0.874\n"
    )
    (copy / "centers.csv").write_text(
        "cycle,center,n,v,z,p,state,limit,eliminate_limit\n"
        "2,10_2,9,3,-4,0.001,under verdict,0.01,0\n2,B,9,3,1,0.9,sound,0.01,0\n"
    )
    rows = "".join(f"s{i},B,{i},0.0{i:02d},1,\n" for i in range(1, 30))
    (copy / "review.csv").write_text(f"subject,center,rank,probability,lfdr,odd_p\n{rows}")
    text = read(copy).text["verdicts"]
    assert "labels flipped 1 0 of 4" in text
    assert "5 or more 13 of 19 0.68 (0.43 to 0.87)" in text
    assert "10_2" in text and "sound" not in text
    assert "s20" in text and "s21" not in text


def test_page_is_well_formed_and_loads_no_external_resources(page):
    assert page.open == []
    sources = [a["src"] for a in page.of("img")]
    assert len(sources) >= 9 and all(re.match(r"data:image/(png|svg\+xml);base64,", source) for source in sources)
    assert all(a["alt"] for a in page.of("img"))
    assert all(a.get("href", "").startswith(("#", "data:,")) for a in page.of("link") + page.of("a"))
    [policy] = [a["content"] for a in page.of("meta") if a.get("http-equiv") == "Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; img-src data:;") and "script-src 'sha256-" in policy


def test_names_are_escaped(run, page):
    """Only the page's own script; no element or attribute originates from an id or a center name."""
    html = (run / "report.html").read_text("utf-8")
    assert len(page.of("script")) == 1 and EVIL not in html and EVIL_CENTER not in html
    assert escape(EVIL) in html and escape(EVIL_CENTER) in html and escape(MONEY) in html
    assert not any("onerror" in attributes for _, attributes in page.elements)
    assert len(page.of("style")) == 1


def test_head_summarizes_settings_and_results(page):
    head = page.text[""]
    assert "Training scans 6 at 3 centers" in head and "Cycles 5 to 7" in head
    assert "Gate every step by rates, error 0.02 per sample" in head
    assert "Scans 4 flagged, 2 eliminated, 1 undecided" in head
    assert "In cycle 5, 7 more than half of the steps" in head
    assert "Cost 14 verifications; training 4 s, verifying 8 s" in head
    assert "has not finished" not in head


def test_auroc_of_models_is_compared_with_intervals(page):
    assert "model of cycle 7, after this run 1 1 1" in page.text["test"] and "difference" in page.text["test"]
    assert "A verification scores 20 scans" in page.text["cost"]


def test_page_has_all_sections(page):
    sections = [a["id"] for a in page.of("section") if "id" in a]
    assert sections == [
        *("warnings", "steps", "cycles", "timeline", "ledger", "gallery", "test", "detection", "cost", "settings"),
    ]
    assert "look out" in page.text["warnings"] and "fine" not in page.text["warnings"]
    assert "FPR +0.300, FNR +0.000 (allowed 0.020)" in page.text["ledger"] and "PD M" not in page.text["ledger"]
    assert "qc.revisit" in page.text["settings"] and "2.1" in page.text["settings"]


def test_truth_is_shown_only_in_the_detection_section(page):
    """Harmful scans are named only in the section that explains how the truth is known."""
    [apart] = [a["id"] for a in page.of("section") if a.get("class") == "truth"]
    assert apart == "detection" and "only because the harm was added on purpose" in page.text["detection"]
    assert "never flagged" in page.text["detection"]  # b1, harmful and missed
    assert not any("noise" in text for name, text in page.text.items() if name not in ("detection", "settings"))


def test_detection_section_uses_tokens_for_scans_of_sites(copy):
    token_of = name_by_tokens(copy, {"site-1": [EVIL, MONEY], "site-2": ["a1", "a2", "a3", "b1"]})
    page = read(copy)
    text = page.text["detection"]
    assert f"{token_of[EVIL]} {EVIL_CENTER} noise ■ eliminated 7" in text
    assert f"{token_of['b1']} B noise never flagged" in text and text.count("never flagged") == 1
    assert "gallery" not in page.text  # its scans cannot be found
    (copy / "sites" / "site-1" / "tokens.csv").unlink()
    text = read(copy).text["detection"]
    assert "never flagged" not in text and "tables of tokens" in text and "precision" in text


@pytest.fixture
def changed(copy):
    """The page of the run with other settings."""

    def change(**settings):
        config = OmegaConf.load(copy / "config.yaml")
        for name, value in settings.items():
            OmegaConf.update(config, name.replace("__", "."), value, merge=False)
        OmegaConf.save(config, copy / "config.yaml")
        return read(copy)

    return change


def test_source_of_the_truth_is_stated(changed):
    page = changed(harmful__scenario="none", cohort__truth_csv="<b>/truth.csv")
    assert "Harmful data as listed in `<b>/truth.csv`" in page.text[""]
    assert "only because a manifest names the harmful scans" in page.text["detection"]
    page = changed(harmful__scenario="samples", cohort__truth_csv="truth.csv")
    assert "only because harm was added on purpose and a manifest names" in page.text["detection"]


@pytest.mark.parametrize(
    ("verification", "text"),
    [
        (None, "is also the verification split: these numbers are optimistic."),
        ("./test.csv", "is also the verification split"),
        ("verify.csv", "(10 PD, 10 HC) decides nothing in a run."),
    ],
)
def test_page_states_whether_the_test_split_is_used_for_verification(changed, verification, text):
    page = changed(cohort__test_csv="test.csv", cohort__verification_csv=verification)
    assert text in page.text["test"]
    assert ("decides nothing" in page.text["test"]) == (verification == "verify.csv")


def test_inference_page_uses_settings_of_the_scored_run(run, changed):
    scored = {"pipeline__name": "inference", "inference__run": str(run)}  # a run with only a training table
    for path, text in (("test.csv", "The test split has 10 PD, 10 HC."), (None, "The test split has")):
        assert text in changed(**scored, cohort__test_csv=path).text["test"]
    assert "The test split has" in changed(**scored | {"inference__run": "gone"}).text["test"]


def test_gallery_states_how_many_scans_are_not_shown(copy, page):
    assert "not shown" not in page.text["gallery"]
    assert "Every training scan of this center was flagged" in page.text["gallery"]
    assert "a3 (HC): never flagged, for comparison" in page.text["gallery"]
    limited = read(copy, limit=1)
    assert "3 more flagged scans are not shown" in limited.text["gallery"]
    assert len(limited.of("img")) == len(page.of("img")) - 4  # two of A, one for comparison, one of the other center


def test_page_is_reproducible(run, page):
    first = (run / "report.html").read_bytes()
    assert write_report(run).read_bytes() == first


def test_unfinished_run_has_a_page(copy):
    for name in ("summary.json", "predictions.csv", "detection.csv", "run.json", "run.log"):
        (copy / name).unlink()
    with (copy / "cycles.csv").open("a") as file:
        file.write("8,1e-4,0.3")
    page = read(copy)
    assert "This run has not finished" in page.text[""]
    assert next(a["id"] for a in page.of("section") if "id" in a) == "steps"
    (copy / "summary.json").write_text('{"test": null}')
    assert "finished" not in read(copy).text[""]


def test_missing_cohort_removes_only_the_gallery(copy):
    config = (copy / "config.yaml").read_text().replace("train.csv", "gone.csv")
    (copy / "config.yaml").write_text(config)
    page = read(copy)
    assert "no longer available" in page.text[""] and "Scans 4 flagged" in page.text[""]
    assert EVIL in page.text["ledger"] and "gallery" not in page.text


def test_missing_scan_is_reported_in_the_gallery(tmp_path):
    run = write_paper_run(tmp_path)
    (tmp_path / "cohort" / "scans" / "0.nii.gz").unlink()
    assert "cannot be read" in read(run).text["gallery"]


def test_drawing_failure_is_one_warning_and_can_be_repeated_later(copy, caplog):
    """A style that needs LaTeX, which is not installed: figures and page fail; the script makes them afterwards."""
    figures = sorted(path.name for path in write_figures(copy))
    assert figures == ["cycles.png", "qc.png"]
    shutil.rmtree(copy / "figures")
    with rc_context({"text.usetex": True, "text.latex.preamble": "no such command"}):
        illustrate(copy)
    [warning] = caplog.messages
    assert "figures: " in warning and "report.html: " in warning and f"scripts/report.py {copy}`" in warning
    assert not list((copy / "figures").glob("*.png"))
    assert load_script("report").main([str(copy)]) == 0
    assert sorted(path.name for path in (copy / "figures").iterdir()) == figures


def test_missing_matplotlib_gives_one_warning(copy, caplog, monkeypatch):
    for module in [name for name in sys.modules if name.startswith(("tmqc.report.", "matplotlib"))]:
        if module not in ("tmqc.report.closing", "tmqc.report.past_run"):
            monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    illustrate(copy)
    [warning] = caplog.messages
    assert "figures: ModuleNotFoundError" in warning and "report.html: ModuleNotFoundError" in warning


def test_directory_without_a_run_is_refused(tmp_path):
    with pytest.raises(RunError, match="not the directory of a run"):
        write_report(tmp_path)


def test_script_writes_the_page_again(copy, tmp_path, capsys):
    (copy / "report.html").unlink(missing_ok=True)
    assert load_script("report").main([str(copy), str(tmp_path / "nothing"), "--gallery", "0"]) == 2
    assert "nothing: not the directory of a run" in capsys.readouterr().err
    assert "4 more flagged scans are not shown" in (copy / "report.html").read_text("utf-8")
