"""One run, in this process or in one of its own."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import sys
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NoReturn

from tmqc.config import Config
from tmqc.errors import InputError
from tmqc.signals import WAITING, Interrupted, Stop

EXIT_INPUT, EXIT_INTERRUPTED, EXIT_SIGNAL = 2, 130, 128


@dataclass(frozen=True)
class Ended:
    """How a job's process ended: its exit code, and why, in one line; None for a run that finished."""

    code: int
    reason: str | None


def run(config: Config, directory: Path) -> None:
    """Run one pipeline. Heavy libraries are loaded here and below, so that --help and completion stay quick."""
    from tmqc.backend import import_keras

    import_keras()
    _log_to_stderr()
    from tmqc.pipelines import PIPELINES

    PIPELINES[config.pipeline.name](config, directory)


def run_in_own_process(config: Config, directory: Path, *, output: Path | None = None) -> Ended:
    """Run in a process of its own: nothing of one job's model or device state reaches the next.

    Args:
        config: of the run.
        directory: of the run.
        output: a file for what it prints, at its end; None: where we print.

    Raises:
        Interrupted: we were asked to stop; the job was told, has saved and ended.
    """
    spawn = multiprocessing.get_context("spawn")
    told, tells = spawn.Pipe(duplex=False)
    process = spawn.Process(target=_child, args=(config, directory, tells, output))
    process.start()
    tells.close()  # ours: or the end of the job would not be the end of the pipe
    try:
        with Stop().listening(WAITING):
            process.join()
    except BaseException as error:  # also the SystemExit by which submitit gives a machine back
        hand_on = error.number if isinstance(error, Interrupted) and error.number != signal.SIGINT else signal.SIGTERM
        os.kill(process.pid or 0, hand_on)
        process.join()
        raise
    code = process.exitcode or 0
    return Ended(code, None if code == 0 else _hear(told) or _name_end(code))


def _hear(told: Connection) -> str | None:
    try:
        return str(told.recv()) if told.poll() else None
    except EOFError:  # it died before it could say anything
        return None


def _name_end(code: int) -> str:
    if code in (EXIT_INTERRUPTED, *(EXIT_SIGNAL + number for number in signal.valid_signals())):
        return f"stopped by {signal.Signals(code - EXIT_SIGNAL).name}"
    return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


def _child(config: Config, directory: Path, tells: Connection, output: Path | None) -> None:
    if output is not None:
        with output.open("a", encoding="utf-8") as file:
            os.dup2(file.fileno(), sys.stdout.fileno())
            os.dup2(file.fileno(), sys.stderr.fileno())
    try:
        run(config, directory)
    except InputError as error:
        tells.send("; ".join(error.faults))
        fail(str(error))
    except Interrupted as interrupted:
        end(interrupted)
    except KeyboardInterrupt:
        sys.exit(EXIT_INTERRUPTED)
    except Exception as error:
        tells.send(f"{type(error).__name__}: {str(error).partition(chr(10))[0]}")
        raise


class _StderrHandler(logging.Handler):
    # Looks sys.stderr up for every record: while bars are drawn, it is theirs, and lines appear above them.

    def emit(self, record: logging.LogRecord) -> None:
        print(self.format(record), file=sys.stderr)


def _log_to_stderr() -> None:
    log = logging.getLogger("tmqc")
    log.setLevel(logging.INFO)
    if not any(isinstance(handler, _StderrHandler) for handler in log.handlers):
        log.addHandler(_StderrHandler())


def end(interrupted: Interrupted) -> NoReturn:
    """Leave with the exit code of a signal."""
    print(f"tmqc: stopped by {interrupted}; the same command with the same run.name goes on from here", file=sys.stderr)
    sys.exit(EXIT_SIGNAL + interrupted.number)


def fail(message: str) -> NoReturn:
    """Leave with the exit code of input that cannot be used."""
    print(f"tmqc: {message}", file=sys.stderr)
    sys.exit(EXIT_INPUT)
