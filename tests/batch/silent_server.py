"""A web server of a folder that tells neither the date nor an ETag of a file; it prints its port first."""

from __future__ import annotations

import sys
from http import HTTPStatus
from http.server import ThreadingHTTPServer
from pathlib import Path

sys.path.append(str(Path(__file__).parent.parent / "imagery"))
from range_server import Handler


class SilentHandler(Handler):
    """Answers HEAD requests with nothing but the length."""

    def do_HEAD(self) -> None:  # noqa: N802 - named by the standard library
        path = Path(self.translate_path(self.path))
        if not path.is_file():
            self.send_error(HTTPStatus.NOT_FOUND)
            return
        self.send_response(HTTPStatus.OK)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(path.stat().st_size))
        self.end_headers()


if __name__ == "__main__":
    server = ThreadingHTTPServer(("127.0.0.1", 0), lambda *args: SilentHandler(*args, directory=sys.argv[1]))
    server.daemon_threads = True
    sys.stdout.write(f"{server.server_port}\n")
    sys.stdout.flush()
    server.serve_forever()
