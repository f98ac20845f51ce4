"""An object store in a process of its own, with the part of S3 that a lake without tables needs.

delta-rs keeps the interpreter to itself while it waits for an answer to a write, so that a thread could not give it.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

EMPTY_LIST = b"<ListBucketResult><IsTruncated>false</IsTruncated></ListBucketResult>"
BEGUN = b"<InitiateMultipartUploadResult><UploadId>1</UploadId></InitiateMultipartUploadResult>"
DONE = b"<CompleteMultipartUploadResult><ETag>1</ETag></CompleteMultipartUploadResult>"
DENIED = b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"


@contextmanager
def object_store(*denied: str) -> Iterator[tuple[dict[str, str], list[str]]]:
    """Yield storage options, and record each write and deletion as method and key.

    Args:
        *denied: ``put`` or ``delete``, which the credentials do not allow.
    """
    log: list[str] = []
    command = (sys.executable, __file__, *denied)
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        options = {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{process.stdout.readline().strip()}",
            "AWS_ALLOW_HTTP": "true",
            "AWS_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret-of-the-store",
        }
        try:
            yield options, log
        finally:
            process.kill()  # a shell that started the tests in the background may have made it ignore SIGTERM
            log += process.stdout.read().splitlines()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        is_list = "list-type" in self.path
        self._answer(200 if is_list else 404, EMPTY_LIST if is_list else b"")

    def do_POST(self) -> None:
        query = parse_qs(urlsplit(self.path).query, keep_blank_values=True)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if "delete" in query:
            self._delete(re.findall("<Key>(.*?)</Key>", body.decode()))
        elif "put" in sys.argv:
            self._answer(403, DENIED)
        elif "uploads" in query:
            self._answer(200, BEGUN)
        else:
            self._did("put", urlsplit(self.path).path.removeprefix("/bucket/"))
            self._answer(200, DONE)

    def do_PUT(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self._answer(200, b"")  # a part: the object is there once the upload is completed

    def _delete(self, keys: list[str]) -> None:
        """Delete many objects in one request; the answer is 200 even if a deletion is refused."""
        if "delete" in sys.argv:
            said = [f"<Error><Key>{key}</Key><Code>AccessDenied</Code><Message>no</Message></Error>" for key in keys]
        else:
            said = [f"<Deleted><Key>{key}</Key></Deleted>" for key in keys]
            for key in keys:
                self._did("delete", key)
        self._answer(200, f"<DeleteResult>{''.join(said)}</DeleteResult>".encode())

    def _did(self, what: str, key: str) -> None:
        sys.stdout.write(f"{what} {key}\n")
        sys.stdout.flush()

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("ETag", '"1"')
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Discard the log line."""


if __name__ == "__main__":
    with ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as server:
        sys.stdout.write(f"{server.server_port}\n")
        sys.stdout.flush()
        server.serve_forever()
