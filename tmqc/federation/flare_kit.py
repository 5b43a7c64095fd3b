"""Prepares a FLARE start-up kit for tmqc: the classes a job may use, and the rights of the administrator.

By default, FLARE streams a site's error log to the server and lets the administrator read files at the site.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from nvflare.security.security import COMMAND_CATEGORIES, CommandCategory

from tmqc.federation.flare import JOB_MODULE, NO_LOGS
from tmqc.federation.flare_job import SETTINGS
from tmqc.federation.site_settings import read_site_settings
from tmqc.runs.directory import write_text

_STREAMERS = ("SiteLogStreamer", "JobLogStreamer")
# In FLARE a role with the right "any" cannot be denied anything, so the rights are listed one by one.
_ALL = ("submit_job", "clone_job", "manage_job", "download_job", "view", "operate", "report_version")
# Reading files of the site; code that a job brings, to which no list of allowed classes applies.
_DENIED = (CommandCategory.SHELL_COMMANDS, "byoc", "server-predeployed-flwr")


def prepare_kit(kit: Path, settings: Path | None) -> None:
    """Prepare a start-up kit for tmqc: allow the job's two classes.

    At a hospital, also link the kit to the site's settings, and prevent reading its logs and files from outside.

    Args:
        kit: folder of the start-up kit of the server or a client.
        settings: the site's YAML file; None for the server.

    Raises:
        SiteError: the settings cannot be used.
        OSError: the folder is not a start-up kit.
    """
    local = kit / "local"
    content = _read(local, "resources.json")  # read all files before writing any: a fault in one changes none
    allowed = content.setdefault("class_allow_list", [])
    if f"{JOB_MODULE}." not in allowed:
        allowed.append(f"{JOB_MODULE}.")
    if settings is None:
        _write(local / "resources.json", content)
        return
    read_site_settings(settings)
    policy, content = _read(local, "authorization.json"), _without_logs(content)
    policy["permissions"] = {role: _without_files(rights) for role, rights in policy["permissions"].items()}
    _write(local / "authorization.json", policy)
    _write(local / "resources.json", content)
    _link(local / SETTINGS, settings.resolve())


def _link(path: Path, settings: Path) -> None:
    """Link the settings instead of copying them, so that changes apply from the next job on."""
    if settings == path.parent.resolve() / path.name:
        return  # the copy of the settings in a kit that was joined by an earlier version
    new = path.with_name(f"{path.name}.new")
    new.unlink(missing_ok=True)
    new.symlink_to(settings)
    new.replace(path)


def _without_logs(resources: dict[str, Any]) -> dict[str, Any]:
    """Disable streaming of the site's log, in which a traceback may name scans."""
    components = [one for one in resources.get("components", []) if not _class_of(one).endswith(_STREAMERS)]
    return resources | NO_LOGS | {"components": components}


def _class_of(component: dict[str, Any]) -> str:
    return str(component.get("path") or component.get("class_path") or component.get("name") or "")


def _without_files(rights: Any) -> dict[str, Any]:
    """Return a role's rights without those to read a site's files or to bring code.

    Args:
        rights: in FLARE's format: a condition for all rights, or one per right or category of rights.
    """
    each = rights if isinstance(rights, dict) else {"*": rights}
    each = {" ".join(name.lower().split()): condition for name, condition in each.items()}  # as FLARE reads them
    if "*" in each:  # in FLARE it takes precedence over all others
        each = dict.fromkeys(_ALL, each["*"])
    kept = {name: one for name, one in each.items() if COMMAND_CATEGORIES.get(name) != CommandCategory.SHELL_COMMANDS}
    return kept | dict.fromkeys(_DENIED, "none")


def _read(local: Path, name: str) -> dict[str, Any]:
    """Read the file in effect: the site's own, or otherwise the kit's default."""
    path = local / name
    content: dict[str, Any] = json.loads((path if path.exists() else local / f"{name}.default").read_text("utf-8"))
    return content


def _write(path: Path, content: dict[str, Any]) -> None:
    write_text(path, json.dumps(content, indent=2))
