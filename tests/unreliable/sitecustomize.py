"""Makes sites fail in tests: Python imports this module at startup if its folder is first on the PYTHONPATH.

A file `<site>.<task>.<n>-<fault>` in the folder TMQC_TEST_FAULTS applies the fault to the site's next answer to the
task that is not an error, and is deleted; the files of a task are used in the order of their names.
"""

from __future__ import annotations

import importlib.util
import os
import signal
import sys
from pathlib import Path

MODULE = "tmqc.federation.site"


def nan(module, reply):
    message = module.decode_message(reply)
    return module.encode_message(message | {"counts": message["counts"] * float("nan")})


def stop(module, reply):  # the whole process hangs
    os.kill(os.getpid(), signal.SIGSTOP)
    return reply


def die(module, reply):
    os.kill(os.getpid(), signal.SIGKILL)


def leave(module, reply):  # kills FLARE's client too
    os.kill(os.getppid(), signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)


FAULTS = {"garbage": lambda module, reply: b"garbage", "nan": nan, "stop": stop, "die": die, "leave": leave}


def patch_site(module, folder):
    handle = module.Site.handle

    def handle_with_fault(self, data):
        site, task = self.settings.tokens_csv.parent.name, module.decode_message(data)["task"]
        reply = handle(self, data)
        if "error" in module.decode_message(reply):  # such as that of a restarted site, which has to be opened again
            return reply
        for path in sorted(folder.glob(f"{site}.{task}.*"))[:1]:
            path.unlink()
            return FAULTS[path.name.rpartition("-")[2]](module, reply)
        return reply

    module.Site.handle = handle_with_fault


class Finder:
    """Import hook that patches one module after it has been loaded."""

    @classmethod
    def find_spec(cls, name, path=None, target=None):
        if name != MODULE:
            return None
        sys.meta_path.remove(cls)
        spec = importlib.util.find_spec(name)
        execute = spec.loader.exec_module

        def execute_and_patch(module):
            execute(module)
            patch_site(module, Path(os.environ["TMQC_TEST_FAULTS"]))

        spec.loader.exec_module = execute_and_patch
        return spec


if "TMQC_TEST_FAULTS" in os.environ:
    sys.meta_path.insert(0, Finder)
