"""The parts that run inside NVIDIA FLARE: a relay in the server's job process, an agent in that of every site.

Requests are sent as auxiliary messages, which FLARE delivers at once, while its tasks are polled. The messages are not
read on the way: the relay passes bytes from the tmqc process to the sites, an agent passes them to its `Site`.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Client
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nvflare.apis.event_type import EventType
from nvflare.apis.executor import Executor
from nvflare.apis.fl_constant import ReturnCode
from nvflare.apis.fl_context import FLContext
from nvflare.apis.impl.controller import Controller
from nvflare.apis.shareable import Shareable, make_reply
from nvflare.apis.signal import Signal

from tmqc.federation.messages import REFUSED, NoAnswer, encode_message
from tmqc.model.backend import import_keras

if TYPE_CHECKING:
    from tmqc.federation.site import Site

TOPIC, DATA = "tmqc", "data"
SITES_VARIABLE = "TMQC_SITES"  # simulated sites: the folder that holds one folder per site
SETTINGS = "tmqc_site.yaml"  # real sites: in the folder `local` of the start-up kit
OPENING = b"opening"  # state of a site that reads its tables, decodes scans or builds the model
NOT_IN_JOB = "is not connected to the FLARE server"
_UNUSABLE = encode_message({"error": REFUSED, "detail": ["its own settings or tables cannot be used; see its own log"]})


class Relay(Controller):  # type: ignore[misc]
    """Passes requests of the tmqc process on this host to the sites until that process ends."""

    def __init__(self, address: str) -> None:
        """Store the address of the socket on which the tmqc process listens."""
        super().__init__()
        self._address = address

    def start_controller(self, fl_ctx: FLContext) -> None:
        """Do nothing."""

    def stop_controller(self, fl_ctx: FLContext) -> None:
        """Do nothing."""

    def process_result_of_unknown_task(
        self, client: Any, task_name: str, client_task_id: str, result: Shareable, fl_ctx: FLContext
    ) -> None:
        """Do nothing: no tasks are used."""

    def control_flow(self, abort_signal: Signal, fl_ctx: FLContext) -> None:
        """Relay until the tmqc process ends, or FLARE ends the job."""
        with Client(self._address, family="AF_UNIX") as connection:
            while not abort_signal.triggered:
                try:
                    if connection.poll(0.5):
                        requests, timeout_s = connection.recv()
                        connection.send(self._exchange(requests, timeout_s, fl_ctx))
                except (EOFError, ConnectionError):
                    return

    def _exchange(
        self, requests: Mapping[str, bytes], timeout_s: float, fl_ctx: FLContext
    ) -> dict[str, bytes | NoAnswer]:
        known = {client.name for client in fl_ctx.get_engine().get_clients()}
        with ThreadPoolExecutor(max(len(requests), 1)) as pool:
            within = {site: data for site, data in requests.items() if site in known}
            asked = {site: pool.submit(self._ask, site, data, timeout_s, fl_ctx) for site, data in within.items()}
            return {site: asked[site].result() if site in asked else NoAnswer(NOT_IN_JOB) for site in requests}

    def _ask(self, site: str, data: bytes, timeout_s: float, fl_ctx: FLContext) -> bytes | NoAnswer:
        engine, asked_at = fl_ctx.get_engine(), time.monotonic()
        with engine.new_context() as context:
            replies = engine.send_aux_request([site], TOPIC, Shareable({DATA: data}), timeout_s, context, optional=True)
        reply = (replies or {}).get(site)
        code = ReturnCode.COMMUNICATION_ERROR if reply is None else reply.get_return_code()
        if reply is not None and code == ReturnCode.OK:
            answer: bytes = reply[DATA]
            return answer
        self.log_warning(fl_ctx, f"no answer of {site}: {code}")
        is_late = time.monotonic() - asked_at >= timeout_s
        return NoAnswer(f"gave no answer within {timeout_s:g} s" if is_late else f"is not reachable ({code})")


class Agent(Executor):  # type: ignore[misc]
    """Holds one `Site` for the duration of the job and passes requests to it."""

    def __init__(self) -> None:
        super().__init__()
        self._site: Site | None = None
        self._prepared = threading.Event()
        self._lock = threading.Lock()  # one request at a time: there is one model
        self._number = 0  # of the current request, or the last one

    def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
        """At the start of the job, read the site's tables and listen for requests."""
        if event_type == EventType.START_RUN:
            folder, name = Path(fl_ctx.get_workspace().get_site_config_dir()), fl_ctx.get_identity_name()
            threading.Thread(target=self._prepare, args=(folder, name), daemon=True).start()
            fl_ctx.get_engine().register_aux_message_handler(TOPIC, self._handle)

    def execute(self, task_name: str, shareable: Shareable, fl_ctx: FLContext, abort_signal: Signal) -> Shareable:
        """Refuse: no tasks are used."""
        return make_reply(ReturnCode.TASK_UNKNOWN)

    def _prepare(self, folder: Path, name: str) -> None:
        try:
            self._site = _make_site(folder, name)
        except Exception:
            self.logger.exception("this site cannot take part")
        finally:
            self._prepared.set()

    def _handle(self, topic: str, request: Shareable, fl_ctx: FLContext) -> Shareable:
        reply = make_reply(ReturnCode.OK)
        if not request[DATA]:  # a probe: whether the site answers, and which request it works on
            reply[DATA] = self._is_at()
            return reply
        self._prepared.wait()
        with self._lock:
            self._number += 1
            reply[DATA] = _UNUSABLE if self._site is None else self._site.handle(request[DATA])
        return reply

    def _is_at(self) -> bytes:
        """Return the number of the request in progress, or `OPENING`; empty while the site is idle."""
        if self._prepared.is_set() and not self._lock.locked():
            return b""
        return str(self._number).encode() if self._site is not None and self._site.centers is not None else OPENING


def _make_site(folder: Path, name: str) -> Site:
    import_keras()  # before other imports of TensorFlow; not at module level, as the relay's process needs no Keras
    from tmqc.federation.site import Site
    from tmqc.federation.site_settings import SIMULATED, read_site_settings

    simulated = os.environ.get(SITES_VARIABLE)
    return Site(read_site_settings(folder / SETTINGS if simulated is None else Path(simulated) / name / SIMULATED))
