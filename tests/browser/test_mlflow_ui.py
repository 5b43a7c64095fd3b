"""MLflow's pages on a finished sweep show runs, nested children, charts and images."""

from __future__ import annotations

import json
from urllib.parse import quote

import pytest

pytestmark = pytest.mark.browser

# MLflow's expand button has neither name nor role: it is found 32 pixels to the left of the parent's link.
EXPAND = """
const link = [...document.querySelectorAll('.ag-row a')].find(each => each.innerText.trim() === arguments[0])
const {left, top, height} = link.getBoundingClientRect()
const plus = document.elementFromPoint(left - 32, top + height / 2)
plus.dispatchEvent(new MouseEvent('click', {bubbles: true}))
"""
LINES = """
const lines = document.querySelectorAll('.js-plotly-plot path.js-line, .js-plotly-plot .bars path')
return [...lines].filter(each => each.getBoundingClientRect().width > 0).length
"""


@pytest.fixture(scope="module")
def experiment(server, sweep):
    return f"{server}/#/experiments/{sweep.ids['experiment']}"


def test_runs_and_nested_children_are_listed(browser, experiment, sweep):
    browser.open(f"{experiment}/runs")
    browser.wait_for_text("clean/c")
    browser.wait_for_text(sweep.parent)
    hidden = [child for child in sweep.children if browser.ask("return document.body.innerText").count(child)]
    assert hidden == []  # children are shown within their parent only
    browser.ask(EXPAND, sweep.parent)
    for child in sweep.children:
        browser.wait_for_text(child)
    browser.keep("mlflow_runs")
    assert all(url.startswith((experiment.split("#")[0], "data:", "blob:")) for url in browser.requests())


def test_experiment_page_describes_the_metrics(browser, experiment):
    browser.open(f"{experiment}/runs")
    for text in ("batches_rejected", "runaway guard's alarm", "false positive rate"):
        browser.wait(f"return document.body.textContent.includes({text!r})", text)


def test_run_page_has_a_description(browser, experiment, sweep):
    browser.open(f"{experiment}/runs/{sweep.ids['screen']}")
    for text in ("Verification after the last cycle", "report.html", "among the artifacts", "qc.revisit"):
        browser.wait_for_text(text)
    browser.keep("mlflow_run")


def test_metrics_are_shown_as_charts_in_groups(browser, experiment, sweep):
    browser.open(f"{experiment}/runs/{sweep.ids['screen']}/model-metrics", height=1600)
    for group in ("detect", "qc", "test", "train", "verify"):
        browser.wait_for_text(group)
    browser.wait(LINES, "a line in a chart")
    browser.keep("mlflow_metrics")


def test_images_and_the_report_are_artifacts(browser, experiment, sweep):
    run = f"{experiment}/runs/{sweep.ids['screen']}/artifacts"
    browser.open(f"{run}/figures/qc.png")
    browser.wait("return [...document.images].some(image => image.naturalWidth > 1000)", "the picture of the run")
    browser.keep("mlflow_picture")
    browser.open(f"{run}/report.html")
    browser.wait("return document.querySelector('iframe')", "the report")
    browser.keep("mlflow_report")


def test_children_of_a_sweep_are_compared_without_configuration(browser, server, sweep):
    chosen = json.dumps([sweep.ids["default"], sweep.ids["screen"]])
    experiments = json.dumps([sweep.ids["experiment"]])
    browser.open(f"{server}/#/compare-runs?runs={quote(chosen)}&experiments={quote(experiments)}", height=1600)
    for text in ("Comparing 2 Runs", *sweep.children, "Parallel Coordinates Plot", "qc.control", "qc.screen.image_z"):
        browser.wait_for_text(text)
    browser.keep("mlflow_compare")
