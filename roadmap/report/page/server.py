"""`python -m roadmap.serve FOLDER`: a study's page in the browser, which follows the runs while they go on.

For one person on one machine: it listens on 127.0.0.1, answers only to that name, reads and never writes, and gives out
the page and the record files of this study's runs and nothing else.
"""

from __future__ import annotations

import errno
import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Lock
from typing import Any
from urllib.parse import unquote, urlsplit

from roadmap.base.errors import Refused, RoadmapError
from roadmap.record.study import find_plan
from roadmap.report.page import render, render_fault, report_of
from roadmap.report.page.progress import Progress, is_single, progress_of
from roadmap.report.page.tables import FILES

LOCAL = ("localhost", "127.0.0.1", "::1")
STUDY_FILES = ("study.json", "records.jsonl", "bench.csv")  # what a page depends on beside the runs

HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Content-Security-Policy": "frame-ancestors 'none'",
}


@dataclass
class Site:
    """What is served: the page of a study, rendered anew when its records have changed."""

    folder: Path
    seen: str = ""
    page: str = ""
    lock: Lock = field(default_factory=Lock)

    def look(self) -> tuple[str, dict[str, Progress]]:
        """A fingerprint of everything the page shows, and how far the runs are that go on."""
        plan = find_plan(self.folder)
        runs = list(plan.runs) if plan else []
        live = progress_of(self.folder, runs, plan.metric.key) if plan else {}
        results = [self.folder / "runs" / run / "result.json" for run in runs]
        stamps = [_stamp(file) for file in (*(self.folder / name for name in STUDY_FILES), *results)]
        content = json.dumps([stamps, {run: asdict(one) for run, one in live.items()}])
        return hashlib.sha256(content.encode()).hexdigest()[:16], live

    def current(self) -> str:
        """The page as of now; a study that cannot be reported says so, and is tried again when it changes."""
        with self.lock:
            state, live = self.look()
            if state != self.seen:
                self.page, self.seen = self._render(state, live), state
            return self.page

    def _render(self, state: str, live: Mapping[str, Progress]) -> str:
        try:
            return render(report_of(self.folder), live=live, state=state)
        except RoadmapError as error:
            return render_fault(error, state)

    def file(self, path: str) -> Path | None:
        """The record file that an address names; None for every other address."""
        parts, plan = path.split("/")[1:], find_plan(self.folder)
        folder, run, name = parts if len(parts) == 3 else ("", "", "")
        of_run = folder == "runs" and name in FILES and plan is not None and run in plan.runs and is_single(run)
        allowed = of_run or parts == ["records.jsonl"]
        target = self.folder.joinpath(*parts) if allowed else self.folder
        inside = target.resolve() == self.folder.resolve().joinpath(*parts)  # no link on the way, and none out of the folder
        return target if allowed and inside and target.is_file() else None


def _stamp(file: Path) -> tuple[int, int] | None:
    try:
        about = file.stat()
    except (OSError, ValueError):
        return None
    return about.st_mtime_ns, about.st_size


class Server(ThreadingHTTPServer):
    """One study, and the names it may be asked for by."""

    daemon_threads = True

    def __init__(self, folder: Path, host: str, port: int) -> None:
        self.site = Site(folder)
        self.hosts = {*LOCAL, host.lower()}
        super().__init__((host, port), Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that has gone is no fault."""


class Handler(BaseHTTPRequestHandler):
    """The page, its state, and the record files; reading only."""

    server: Server
    server_version = "roadmap"
    sys_version = ""
    timeout = 30

    def do_GET(self) -> None:
        """Answer; a name that is not this server's own is refused (a foreign page may have rebound its name to us)."""
        if _host(self.headers.get("Host", "")) not in self.server.hosts:
            return self._say(421, "text/plain", b"asked for by another name than this server's\n")
        path = unquote(urlsplit(self.path).path)
        site = self.server.site
        if path == "/":
            return self._say(200, "text/html", site.current().encode())
        if path == "/state.json":
            return self._say(200, "application/json", json.dumps({"state": site.look()[0]}).encode())
        file = site.file(path)
        if file is None:
            return self._say(404, "text/plain", b"not here\n")
        return self._say(200, "text/plain", file.read_bytes())

    do_HEAD = do_GET

    def _say(self, status: int, kind: str, content: bytes) -> None:
        self.send_response(status)
        for name, value in {**HEADERS, "Content-Type": f"{kind}; charset=utf-8", "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, format: str, *arguments: Any) -> None:
        """Say nothing: a page that looks every two seconds would fill the terminal."""


def _host(header: str) -> str:
    """The name in a Host header, without its port."""
    try:
        return urlsplit(f"//{header}").hostname or ""
    except ValueError:
        return ""


def open_server(folder: Path, host: str, port: int) -> Server:
    """Listen.

    Raises:
        Refused: where there is no study, or the port cannot be had.

    """
    if not (folder / "study.json").is_file():
        raise Refused(f"{folder}: no study to show: there is no study.json")
    try:
        return Server(folder, host, port)
    except OSError as error:
        taken = "is taken by another program; --port names another" if error.errno == errno.EADDRINUSE else error.strerror
        raise Refused(f"--host {host} --port {port}: {taken}") from error
    except OverflowError as error:
        raise Refused(f"--port {port}: allowed: 0 to 65535, 0 for any that is free") from error
