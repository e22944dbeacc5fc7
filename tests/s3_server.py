"""A local S3 server (moto) whose requests can be counted, refused and held up."""

import threading
import time
from collections.abc import Callable, Iterable
from typing import Any

from moto.core import DEFAULT_ACCOUNT_ID
from moto.s3.models import s3_backends
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import WSGIRequestHandler, make_server

REFUSED = b"<Error><Code>AccessDenied</Code><Message>refused by the test</Message></Error>"


class Quiet(WSGIRequestHandler):
    def log(self, *_: Any) -> None: ...


class S3:
    """`refuse`: which (method, path, query) get a 403. `hold`: which wait until the server is closed."""

    def __init__(self, bucket: str) -> None:
        self.requests: list[tuple[str, str, str]] = []
        self.refuse: Callable[[str, str, str], bool] = lambda *_: False
        self.hold: Callable[[str, str, str], bool] = lambda *_: False
        self._app = DomainDispatcherApplication(create_backend_app)
        self._closed = threading.Event()
        self.server = make_server("127.0.0.1", 0, self._answer, threaded=True, request_handler=Quiet)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.backend.create_bucket(bucket, "us-east-1")

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.port}"

    @property
    def backend(self) -> Any:
        return s3_backends[DEFAULT_ACCOUNT_ID]["aws"]

    def close(self) -> None:
        self._closed.set()
        self.server.shutdown()
        self.backend.reset()

    def wait_for(self, wanted: Callable[[str, str, str], bool]) -> None:
        while not any(wanted(*r) for r in self.requests):
            time.sleep(0.02)

    def _answer(self, environ: dict[str, Any], start: Any) -> Iterable[bytes]:
        request = (environ["REQUEST_METHOD"], environ["PATH_INFO"], environ["QUERY_STRING"])
        self.requests.append(request)
        if self.hold(*request):
            self._closed.wait(3_600)
        if self.refuse(*request):
            if request[0] == "PUT":
                environ["wsgi.input"].read()
            start("403 Forbidden", [("Content-Type", "application/xml"), ("Content-Length", str(len(REFUSED)))])
            return [] if request[0] == "HEAD" else [REFUSED]
        return self._app(environ, start)  # type: ignore[no-any-return]
