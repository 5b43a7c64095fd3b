"""First on the PYTHONPATH of sites that are to misbehave: Python runs it by itself, tmqc knows nothing of it.

A file `<site>.<task>.<n>-<fault>` in the folder TMQC_TEST_FAULTS is used up by the site's next answer to such a task,
those of a task in the order of their names.
"""

from __future__ import annotations

import importlib.util
import os
import signal
import sys
from pathlib import Path

MODULE = "tmqc.federation.site"


def nan(module, reply):
    told = module.decode_message(reply)
    return module.encode_message(told | {"counts": told["counts"] * float("nan")})


def stop(module, reply):  # the process hangs, all of it
    os.kill(os.getpid(), signal.SIGSTOP)
    return reply


def die(module, reply):
    os.kill(os.getpid(), signal.SIGKILL)


def leave(module, reply):  # and FLARE's client with it
    os.kill(os.getppid(), signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)


FAULTS = {"garbage": lambda module, reply: b"garbage", "nan": nan, "stop": stop, "die": die, "leave": leave}


def spoil(module, folder):
    handle = module.Site.handle

    def spoiled(self, data):
        site, task = self.settings.tokens_csv.parent.name, module.decode_message(data)["task"]
        reply = handle(self, data)
        for path in sorted(folder.glob(f"{site}.{task}.*"))[:1]:
            path.unlink()
            return FAULTS[path.name.rpartition("-")[2]](module, reply)
        return reply

    module.Site.handle = spoiled


class Finder:
    """Finds one module as the others do, and has it spoiled once it is loaded."""

    @classmethod
    def find_spec(cls, name, path=None, target=None):
        if name != MODULE:
            return None
        sys.meta_path.remove(cls)
        spec = importlib.util.find_spec(name)
        execute = spec.loader.exec_module

        def execute_and_spoil(module):
            execute(module)
            spoil(module, Path(os.environ["TMQC_TEST_FAULTS"]))

        spec.loader.exec_module = execute_and_spoil
        return spec


if "TMQC_TEST_FAULTS" in os.environ:
    sys.meta_path.insert(0, Finder)
