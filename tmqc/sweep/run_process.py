"""One run, in this process or in one of its own."""

from __future__ import annotations

import logging
import os
import pickle
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from tmqc.errors import InputError, TmqcError
from tmqc.runs.signals import WAITING, Interrupted, Stop
from tmqc.settings.schema import Config

EXIT_FAULT, EXIT_INPUT, EXIT_INTERRUPTED, EXIT_SIGNAL = 1, InputError.code, 130, 128
# Not by multiprocessing, which cannot start processes from inside of joblib's.
_N_FAULTS = 3
_COMMAND = [sys.executable, "-c", "from tmqc.sweep.run_process import work; work()"]


@dataclass(frozen=True)
class ProcessResult:
    """How a job's process ended: its exit code, and why, in one line; None for a run that finished."""

    code: int
    reason: str | None


def run(config: Config, directory: Path) -> None:
    """Run one pipeline. Heavy libraries are loaded here and below, so that --help and completion stay quick."""
    from tmqc.model.backend import import_keras

    import_keras(config.run.onednn)
    _log_to_stderr()
    from tmqc.pipelines import PIPELINES

    PIPELINES[config.pipeline.name](config, directory)


def run_in_own_process(
    config: Config, directory: Path, *, output: Path | None = None, holds: Sequence[int] = ()
) -> ProcessResult:
    """Run in a process of its own: nothing of one job's model or device state reaches the next.

    Args:
        config: of the run.
        directory: of the run.
        output: a file for what it prints, at its end; None: where we print.
        holds: file descriptors that stay open for as long as the process lives, even if we do not.

    Raises:
        Interrupted: we were asked to stop; the job got the signal, has saved and ended.
    """
    stop = Stop()
    # A file, for a pipe that is read at the end holds no more than 64 KiB: a job with many faults would wait for ever.
    with tempfile.TemporaryFile("w+", encoding="utf-8") as reason, stop.listening(WAITING):
        descriptor = reason.fileno()
        appended = nullcontext() if output is None else output.open("a", encoding="utf-8")
        with appended as file, stop.waiting():  # until there is a process to signal
            process = subprocess.Popen(
                [*_COMMAND, str(descriptor)],
                stdin=subprocess.PIPE,
                stdout=file,
                stderr=file,
                pass_fds=[descriptor, *holds],
            )
        try:
            stop.check()
            process.communicate(pickle.dumps((config, directory)))
        except BaseException as error:
            process.send_signal(
                error.number if isinstance(error, Interrupted) and error.number != signal.SIGINT else signal.SIGTERM
            )
            with stop.waiting():  # a notice that comes twice is not to leave the job alone
                process.wait()
            raise
        code = process.returncode
        reason.seek(0)
        return ProcessResult(code, None if code == 0 else reason.read() or _name_end(code))


def _name_end(code: int) -> str:
    if code in (EXIT_INTERRUPTED, *(EXIT_SIGNAL + number for number in signal.valid_signals())):
        return f"stopped by {signal.Signals(code - EXIT_SIGNAL).name}"
    return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


def work() -> None:
    """What a job's own process does: settings from standard input, why it failed to the file descriptor given."""
    config, directory = pickle.load(sys.stdin.buffer)
    with os.fdopen(int(sys.argv[1]), "w", encoding="utf-8", errors="backslashreplace") as reason:
        try:
            run(config, directory)
        except TmqcError as error:
            reason.write(first_faults(error))
            fail(error)
        except Interrupted as interrupted:
            end(interrupted)
        except KeyboardInterrupt:
            sys.exit(EXIT_INTERRUPTED)
        except Exception as error:
            reason.write(f"{type(error).__name__}: {str(error).partition(chr(10))[0]}")
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


def fail(error: TmqcError) -> NoReturn:
    """Say what is wrong and leave with the error's exit code."""
    print(f"tmqc: {error}", file=sys.stderr)
    sys.exit(error.code)


def first_faults(error: TmqcError) -> str:
    """The first faults in one line: of a cohort there may be hundreds, and all of them have been printed."""
    more = len(error.faults) - _N_FAULTS
    return "; ".join(error.faults[:_N_FAULTS]) + (f"; and {more} more" if more > 0 else "")
