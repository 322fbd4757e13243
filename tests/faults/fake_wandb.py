"""A small W&B server: GraphQL and file stream, as wandb's own client uses them, and every way for it to fail."""

from __future__ import annotations

import base64
import json
import re
import socket
import threading
from collections import defaultdict
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

KEY = "0123456789abcdef0123456789abcdef01234567"
LOGIN = base64.b64encode(f"api:{KEY}".encode()).decode()


class FakeWandb:
    """What has arrived: runs by id, each with its history lines, config, tags, summary; requests in order."""

    def __init__(self, fault=None):
        self.fault = fault  # None, a status, "malformed", "list", "silent", "forgetful"
        self.runs = {}
        self.requests = []
        self.inserted = defaultdict(int)
        self.views = {}  # views and reports, by id
        self.files = {}  # what was uploaded, by path
        self.received = defaultdict(list)  # the steps of a run, in the order in which they came, by its id
        self.wait = threading.Event()

    def graphql(self, name, variables):
        return {
            "ServerFeaturesQuery": lambda: {"serverInfo": {"features": []}},
            "Viewer": lambda: {"viewer": {"id": "1", "entity": "me", "username": "me", "flags": "{}", "teams": {"edges": []}}},
            "RunResumeStatus": lambda: {
                "model": {"name": "p", "entity": {"name": "me"}, "bucket": self.bucket(variables["name"])}
            },
            "UpsertBucket": lambda: self.upsert(variables),
            "CreateRunFiles": lambda: {"createRunFiles": self.places(variables["files"])},
            "ArtifactType": lambda: {"project": {"artifact": None}},
            "CreateArtifact": lambda: {"createArtifact": self.artifact},
            "View": lambda: {"project": {"allViews": {"edges": self.found(variables)}}},
            "UpsertView": lambda: {"upsertView": self.save(variables)},
            "Held": lambda: {"project": {"run": self.held(variables["name"])}},
        }.get(name, dict)()

    @property
    def artifact(self):
        """One that the server has already, so that nothing more is sent."""
        sequence = {"id": "2", "latestArtifact": {"id": "1", "versionIndex": 0}}
        return {"artifact": {"id": "1", "state": "COMMITTED", "artifactSequence": sequence}}

    def places(self, names):
        headers = [f"Authorization:Basic {LOGIN}"]
        return {
            "runID": "1",
            "uploadHeaders": headers,
            "files": [{"name": n, "uploadUrl": f"{self.url}/upload/{n}"} for n in names],
        }

    def found(self, wanted):
        same = [view for view in self.views.values() if all(view[key] == value for key, value in wanted.items())]
        return [{"node": {"id": view["id"], "displayName": view["title"]}} for view in same]

    def save(self, view):
        view_id = view.get("id") or f"view{len(self.views)}=="
        inserted = view_id not in self.views
        self.views[view_id] = {**view, "id": view_id}
        return {"view": {"id": view_id, "name": view["name"]}, "inserted": inserted}

    def held(self, name):
        run = self.runs.get(name)
        return run and {"historyLineCount": len(run["history"]), "summaryMetrics": json.dumps(run["summary"])}

    def bucket(self, name):
        run = self.runs.get(name)
        return run and {
            "name": name,
            "displayName": run["displayName"],
            "summaryMetrics": json.dumps(run["summary"]),
            "historyLineCount": len(run["history"]),
            "historyTail": json.dumps([json.dumps(line) for line in run["history"][-1:]]),
            "logLineCount": 0,
            "eventsLineCount": 0,
            "eventsTail": "[]",
            "config": "{}",
            "tags": run["tags"],
            "notes": "",
            "wandbConfig": json.dumps({"t": 1}),
        }

    def upsert(self, variables):
        name = variables["name"]
        new = name not in self.runs
        self.inserted[name] += new
        run = self.runs.setdefault(name, {"history": [], "summary": {}, "complete": False})
        run.update({key: value for key, value in variables.items() if value is not None})
        project = {"id": "1", "name": variables.get("project"), "entity": {"id": "1", "name": "me"}}
        bucket = {"id": name, "name": name, "displayName": variables.get("displayName"), "description": "", "config": "{}"}
        return {
            "upsertBucket": {"bucket": {**bucket, "sweepName": None, "project": project, "historyLineCount": 0}, "inserted": new}
        }

    def stream(self, name, body):
        run = self.runs[name]
        for file, content in (body.get("files") or {}).items():
            if file == "wandb-history.jsonl":
                at = content["offset"]
                lines = [json.loads(line) for line in content["content"]]
                self.received[name] += [line["_step"] for line in lines]
                if self.fault != "forgetful":
                    run["history"][at : at + len(lines)] = lines
            elif file == "wandb-summary.json":
                run["summary"] = json.loads(content["content"][-1])
        run["complete"] |= bool(body.get("complete"))
        return {"limits": {}}


def handler(fake):
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_):
            pass

        def answer(self, status, content):
            content = content if isinstance(content, bytes) else json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def do_POST(self):
            text = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
            fake.requests.append((self.path, text))
            known = self.headers.get("Authorization") == f"Basic {LOGIN}"
            if fake.fault == "silent":
                fake.wait.wait()
            elif isinstance(fake.fault, int):
                self.answer(fake.fault, {"errors": [{"message": "no"}]})
            elif fake.fault == "malformed":
                self.answer(200, b"<html>welcome to the hotel's network</html>")
            elif fake.fault == "list":
                self.answer(200, [1, 2])
            elif not known:
                self.answer(401, {"errors": [{"message": "invalid key"}]})
            elif self.path == "/graphql":
                body = json.loads(text)
                name = re.search(r"(?:query|mutation) (\w+)", body["query"])[1]
                self.answer(200, {"data": fake.graphql(name, body.get("variables") or {})})
            elif match := re.fullmatch(r"/files/[^/]+/[^/]+/([^/]+)/file_stream", self.path):
                self.answer(200, fake.stream(match[1], json.loads(text)))
            elif self.path.startswith("/upload/"):
                fake.files[self.path.removeprefix("/upload/")] = text
                self.answer(200, {})
            else:
                self.answer(404, {})

        do_PUT = do_GET = do_POST

    return Handler


@contextmanager
def serving(fault=None):
    fake = FakeWandb(fault)
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler(fake))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    fake.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield fake
    finally:
        fake.wait.set()
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def black_hole():
    """A port that takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listening:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
