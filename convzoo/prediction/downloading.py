"""Download one image from the network, within limits.

A list of URLs may come from anybody, and a server may answer anything: so the size, the time and
the number of redirects are limited, and addresses of the own network are refused, also where a
name or a redirect leads there. The address that was checked is the one that is connected to.
Proxies are not used, and no cookies or passwords are sent.
"""

import http.client
import ipaddress
import socket
import ssl
import threading
import time
from dataclasses import dataclass
from urllib.parse import SplitResult, quote, urljoin, urlsplit

import convzoo

CHUNK = 1 << 16  # bytes


@dataclass(frozen=True, kw_only=True)
class DownloadLimits:
    """What a download may cost, and where it may lead.

    Attributes:
        max_bytes: of a file.
        seconds: for all of a download, redirects included.
        max_redirects: that are followed.
        private_hosts: whether addresses are allowed that are not of the public internet.
    """

    max_bytes: int = 20 * 2**20
    seconds: float = 20.0
    max_redirects: int = 5
    private_hosts: bool = False


class DownloadError(OSError):
    """Says why a URL gave no file."""


def download(url: str, limits: DownloadLimits) -> bytes:
    """Get the content of a URL.

    Args:
        url: of http or https.
        limits: that it keeps to.

    Raises:
        DownloadError: if it breaks a limit, or the server does not give the file.
    """
    deadline = time.monotonic() + limits.seconds
    for _ in range(limits.max_redirects + 1):
        try:
            content, location = _ask(url, limits, deadline=deadline)
        except (OSError, http.client.HTTPException, ValueError) as error:
            if isinstance(error, TimeoutError) or time.monotonic() >= deadline:
                raise DownloadError(f"took longer than {limits.seconds:g} s") from error
            if isinstance(error, DownloadError):
                raise
            reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise DownloadError(f"could not be downloaded: {reason}") from error
        if not location:
            return content
        url = urljoin(url, location)
    raise DownloadError(f"leads through more than {limits.max_redirects} redirects")


def _ask(url: str, limits: DownloadLimits, *, deadline: float) -> tuple[bytes, str]:
    """Make one request; returns the content, or where it leads."""
    parts = urlsplit(url)
    if parts.scheme.lower() not in ("http", "https") or not parts.hostname:
        raise DownloadError(f"must be http or https; leads to {url}")
    if parts.username is not None:
        raise DownloadError("must not have a user name in it; none is sent")
    connection = _connect(parts, limits, deadline=deadline)
    # A server that sends a byte now and then keeps each single timeout.
    timer = threading.Timer(_time_left(deadline), connection.sock.shutdown, [socket.SHUT_RDWR])
    timer.daemon = True
    timer.start()
    try:
        path = quote(parts.path or "/", safe="/%:=&~+!$,;'@()*[]")
        query = f"?{quote(parts.query, safe='/%:=&?~+!$,;@()*[]')}" if parts.query else ""
        headers = {
            "User-Agent": f"convzoo/{convzoo.__version__}",
            "Accept": "image/*",
            "Accept-Encoding": "identity",
        }
        connection.request("GET", path + query, headers=headers)
        with connection.getresponse() as response:
            if response.status in (301, 302, 303, 307, 308) and response.headers["Location"]:
                return b"", response.headers["Location"]
            if response.status != 200:
                raise DownloadError(f"the server answers {response.status} {response.reason}")
            return _read(response, limits, deadline=deadline), ""
    finally:
        timer.cancel()
        connection.close()


def _connect(
    parts: SplitResult, limits: DownloadLimits, *, deadline: float
) -> http.client.HTTPConnection:
    """Connect to a host at an address that was checked."""
    host, secure = parts.hostname or "", parts.scheme.lower() == "https"
    port = parts.port or (443 if secure else 80)
    name = host if ":" in host else host.encode("idna").decode()
    left = _time_left(deadline)
    connection = http.client.HTTPConnection(name, port, timeout=left)
    address = _checked_address(name, port, limits)
    connection.sock = socket.create_connection((address, port), timeout=left)
    if secure:
        context = ssl.create_default_context()
        try:
            connection.sock = context.wrap_socket(connection.sock, server_hostname=name)
        except OSError:
            connection.close()
            raise
    return connection


def _checked_address(host: str, port: int, limits: DownloadLimits) -> str:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    addresses = [str(each[4][0]) for each in found]
    private = [each for each in addresses if not _is_public(each)]
    if private and not limits.private_hosts:
        raise DownloadError(
            f"must lead to a public host; {host} is {private[0]}. --allow-private-hosts reads from "
            f"such, too"
        )
    return addresses[0]


def _is_public(address: str) -> bool:
    parsed = ipaddress.ip_address(address.partition("%")[0])
    inner = getattr(parsed, "ipv4_mapped", None) or parsed
    return inner.is_global and not inner.is_multicast


def _read(response: http.client.HTTPResponse, limits: DownloadLimits, *, deadline: float) -> bytes:
    too_large = DownloadError(f"is larger than {limits.max_bytes / 2**20:g} MB")
    if response.length is not None and response.length > limits.max_bytes:
        raise too_large
    content = bytearray()
    while chunk := response.read1(CHUNK):
        content += chunk
        if len(content) > limits.max_bytes:
            raise too_large
    _time_left(deadline)  # else the end is that of the connection
    if response.length:  # what is left of the announced length
        raise DownloadError(f"was cut off after {len(content)} bytes")
    return bytes(content)


def _time_left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left
