"""A W&B server, asked directly: whether it answers, who we are there, and what it holds of a run. No torch here.

wandb's own client repeats an unanswered request for minutes; here a request is answered within seconds, or is not.
"""

from __future__ import annotations

import base64
import configparser
import http.client
import json
import netrc
import os
import time
import urllib.error
import urllib.request
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

CLOUD = "https://api.wandb.ai"
ANSWER_SECONDS = 3.0
LONGEST_ANSWER = 10_000_000  # bytes
NO_LOGIN = "not logged in to {url}: run `wandb login`, or set WANDB_API_KEY"

_VIEWER = "query Viewer { viewer { id entity username } }"
_HELD = """query Held($project: String!, $entity: String!, $name: String!) {
    project(name: $project, entityName: $entity) { run(name: $name) { historyLineCount summaryMetrics } }
}"""


class Unavailable(Exception):
    """A server that cannot take a run, and why."""


@dataclass(frozen=True)
class Server:
    """Where runs go and with which key; `entity` is where they go when none is named."""

    url: str
    key: str
    entity: str

    def held(self, entity: str, project: str, run_id: str) -> dict[str, Any] | None:
        """What the server holds of a run: `epochs`, and its `summary`; None where it does not know the run.

        Raises:
            Unavailable: where it does not answer.

        """
        answer = ask(self.url, self.key, _HELD, {"project": project, "entity": entity, "name": run_id})
        run = (answer.get("project") or {}).get("run")
        if run is None:
            return None
        try:
            return {"epochs": int(run["historyLineCount"] or 0), "summary": json.loads(run["summaryMetrics"] or "{}")}
        except (KeyError, TypeError, ValueError) as error:
            raise Unavailable(f"{self.url} answered something else than W&B does") from error

    def page(self, entity: str, project: str, run_id: str) -> str:
        """Where a run is shown."""
        shown = "https://wandb.ai" if self.url == CLOUD else self.url
        return f"{shown}/{quote(entity)}/{quote(project)}/runs/{quote(run_id)}"


class _Stay(urllib.request.HTTPRedirectHandler):
    """A key is sent to the server that it is for, and to no other that this one names."""

    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        """Follow no redirection."""


_OPENER = urllib.request.build_opener(_Stay)


def address() -> str:
    """The server that wandb would use: WANDB_BASE_URL, or the one of the last `wandb login`, or W&B's own."""
    settings = configparser.ConfigParser(interpolation=None)
    with suppress(configparser.Error, UnicodeDecodeError):
        settings.read(Path(os.environ.get("WANDB_CONFIG_DIR") or "~/.config/wandb").expanduser() / "settings")
    return (os.environ.get("WANDB_BASE_URL") or settings.get("default", "base_url", fallback="") or CLOUD).rstrip("/")


def connect(url: str) -> Server:
    """The server, after it has said that it knows the key.

    Raises:
        Unavailable: without a login, or where the server does not answer as W&B does.

    """
    key = _key(url)
    if key is None:
        raise Unavailable(NO_LOGIN.format(url=url))
    viewer = ask(url, key, _VIEWER, {}).get("viewer")
    if not isinstance(viewer, dict):
        raise Unavailable(f"{url} does not know this API key")
    return Server(url, key, str(viewer.get("entity") or viewer.get("username") or ""))


def _key(url: str) -> str | None:
    """The API key of this server, looked for where wandb does: the environment, then `.netrc`."""
    if key := os.environ.get("WANDB_API_KEY"):
        return key.strip()
    files = [Path(os.environ["NETRC"])] if os.environ.get("NETRC") else [Path.home() / ".netrc", Path.home() / "_netrc"]
    for file in files:
        try:
            found = netrc.netrc(file.expanduser()).authenticators(urlsplit(url).hostname or "")
        except (OSError, netrc.NetrcParseError):
            continue
        if found:
            return found[2]
    return None


def ask(url: str, key: str, query: str, variables: dict[str, str]) -> dict[str, Any]:
    """One question in GraphQL, once."""
    token = base64.b64encode(f"api:{key}".encode()).decode()
    headers = {"Authorization": f"Basic {token}", "Content-Type": "application/json", "User-Agent": "roadmap"}
    body = json.dumps({"query": query, "variables": variables}).encode()
    try:
        request = urllib.request.Request(f"{url}/graphql", body, headers)
        with _OPENER.open(request, timeout=ANSWER_SECONDS) as response:
            answer = json.loads(_read(response))
    except urllib.error.HTTPError as error:
        with error:
            raise Unavailable(_said(url, error)) from error
    except (OSError, http.client.HTTPException) as error:
        raise Unavailable(f"{url} does not answer ({getattr(error, 'reason', None) or error or type(error).__name__})") from error
    except ValueError as error:
        raise Unavailable(f"{url} answered something else than W&B does") from error
    if not isinstance(answer, dict) or not isinstance(answer.get("data"), dict):
        raise Unavailable(f"{url} answered something else than W&B does")
    return answer["data"]


def _read(response: http.client.HTTPResponse) -> bytes:
    """The whole answer, also of a server that sends it byte by byte, within twice the time of one that does not."""
    deadline, content = time.monotonic() + ANSWER_SECONDS, b""
    while piece := response.read1(65536):
        content += piece
        if time.monotonic() > deadline or len(content) > LONGEST_ANSWER:
            raise TimeoutError("its answer has no end")
    return content


def _said(url: str, error: urllib.error.HTTPError) -> str:
    if error.code in (401, 403):
        return f"{url} refuses this API key (HTTP {error.code})"
    return f"{url} answers HTTP {error.code} ({error.reason})"
