"""Connection over NVIDIA FLARE: the tmqc process listens on a local socket, a FLARE job relays to the sites."""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Protocol

from tmqc.federation.flare_job import NOT_IN_JOB, OPENING, SITES_VARIABLE
from tmqc.federation.messages import NoAnswer

log = logging.getLogger("tmqc")

_START_S, _END_S = 300.0, 30.0  # time limits for a FLARE job to start and to end
_PROBE_S = 15.0  # time limit for a site to answer a probe
JOB_MODULE = "tmqc.federation.flare_job"
NO_LOGS = {"allow_log_streaming": False}  # otherwise FLARE sends a site's error log, whose tracebacks may name scans
# FLARE may instantiate only the two classes of this package's job.
ALLOWED = {"format_version": 2, "class_allow_list": [f"{JOB_MODULE}."], **NO_LOGS}


class FlareError(Exception):
    """FLARE or its job has failed."""


class FlareJob(Protocol):
    """A started FLARE job: `Simulation`, or `flare_system.SubmittedJob`. Its methods may raise FlareError."""

    def check(self) -> None:
        """Raise FlareError if the job has ended."""

    def connected(self) -> set[str] | None:
        """Return the sites that a job started now would include; None: all of them."""

    def end(self) -> None:
        """Wait for the job to end after its relay; otherwise kill it."""


def write_job(folder: Path, sites: Sequence[str], address: Path) -> Path:
    """Write the FLARE job, which uses classes of the installed package and brings no code of its own.

    Only the named sites take part; those not connected when the job starts are left out of it.
    """
    app = folder / "tmqc" / "app" / "config"
    app.mkdir(parents=True, exist_ok=True)
    meta = {"name": "tmqc", "resource_spec": {}, "min_clients": 1, "deploy_map": {"app": ["server", *sites]}}
    relay = {"id": "relay", "path": f"{JOB_MODULE}.Relay", "args": {"address": str(address)}}
    agent = {"tasks": ["tmqc"], "executor": {"path": f"{JOB_MODULE}.Agent", "args": {}}}
    server, client = {"format_version": 2, "workflows": [relay]}, {"format_version": 2, "executors": [agent]}
    (folder / "tmqc" / "meta.json").write_text(json.dumps(meta, indent=2))
    (app / "config_fed_server.json").write_text(json.dumps(server, indent=2))
    (app / "config_fed_client.json").write_text(json.dumps(client, indent=2))
    return folder / "tmqc"


class FlareTransport:
    """Reaches sites through the relay of a FLARE job, which it starts, and restarts if necessary."""

    def __init__(self, sites: Sequence[str], launch: Callable[[Path], FlareJob]) -> None:
        """Store the names of all sites, and the function that starts the FLARE job, given its folder."""
        self._sites, self._launch = list(sites), launch
        self._folder = Path(tempfile.mkdtemp(prefix="tmqc-"))
        self._connection: Connection | None = None
        self._launched: FlareJob | None = None
        self._silent: set[str] = set()  # sites that gave no answer to their last request
        self._busy_with: dict[str, tuple[bytes, float]] = {}  # site -> number of its request, and when first seen

    def exchange(self, requests: Mapping[str, bytes], timeout_s: float) -> dict[str, bytes | NoAnswer]:
        """Send the requests through the relay, see `messages.Exchange`."""
        try:
            if again := [site for site in requests if site in self._silent]:
                self._reconnect(again, timeout_s)
            if self._connection is None:
                self._start()
            found = self._ask(requests, timeout_s)
        except (EOFError, OSError, FlareError) as error:
            self._stop()
            away = NoAnswer(f"the FLARE job has ended ({error or type(error).__name__})")
            found = dict.fromkeys(requests, away)
        self._silent -= requests.keys()
        self._silent |= {site for site, answer in found.items() if isinstance(answer, NoAnswer)}
        return found

    def close(self) -> None:
        """End the job and remove its folder."""
        self._stop()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _reconnect(self, sites: Sequence[str], timeout_s: float) -> None:
        """Restart the job if a lost site can be reached again: FLARE does not readmit clients to a running job.

        A connected site hangs if it has worked on the same request for the time limit or longer. A site that is still
        decoding its scans does not hang: decoding may take longer than any answer, and a new job would start it over.
        """
        if self._connection is None or self._launched is None or not (lost := self._lost(sites, timeout_s)):
            return
        try:
            connected = self._launched.connected()
        except FlareError as error:  # a restarted server does not know this session: log in again
            log.warning("%s", error)
            connected = None
        if connected is None or connected.intersection(lost):
            log.info("restarting the FLARE job to reach site %s", ", ".join(lost))
            self._stop()

    def _ask(self, requests: Mapping[str, bytes], timeout_s: float) -> dict[str, bytes | NoAnswer]:
        assert self._connection is not None
        self._connection.send((dict(requests), timeout_s))
        if not self._connection.poll(timeout_s + 30.0):
            raise FlareError("the relay does not answer")
        found: dict[str, bytes | NoAnswer] = self._connection.recv()
        return found

    def _lost(self, sites: Sequence[str], timeout_s: float) -> list[str]:
        """Return the sites that do not answer, or hang."""
        try:
            found = self._ask(dict.fromkeys(sites, b""), _PROBE_S)
        except (EOFError, OSError, FlareError):
            return list(sites)
        now, lost = time.monotonic(), []
        for site, number in found.items():
            if isinstance(number, NoAnswer):
                lost.append(site)
            elif number == OPENING:
                log.info("site %s is still decoding its scans; waiting", site)
            elif number:
                seen, since = self._busy_with.get(site, (b"", now))
                if seen != number:
                    self._busy_with[site] = number, now
                elif now - since >= timeout_s:
                    lost.append(site)
        return lost

    def _start(self) -> None:
        address = self._folder / "relay"
        address.unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX) as listener:  # in a folder that only this user may enter
            listener.bind(str(address))
            listener.listen(1)
            listener.settimeout(0.2)
            self._launched = self._launch(write_job(self._folder, self._sites, address))
            self._connection = self._accept(listener, self._launched)
        connected = self._launched.connected()
        self._wait_for([site for site in self._sites if connected is None or site in connected])

    def _wait_for(self, sites: Sequence[str]) -> None:
        """Wait until all sites in the job answer; FLARE leaves out sites that it cannot reach."""
        until = time.monotonic() + _START_S
        while sites and time.monotonic() < until:
            found = self._ask(dict.fromkeys(sites, b""), 5.0)
            sites = [site for site, one in found.items() if isinstance(one, NoAnswer) and one.why != NOT_IN_JOB]
            time.sleep(0.2 if sites else 0.0)

    def _stop(self) -> None:
        self._busy_with = {}
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        if self._launched is not None:
            self._launched.end()
            self._launched = None

    def _accept(self, listener: socket.socket, job: FlareJob) -> Connection:
        """Wait for the relay to connect."""
        until = time.monotonic() + _START_S
        while True:
            job.check()
            if time.monotonic() > until:
                raise FlareError(f"the FLARE job did not start within {_START_S:g} s")
            with suppress(TimeoutError):
                return Connection(listener.accept()[0].detach())


class Simulation:
    """The job in FLARE's simulator, with one process per site on this machine; ends once the relay has ended."""

    def __init__(self, sites: Sequence[str], folder: Path, logs: Path, job: Path) -> None:
        """Start the simulator.

        Args:
            sites: names of the sites.
            folder: folder of the sites' own settings.
            logs: folder of FLARE's workspace.
            job: folder of the job.
        """
        shutil.rmtree(logs, ignore_errors=True)
        (logs / "local").mkdir(parents=True)
        (logs / "local" / "resources.json").write_text(json.dumps(ALLOWED))
        command = [sys.executable, "-m", "nvflare.cli", "simulator", str(job), "-w", str(logs)]
        self._out = logs.with_name(f"{logs.name}.log")
        with self._out.open("wb") as file:
            self._process = subprocess.Popen(
                [*command, "-c", ",".join(sites), "-t", str(len(sites))],
                env={**os.environ, SITES_VARIABLE: str(folder)},
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C must reach the run only, which saves first
            )

    def check(self) -> None:
        """Raise FlareError if the program has ended."""
        if self._process.poll() is not None:
            raise FlareError(f"FLARE ended with exit code {self._process.returncode}; see {self._out}")

    def connected(self) -> None:
        """Return the sites that a job started now would include. None: all of them."""
        return

    def end(self) -> None:
        """Wait for the program to end; otherwise kill it and its child processes."""
        try:
            self._process.wait(_END_S)
        except subprocess.TimeoutExpired:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
