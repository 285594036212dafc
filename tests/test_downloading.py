"""Downloads from a real server on this machine, which answers as badly as servers can."""

import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from convzoo.prediction.downloading import DownloadError, DownloadLimits, _is_public, download

SMALL = DownloadLimits(max_bytes=1000, seconds=1.0, max_redirects=2, private_hosts=True)


class Handler(BaseHTTPRequestHandler):
    """Answers by path."""

    def do_GET(self):
        name, _, value = self.path[1:].partition("/")
        self.server.asked.append(self.path)
        if name == "redirect":
            self.send_response(302)
            self.send_header("Location", value or self.path)
            self.end_headers()
        elif name == "bytes":
            self.send_response(200)
            self.send_header("Content-Length", value)
            self.end_headers()
            self.wfile.write(b"x" * int(value))
        elif name == "unannounced":
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"x" * int(value))
        elif name == "cut":
            self.send_response(200)
            self.send_header("Content-Length", "900")
            self.end_headers()
            self.wfile.write(b"x" * 10)
        elif name == "drip":  # a byte now and then, of the header or of the content
            self.wfile.write(b"HTTP/1.0 200 OK\r\n" + (b"\r\n" if value == "content" else b"X: "))
            for _ in range(30):
                time.sleep(0.1)
                self.wfile.write(b"x")
        else:
            self.send_error(404)

    def log_message(self, *_):
        pass


class Server(ThreadingHTTPServer):
    def handle_error(self, *_):
        """Clients that hang up are what is tested."""


@pytest.fixture(scope="module")
def server():
    with Server(("127.0.0.1", 0), Handler) as server:
        server.asked = []
        server.url = f"http://127.0.0.1:{server.server_port}"
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def test_a_file_is_downloaded_through_redirects(server):
    assert download(f"{server.url}/bytes/1000", SMALL) == b"x" * 1000
    assert download(f"{server.url}/unannounced/10", SMALL) == b"x" * 10
    assert download(f"{server.url}/redirect//redirect//bytes/3", SMALL) == b"xxx"
    server.asked.clear()
    with pytest.raises(DownloadError, match="404"):
        download(f"{server.url}/\u00fc b/50%25?q=a b&c=%20#part", SMALL)
    assert server.asked == ["/%C3%BC%20b/50%25?q=a%20b&c=%20"]


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("/bytes/1001", "is larger than 0.000953674 MB"),
        ("/unannounced/100000", "is larger than"),
        ("/missing", "the server answers 404 Not Found"),
        ("/cut", "was cut off after 10 bytes"),
        ("/redirect/", "leads through more than 2 redirects"),
        ("/redirect/file:///etc/passwd", "must be http or https; leads to file:///etc/passwd"),
        ("/drip/header", "took longer than 1 s"),
        ("/drip/content", "took longer than 1 s"),
    ],
)
def test_what_breaks_a_limit_is_no_file(server, path, message):
    before = time.monotonic()
    with pytest.raises(DownloadError, match=message):
        download(server.url + path, SMALL)
    assert time.monotonic() - before < 2.5


def test_private_hosts_are_refused_by_address_by_name_and_after_a_redirect(server):
    limits = DownloadLimits(seconds=2.0)
    server.asked.clear()
    for host in (server.url, f"http://localhost:{server.server_port}", "http://[::1]:1"):
        with pytest.raises(DownloadError, match=r"must lead to a public host; .* is (127|::1)"):
            download(f"{host}/bytes/5", limits)
    assert server.asked == []


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("8.8.8.8", True),
        ("2606:4700::1111", True),
        ("10.1.2.3", False),
        ("169.254.169.254", False),  # where clouds keep credentials
        ("100.64.0.1", False),
        ("224.0.0.1", False),
        ("0.0.0.0", False),
        ("::ffff:127.0.0.1", False),
        ("fe80::1%eth0", False),
        ("fd00::1", False),
    ],
)
def test_which_addresses_are_public(address, public):
    assert _is_public(address) is public


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("http://user:secret@127.0.0.1/x", "must not have a user name"),
        ("http:///x.png", "must be http or https"),
        ("http://127.0.0.1:99999/x", "could not be downloaded: "),
        ("http://127.0.0.1:1/x", "could not be downloaded: Connection refused"),
        ("http://" + "a" * 70 + ".org/", "could not be downloaded: "),
    ],
)
def test_addresses_that_lead_nowhere(url, message):
    with pytest.raises(DownloadError, match=message):
        download(url, SMALL)
