"""Fixtures: a small finished sweep, an MLflow server that shows it, and the system's headless Chromium."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import pytest
from omegaconf import OmegaConf
from test_pipelines import harm_overrides, run_pipeline
from tiny import tiny_overrides

SCREENSHOTS = Path(__file__).parents[2] / "outputs" / "screenshots"
CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
PATIENCE_S = 120  # per page; long, because the machine may be busy


@dataclass
class Browser:
    """Chromium, with its requests and console errors since the last page was opened."""

    driver: object

    def open(self, url, *, width=1400, height=1000):
        """Load a page in a window of this size; clears the logs of requests and errors."""
        self.driver.get("about:blank")
        self.requests(), self.errors()
        self.driver.set_window_size(width, height)
        self.driver.get(url)

    def ask(self, script, *arguments):
        """Run a function body in the page."""
        return self.driver.execute_script(script, *arguments)

    def wait(self, script, what):
        """Wait until the function body returns a true value; returns that value."""
        until = time.monotonic() + PATIENCE_S
        while not (found := self.ask(script)):
            if time.monotonic() > until:
                self.keep("missing")
                raise AssertionError(f"{what} is not on {self.driver.current_url}")
            time.sleep(0.3)
        return found

    def wait_for_text(self, text):
        """Wait until the page contains the text."""
        self.wait(f"return document.body.innerText.includes({json.dumps(text)})", repr(text))

    def requests(self):
        """URLs requested since the page was opened."""
        messages = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        return [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]

    def errors(self):
        """Severe messages of the browser's console."""
        return [entry["message"] for entry in self.driver.get_log("browser") if entry["level"] == "SEVERE"]

    def keep(self, name):
        """Save a screenshot for visual inspection."""
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        self.driver.save_screenshot(str(SCREENSHOTS / f"{name}.png"))


@pytest.fixture(scope="session")
def browser(tmp_path_factory):
    webdriver = pytest.importorskip("selenium.webdriver")
    if not (CHROMIUM and DRIVER):
        pytest.skip("needs Chromium and its driver: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    driver.set_page_load_timeout(PATIENCE_S)
    driver.set_script_timeout(PATIENCE_S)
    yield Browser(driver)
    driver.quit()


@dataclass(frozen=True)
class Sweep:
    """Runs by name: a clean one, and `default` and `screen`, the children of one sweep.

    Attributes:
        ids: of the runs in MLflow, and of the `experiment`.
        parent, children: the names of the sweep and its jobs in MLflow.
    """

    outputs: Path
    directories: dict[str, Path]
    ids: dict[str, str]
    parent: str
    children: list[str]


@pytest.fixture(scope="session")
def sweep(tmp_path_factory, cohort_csvs):
    """Clean pre-training, then a sweep over two gates as a user launches it."""
    from mlflow import MlflowClient

    outputs = tmp_path_factory.mktemp("sweep")
    directories = {
        "clean": run_pipeline(outputs, cohort_csvs, "pipeline=clean", "schedule.cycles=8", name="c", pictures=True)
    }
    settings = [*harm_overrides(outputs), "schedule.cycles=11", "sweep.name=gates"]
    command = [sys.executable, "-m", "tmqc", "-m", *_settings(cohort_csvs, outputs, settings), "pipeline=qc"]
    subprocess.run([*command, "qc=default,screen"], check=True, cwd=outputs)
    for path in (outputs / "sweeps" / "gates").glob("*/config.yaml"):
        control = OmegaConf.load(path).qc.control
        directories["screen" if control == "screen" else "default"] = path.parent
    ids = {name: json.loads((path / "run.json").read_text())["run_id"] for name, path in directories.items()}
    client = MlflowClient(f"sqlite:///{outputs}/mlflow.db")
    children = [client.get_run(ids[name]) for name in ("default", "screen")]
    [parent] = {child.data.tags["mlflow.parentRunId"] for child in children}
    ids["experiment"] = children[0].info.experiment_id
    names = [child.info.run_name for child in children]
    return Sweep(outputs, directories, ids, client.get_run(parent).info.run_name, names)


def _settings(csvs, outputs, more):
    # The command line accepts each setting only once.
    given = {setting.partition("=")[0]: setting for setting in (*tiny_overrides(csvs, outputs), *more)}
    return list(given.values())


@pytest.fixture(scope="session")
def server(sweep):
    """Address of an MLflow server that shows the sweep; it listens on localhost only."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    store = ["--backend-store-uri", f"sqlite:///{sweep.outputs}/mlflow.db"]
    environment = os.environ | {"MLFLOW_DISABLE_TELEMETRY": "true"}
    with (sweep.outputs / "server.log").open("wb") as log:
        process = subprocess.Popen([*command, *store], stdout=log, stderr=log, env=environment, start_new_session=True)
    try:
        _wait_until_up(f"http://127.0.0.1:{port}", process, sweep.outputs / "server.log")
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(process.pid, 15)
        process.wait()


def _wait_until_up(url, process, log):
    until = time.monotonic() + PATIENCE_S
    while time.monotonic() < until and process.poll() is None:
        try:
            with urllib.request.urlopen(f"{url}/health", timeout=5) as answer:
                if answer.status == 200:
                    return
        except OSError:
            time.sleep(0.5)
    raise AssertionError(f"MLflow's server did not come up: {log.read_text(errors='replace')[-2000:]}")
