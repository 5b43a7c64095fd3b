"""Runs a pipeline, in this process or in one of its own, and before it the clean model from which it starts."""

from __future__ import annotations

import fcntl
import logging
import os
import pickle
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import NoReturn

from tmqc.errors import InputError, JobError, TmqcError
from tmqc.runs.directory import SUMMARY
from tmqc.runs.resume import check_place
from tmqc.runs.signals import WAITING, Interrupted, Stop
from tmqc.settings.schema import Config

EXIT_FAULT, EXIT_INPUT, EXIT_INTERRUPTED, EXIT_SIGNAL = 1, InputError.code, 130, 128
_N_FAULTS = 3
# Not multiprocessing, which cannot start processes within joblib's.
_COMMAND = [sys.executable, "-c", "from tmqc.sweep.run_process import work; work()"]


def run(config: Config, directory: Path) -> None:
    """Run one pipeline; heavy libraries are imported here, so that --help and completion stay fast.

    Raises:
        RunError: the directory holds a run that is finished or has other settings; nothing was loaded.
    """
    check_place(config, directory)
    from tmqc.model.backend import import_keras

    import_keras(config.run.onednn)
    _log_to_stderr()
    from tmqc.pipelines import PIPELINES

    PIPELINES[config.pipeline.name](config, directory)


def run_in_own_process(
    config: Config, directory: Path, *, output: Path | None = None, holds: Sequence[int] = ()
) -> tuple[int, str | None]:
    """Run a pipeline in a process of its own, so that no model or device state of one job reaches the next.

    Args:
        config: settings of the run.
        directory: directory of the run.
        output: file to which its output is appended; None: the output of this process.
        holds: file descriptors that the process inherits and keeps open.

    Returns:
        Its exit code, and the reason of a failure in one line; None for a finished run.

    Raises:
        Interrupted: this process was asked to stop; the job received the signal, has saved and ended.
    """
    stop = Stop()
    # A file, because a pipe holds only 64 KiB until it is read: a job with many faults would block forever.
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
            with stop.waiting():  # a repeated signal must not end the wait for the job
                process.wait()
            raise
        code = process.returncode
        reason.seek(0)
        return code, None if code == 0 else reason.read() or _name_end(code)


def pretrain(clean: Config, directory: Path, *, output: Path | None = None) -> None:
    """Train the clean run in a process of its own unless it has finished; concurrent callers wait for the first.

    Args:
        clean: its settings, named by `compose.name_clean`.
        directory: directory of the clean run.
        output: file for its output; None: the output of this process.

    Raises:
        JobError: the clean run failed.
        Interrupted: this process was asked to stop.
    """
    if (directory / SUMMARY).is_file():
        return
    directory.parent.mkdir(parents=True, exist_ok=True)
    with directory.with_name(directory.name + ".lock").open("a") as lock:
        with Stop().listening():
            fcntl.flock(lock, fcntl.LOCK_EX)
        if (directory / SUMMARY).is_file():
            return
        # The training process inherits the lock: if this process is killed, others wait until training has ended, and
        # then resume or use its result.
        code, reason = run_in_own_process(clean, directory, output=output, holds=[lock.fileno()])
    if code != 0:
        is_reason = code == EXIT_INPUT or code > EXIT_SIGNAL  # other codes only mean that it crashed
        raise JobError(f"{directory}, the clean model to start from: {reason}", code=code if is_reason else EXIT_FAULT)


def _name_end(code: int) -> str:
    if code - EXIT_SIGNAL in signal.valid_signals():
        return f"stopped by {signal.Signals(code - EXIT_SIGNAL).name}"
    return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


def work() -> None:
    """Main function of a job's process: reads settings from standard input, writes a failure's reason to a file."""
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
    # Screenings up sys.stderr for every record, because progress bars replace it to show lines above them.

    def emit(self, record: logging.LogRecord) -> None:
        print(self.format(record), file=sys.stderr)


def _log_to_stderr() -> None:
    log = logging.getLogger("tmqc")
    log.setLevel(logging.INFO)
    if not any(isinstance(handler, _StderrHandler) for handler in log.handlers):
        log.addHandler(_StderrHandler())


def end(interrupted: Interrupted) -> NoReturn:
    """Exit with the code of a signal."""
    print(f"tmqc: stopped by {interrupted}; the same command with the same run.name resumes from here", file=sys.stderr)
    sys.exit(EXIT_SIGNAL + interrupted.number)


def fail(error: TmqcError) -> NoReturn:
    """Print the error and exit with its code."""
    print(f"tmqc: {error}", file=sys.stderr)
    sys.exit(error.code)


def first_faults(error: TmqcError) -> str:
    """Join the first faults in one line; a cohort may have hundreds, all of which have been printed."""
    more = len(error.faults) - _N_FAULTS
    return "; ".join(error.faults[:_N_FAULTS]) + (f"; and {more} more" if more > 0 else "")
