"""User names, passwords and tokens in URIs: never written to files, and still known to the run and its jobs."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from typing import Any

MARK = "***"
# Jobs of a sweep run in processes of their own, on other machines too: they inherit the environment.
_ENVIRONMENT = "TMQC_URIS"
# A URI to its end, but not into the next one of a list.
_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://(?:(?![A-Za-z][A-Za-z0-9+.-]*://)[^\s'\"<>])+")
_ONE = r"[A-Za-z][A-Za-z0-9+.-]*://(?:(?!://).)+"  # whatever a password holds, blanks and quotes too
_WHOLE = re.compile(_ONE)
_SETTING = re.compile(rf"""(?P<before>['"]?[^\s'"=]+=)(?P<quote>['"]?)(?P<uri>{_ONE}?)(?P<after>(?P=quote)['"]?)""")
_USER = re.compile(r"(://)(?!/).*@")  # greedy: a password may hold @, / and ? as well
_VALUE = re.compile(r"([?&;][^=&;#?]+=)[^&;#,)\]}]+")
_PLAIN = re.compile(r"[?&;](?:timeout|connect_timeout|sslmode|charset|mode|uri|cache|check_same_thread)=$")


def redact(text: str) -> str:
    """The text with `***` in place of the user information, and of the values in the query, of every URI in it."""
    for short, uri in _known().items():
        text = text.replace(uri, short)
    if _WHOLE.fullmatch(text):  # a setting: its end is known
        return _redact_uri(text)
    return _URI.sub(lambda found: _redact_uri(found[0]), text)


def _redact_uri(uri: str) -> str:
    uri = _USER.sub(rf"\1{MARK}@", uri)
    return _VALUE.sub(lambda pair: pair[0] if _PLAIN.search(pair[1]) else pair[1] + MARK, uri)


def redact_all(value: Any) -> Any:
    """`redact` for every text in plain nested data."""
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, dict):
        return {key: redact_all(each) for key, each in value.items()}
    return [redact_all(each) for each in value] if isinstance(value, list | tuple) else value


def hide(arguments: Sequence[str]) -> list[str]:
    """Redact the arguments of a command before anything writes them down; `reveal` finds what stood there.

    The whole URIs are kept in this process' environment.
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
    """The whole URI of a redacted one, if this process or one that started it was given it; else `uri` as it is."""
    return _known().get(uri, uri)


def _known() -> dict[str, str]:
    return dict(json.loads(os.environ.get(_ENVIRONMENT, "{}")))
