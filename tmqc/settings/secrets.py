"""Keeps user names, passwords and tokens in URIs out of files, but available to the run and its jobs."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from typing import Any

MARK = "***"
# Jobs of a sweep run in processes of their own, also on other machines: they inherit the environment.
_ENVIRONMENT = "TMQC_URIS"
# Up to the end of the URI, but not into the next one of a list.
_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://(?:(?![A-Za-z][A-Za-z0-9+.-]*://)[^\s'\"<>])+")
_ONE = r"[A-Za-z][A-Za-z0-9+.-]*://(?:(?!://).)+"  # a password may contain any character, also blanks and quotes
_WHOLE = re.compile(_ONE)
_SETTING = re.compile(rf"""(?P<before>['"]?[^\s'"=]+=)(?P<quote>['"]?)(?P<uri>{_ONE}?)(?P<after>(?P=quote)['"]?)""")
_USER = re.compile(r"(://)(?!/).*@")  # greedy: a password may also contain @, / and ?
_VALUE = re.compile(r"([?&;][^=&;#?]+=)[^&;#,)\]}]+")
_PLAIN = re.compile(r"[?&;](?:timeout|connect_timeout|sslmode|charset|mode|uri|cache|check_same_thread)=$")


def redact(text: str) -> str:
    """Replace the user information and the query values of every URI in the text by `***`."""
    for short, uri in _known().items():
        text = text.replace(uri, short)
    if _WHOLE.fullmatch(text):  # the text is a single URI: its end is known
        return _redact_uri(text)
    return _URI.sub(lambda found: _redact_uri(found[0]), text)


def _redact_uri(uri: str) -> str:
    uri = _USER.sub(rf"\1{MARK}@", uri)
    return _VALUE.sub(lambda pair: pair[0] if _PLAIN.search(pair[1]) else pair[1] + MARK, uri)


def redact_all(value: Any) -> Any:
    """Apply `redact` to every text in nested dictionaries and lists."""
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, dict):
        return {key: redact_all(each) for key, each in value.items()}
    return [redact_all(each) for each in value] if isinstance(value, list | tuple) else value


def hide(arguments: Sequence[str]) -> list[str]:
    """Redact the arguments of a command before they are written anywhere; `reveal` returns the original URIs.

    The original URIs are kept in the environment of this process.
    """
    known, hidden = _known(), []
    for text in arguments:
        if found := _SETTING.fullmatch(text):
            quote, short = found["quote"], _redact_uri(found["uri"])
            whole = {short: found["uri"].replace(f"\\{quote}", quote) if quote else found["uri"]}
            hidden.append(f"{found['before']}{quote}{short}{found['after']}")
        else:
            whole = {_redact_uri(uri): uri for uri in ([text] if _WHOLE.fullmatch(text) else _URI.findall(text))}
            hidden.append(redact(text))
        known |= {short: uri for short, uri in whole.items() if short != uri}
    if known:
        os.environ[_ENVIRONMENT] = json.dumps(known)
    return hidden


def reveal(uri: str) -> str:
    """Return the original of a redacted URI if this process or an ancestor received it; otherwise `uri` itself."""
    return _known().get(uri, uri)


def _known() -> dict[str, str]:
    return dict(json.loads(os.environ.get(_ENVIRONMENT, "{}")))
