"""A FLARE system with certificates: submits the job to a running system, or runs a whole system on this machine."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from threading import Thread
from typing import Any

import psutil
import yaml
from nvflare.fuel.flare_api.flare_api import Session, new_secure_session

from tmqc.federation.flare import FlareError
from tmqc.federation.flare_kit import prepare_kit

ADMIN, SERVER = "admin@tmqc.org", "localhost"
_LOGIN_S, _CONNECT_S, _END_S, _CHECK_S = 60.0, 300.0, 30.0, 2.0
_SILENT_S = 30.0  # a site without contact to FLARE's server for this long counts as disconnected
_IMPL = "nvflare.lighter.impl"
_NO_SERVER = "FLARE's server does not answer"


class SubmittedJob:
    """The relay's job in a running FLARE system."""

    def __init__(self, kit: Path, job: Path) -> None:
        """Submit the job as the administrator with this start-up kit.

        Raises:
            FlareError: the server cannot be reached, or refuses the administrator or the job.
        """
        with _reported("the job cannot be submitted"):
            self._session = _log_in(kit, timeout_s=_LOGIN_S)
            self._id = self._session.submit_job(str(job))
        self._checked_at = time.monotonic()

    def check(self) -> None:
        """Raise FlareError if the job has ended."""
        if time.monotonic() - self._checked_at < _CHECK_S:
            return
        self._checked_at = time.monotonic()
        if (status := self._status()).startswith("FINISHED"):
            raise FlareError(f"FLARE's job {self._id} ended: {status}")

    def connected(self) -> set[str]:
        """Return the sites connected to FLARE's server.

        Raises:
            FlareError: the server does not answer.
        """
        with _reported(_NO_SERVER):
            return _connected(self._session)

    def end(self) -> None:
        """Wait for the job to end after its relay; otherwise abort it."""
        with suppress(Exception):  # if the system itself has ended, so has the job
            until = time.monotonic() + _END_S
            while not self._status().startswith("FINISHED"):
                if time.monotonic() > until:
                    self._session.abort_job(self._id)
                    break
                time.sleep(0.5)
        close_session(self._session)

    def _status(self) -> str:
        with _reported(_NO_SERVER):
            return str(self._session.get_job_meta(self._id).get("status"))


def close_session(session: Session) -> None:
    """Close FLARE's session, within `_END_S`.

    FLARE closes its connections, then waits for the threads that hold them. A connection that is just being made is
    missed and would be held forever, as after a restart of the server: connections are closed until all threads end.
    """
    closing = Thread(target=_close_quietly, args=(session,), daemon=True)
    closing.start()
    until = time.monotonic() + _END_S
    while closing.is_alive() and time.monotonic() < until:
        closing.join(1.0)
        with suppress(Exception):
            for connector in session.api.cell.core_cell.communicator.conn_manager.connectors.values():
                if connector.stopped.is_set():
                    connector.driver.shutdown()


def _close_quietly(session: Session) -> None:
    with suppress(Exception):  # of a server that has ended
        session.close()


@contextmanager
def _reported(fault: str) -> Iterator[None]:
    """Raise errors of FLARE, which are of any type, as FlareError with this message."""
    try:
        yield
    except FlareError:
        raise
    except Exception as error:
        raise FlareError(f"{fault}: {type(error).__name__}: {error}") from error


def _log_in(kit: Path, *, timeout_s: float) -> Session:
    until = time.monotonic() + timeout_s
    while True:
        try:
            return new_secure_session(_user_of(kit), str(kit), timeout=10.0)
        except Exception as error:
            if time.monotonic() > until:
                raise FlareError(f"no FLARE server accepts {kit}: {type(error).__name__}: {error}") from error
        time.sleep(1.0)


def _user_of(kit: Path) -> str:
    try:
        content: dict[str, Any] = json.loads((kit / "startup" / "fed_admin.json").read_text("utf-8"))
        return str(content["admin"]["username"])
    except (OSError, ValueError, KeyError, TypeError):
        return kit.name  # a kit's folder is named after its user


def _connected(session: Session, *, since: float | None = None) -> set[str]:
    # FLARE drops a client only after ten minutes; a connected one contacts the server every few seconds.
    heard_of = {client.name: client.last_connect_time for client in session.get_system_info().client_info}
    since = time.time() - _SILENT_S if since is None else since
    return {name for name, at in heard_of.items() if float(at or 0.0) >= since}


def provision(folder: Path, sites: Sequence[str]) -> Path:
    """Make certificates and start-up kits for a system on this machine; return the folder of all kits."""
    ports = _free_ports(2)
    project = {
        "api_version": 3,
        "name": "tmqc",
        "description": "all on one machine",
        "participants": [
            {"name": SERVER, "type": "server", "org": "tmqc", "fed_learn_port": ports[0], "admin_port": ports[1]},
            *({"name": site, "type": "client", "org": "tmqc"} for site in sites),
            {"name": ADMIN, "type": "admin", "org": "tmqc", "role": "project_admin"},
        ],
        "builders": [
            {"path": f"{_IMPL}.workspace.WorkspaceBuilder", "args": {"template_file": ["master_template.yml"]}},
            {"path": f"{_IMPL}.static_file.StaticFileBuilder", "args": {"config_folder": "config"}},
            {"path": f"{_IMPL}.cert.CertBuilder"},
            {"path": f"{_IMPL}.signature.SignatureBuilder"},
        ],
    }
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / "project.yml").write_text(yaml.safe_dump(project))
    command = [sys.executable, "-m", "nvflare.cli", "provision", "-p", "project.yml", "-w", "."]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    kits = folder / "tmqc" / "prod_00"
    if done.returncode != 0 or not kits.is_dir():
        raise FlareError(f"nvflare provision failed: {done.stdout[-500:]} {done.stderr[-500:]}")
    return kits


def _free_ports(n: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("localhost", 0))) for _ in range(n)]
        return [one.getsockname()[1] for one in sockets]


def _end_leftovers(folder: Path) -> None:
    """Kill processes that an earlier system in this folder left running when its tmqc process was killed."""
    for process in psutil.process_iter():
        with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            words = process.cmdline()
            is_ours = any(word.startswith(str(folder)) for word in words)
            if is_ours and any(word.startswith("nvflare.private") or word.endswith("sub_start.sh") for word in words):
                process.kill()


class System:
    """A whole FLARE system on this machine: a server and one process per site, with mutual TLS."""

    def __init__(self, folder: Path, files: Mapping[str, Path]) -> None:
        """Provision the system.

        Args:
            folder: folder of certificates, kits and logs; emptied first.
            files: site -> its settings file.

        Raises:
            FlareError: it cannot be provisioned.
        """
        _end_leftovers(folder)
        self.kits = provision(folder, list(files))
        prepare_kit(self.kits / SERVER, None)
        for site, path in files.items():
            prepare_kit(self.kits / site, path)
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def begin(self, sites: Sequence[str]) -> None:
        """Start the server and these sites, and wait until they are connected.

        Raises:
            FlareError: the system does not start.
        """
        for name in (SERVER, *sites):
            self.start(name)
        self.wait_for(sites)

    def wait_for(self, sites: Sequence[str]) -> None:
        """Wait until all these sites have contacted FLARE's server.

        Raises:
            FlareError: a site has not connected within the time limit.
        """
        since, until = time.time(), time.monotonic() + _CONNECT_S
        session = _log_in(self.admin, timeout_s=_CONNECT_S)
        try:
            while missing := set(sites) - _connected(session, since=since):
                if time.monotonic() > until:
                    raise FlareError(f"site {', '.join(sorted(missing))} did not connect to FLARE's server")
                time.sleep(0.5)
        finally:
            close_session(session)

    @property
    def admin(self) -> Path:
        """The administrator's start-up kit."""
        return self.kits / ADMIN

    def start(self, name: str) -> None:
        """Start the server or a site; its output goes to `<name>.log` next to the kits."""
        environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
        with (self.kits / f"{name}.log").open("ab") as out:
            self._processes[name] = subprocess.Popen(
                ["bash", str(self.kits / name / "startup" / "sub_start.sh"), "--once"],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def kill(self, name: str) -> None:
        """Kill the server or a site, including its child processes."""
        process = self._processes.pop(name)
        with suppress(psutil.NoSuchProcess):
            family = [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]
            for one in family:  # a job's process has a session of its own
                with suppress(psutil.NoSuchProcess):
                    one.kill()
        process.wait()

    def stop(self) -> None:
        """Kill all processes, the sites first."""
        for name in reversed(list(self._processes)):
            self.kill(name)
