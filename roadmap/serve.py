"""`python -m roadmap.serve FOLDER`: a study's page in the browser, which follows the runs while they go on."""

from __future__ import annotations

from pathlib import Path

from roadmap.base.console import Parser, exits
from roadmap.base.errors import Refused
from roadmap.report.page.server import open_server


def main() -> int:
    """Serve until Ctrl-C."""
    parser = Parser(prog="python -m roadmap.serve", description="A study's page in the browser, which follows its runs.")
    parser.add_argument("folder", type=Path, help="the study's folder, e.g. experiments/digits")
    parser.add_argument("--port", type=int, default=8000, help="where to listen (8000); 0 takes any that is free")
    parser.add_argument("--host", default="127.0.0.1", help="this machine's name to listen on (127.0.0.1: seen from here only)")
    arguments = parser.parse_args()
    if not arguments.host.strip():  # to the system that is every one of this machine's names
        raise Refused(f"--host {arguments.host!r}: must be a name or address of this machine; 0.0.0.0 is all of them")
    with open_server(arguments.folder, arguments.host, arguments.port) as server:
        try:
            print(f"{arguments.folder}: http://{arguments.host}:{server.server_port}/ (Ctrl-C ends)", flush=True)
            server.serve_forever()
        except KeyboardInterrupt:
            print()
    return 0


if __name__ == "__main__":
    exits(main)()
