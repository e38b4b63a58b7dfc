"""Serve the trackers of a directory on this machine. Roundup's own server would do, but for root, which it refuses.

python serve.py DIRECTORY PORT
"""

from __future__ import annotations

import sys
from pathlib import Path
from wsgiref.simple_server import WSGIRequestHandler, make_server
from wsgiref.util import shift_path_info

from roundup.cgi.wsgi_handler import RequestDispatcher


class Quiet(WSGIRequestHandler):
    """Answers without a log."""

    def log_message(self, *_: object) -> None:
        pass


def main(directory: Path, port: int) -> None:
    """Serve until the end of the process."""
    homes = [file.parent for file in directory.glob("*/config.ini")]
    trackers = {home.name: RequestDispatcher(str(home), feature_flags={"cache_tracker": True}) for home in homes}

    def application(environ: dict, start_response):
        if tracker := trackers.get(shift_path_info(environ) or ""):
            return tracker(environ, start_response)
        start_response("404 Not Found", [("Content-Type", "text/plain")])
        return [b"There is no such tracker.\n"]

    make_server("127.0.0.1", port, application, handler_class=Quiet).serve_forever()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
