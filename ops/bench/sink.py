"""Push services for benchmarks: `run_sink` accepts every message with 201, over TLS.

The sink is nginx over HTTP/2, as real push services speak HTTP/2. Where nginx is not installed, it is a small uvloop
server over HTTP/1.1. Both take little CPU time, so that a benchmark measures the sender. Each runs as a process of its
own. `run_delayed` runs a sink that responds late, `run_faulty` one that is slow, silent or returns errors, and
`run_limited` one that limits the rate of some of its endpoints.
"""

import asyncio
import shutil
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import uvloop

RESPONSE = "HTTP/1.1 {}\r\nLocation: /m/1\r\nTTL: 60\r\nContent-Length: 0\r\n\r\n"
START_S = 10
# `run_limited` limits the endpoints whose path contains this.
LIMITED = "/limited/"

NGINX = """
worker_processes 1;
daemon off;
pid {folder}/nginx-{port}.pid;
error_log {folder}/nginx.log crit;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    keepalive_requests 100000000;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    server {{
        listen 127.0.0.1:{port} ssl http2 backlog=1024;
        ssl_certificate {folder}/server.pem;
        ssl_certificate_key {folder}/server.pem;
        location / {{
            {response}
        }}
    }}
    upstream delayed {{
        server 127.0.0.1:{upstream_port};
        keepalive 2048;
    }}
}}
"""
IMMEDIATE = "add_header Location /m/1 always; add_header TTL 60 always; return 201;"
PROXIED = 'proxy_pass https://delayed; proxy_http_version 1.1; proxy_set_header Connection "";'


@contextmanager
def run_sink(folder: Path) -> Iterator[tuple[str, str]]:
    """Run the push service; yield its description and its origin. `folder` contains server.pem."""
    port = _free_port()
    nginx = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    if nginx:
        description, command = "nginx, HTTP/2 over TLS", _nginx(nginx, folder, port)
    else:
        description, command = "uvloop, HTTP/1.1 over TLS", [sys.executable, __file__, str(port), str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        asyncio.run(_wait_until_listening(port))
        yield description, f"https://localhost:{port}"
    finally:
        process.terminate()
        process.wait()


@contextmanager
def run_delayed(folder: Path, seconds: float) -> Iterator[str]:
    """Run an nginx over HTTP/2 whose responses take this many seconds; yield its origin."""
    nginx = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    if nginx is None:
        raise SystemExit("this benchmark needs nginx as its HTTP/2 server")
    with run_faulty(folder, seconds) as slow:
        port = _free_port()
        command = _nginx(nginx, folder, port, PROXIED, int(slow.rpartition(":")[2]))
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            asyncio.run(_wait_until_listening(port))
            yield f"https://localhost:{port}"
        finally:
            process.terminate()
            process.wait()


def _nginx(nginx: str, folder: Path, port: int, response: str = IMMEDIATE, upstream_port: int = 9) -> list[str]:
    """Write nginx's configuration and return the command that runs it. Only PROXIED uses the upstream."""
    settings = folder / f"nginx-{port}.conf"
    settings.write_text(NGINX.format(folder=folder, port=port, response=response, upstream_port=upstream_port))
    return [nginx, "-c", str(settings), "-p", str(folder)]


@contextmanager
def run_faulty(folder: Path, seconds: float, status: str = "201 Created") -> Iterator[str]:
    """Run a service that responds with `status` after this many seconds; yield its origin."""
    port = _free_port()
    process = subprocess.Popen([sys.executable, __file__, str(port), str(folder), str(seconds), status])
    try:
        asyncio.run(_wait_until_listening(port))
        yield f"https://localhost:{port}"
    finally:
        process.terminate()
        process.wait()


@contextmanager
def run_limited(folder: Path, messages: int, window_s: float) -> Iterator[str]:
    """Run a service that accepts at most `messages` per `window_s` for paths that contain LIMITED.

    The endpoints with such a path share the limit. Messages for other endpoints are all accepted. Yields the origin of
    the service.
    """
    port = _free_port()
    command = [sys.executable, __file__, str(port), str(folder), "0", "201 Created", str(messages), str(window_s)]
    process = subprocess.Popen(command)
    try:
        asyncio.run(_wait_until_listening(port))
        yield f"https://localhost:{port}"
    finally:
        process.terminate()
        process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


async def _wait_until_listening(port: int) -> None:
    async with asyncio.timeout(START_S):
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                await asyncio.sleep(0.05)  # another process starts; there is no event to wait for
            else:
                writer.close()
                return


class Bucket:
    """A bucket of messages that is refilled evenly within `window_s`."""

    def __init__(self, messages: float, window_s: float) -> None:
        self._messages, self._window_s = messages, window_s
        self._left, self._at = messages, time.monotonic()

    def acquire(self) -> bool:
        """Take one message; return False when the bucket is empty."""
        now = time.monotonic()
        self._left = min(self._messages, self._left + (now - self._at) * self._messages / self._window_s)
        self._at = now
        if self._left < 1:
            return False
        self._left -= 1
        return True


class Sink(asyncio.Protocol):
    """An HTTP/1.1 server that reads requests by their Content-Length and ignores everything else."""

    def __init__(self, seconds: float, status: str, bucket: Bucket | None = None) -> None:
        self._seconds = seconds
        self._response = RESPONSE.format(status).encode()
        self._refusal = RESPONSE.format("429 Too Many Requests").encode()
        self._bucket = bucket

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(
            "asyncio.WriteTransport", transport
        )  # uvloop's transport does not declare the base class
        self._buffer = bytearray()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while (end := self._buffer.find(b"\r\n\r\n")) >= 0:
            head = bytes(self._buffer[:end]).lower()
            at = head.find(b"content-length:")
            length = int(head[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
            if len(self._buffer) < end + 4 + length:
                return
            del self._buffer[: end + 4 + length]
            if self._bucket and LIMITED.encode() in head.split(b"\r\n", 1)[0] and not self._bucket.acquire():
                self._transport.write(self._refusal)
            elif self._seconds:
                asyncio.get_running_loop().call_later(self._seconds, self._transport.write, self._response)
            else:
                self._transport.write(self._response)


async def _serve(port: int, folder: Path, seconds: float = 0, status: str = "201 Created", *limit: str) -> None:
    bucket = Bucket(*map(float, limit)) if limit else None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "server.pem")
    server = await asyncio.get_running_loop().create_server(
        lambda: Sink(seconds, status, bucket), "127.0.0.1", port, ssl=context, backlog=1024
    )
    await server.serve_forever()


if __name__ == "__main__":
    # The options are the seconds, the status, and the two arguments of Bucket.
    port_, folder_, *options = sys.argv[1:]
    uvloop.run(_serve(int(port_), Path(folder_), float(options[0]) if options else 0, *options[1:]))
