"""Which proxy stands between this machine and a server, by the environment.

HTTP_PROXY, HTTPS_PROXY and ALL_PROXY are set for all programs of a machine, and so are the system's
settings on macOS and Windows. They are followed as other programs do, with NO_PROXY, except that
a server on this machine is never asked through a proxy.
"""

import importlib.util
import ipaddress
import os
import socket
import urllib.request
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from vniah.errors import InputError, MissingDependencyError, quoted

_SCHEMES = ("http", "https", "socks5", "socks5h")


@dataclass(frozen=True)
class Proxy:
    """A proxy that requests go through.

    Attributes:
        url: with its user and password, which are not shown.
        shown: the address without them, and where it is set.
    """

    url: str = field(repr=False)
    shown: str


def find_proxy(base_url: str) -> Proxy | None:
    """The proxy through which a server is asked; None if it is asked directly.

    Raises:
        InputError: the environment names something that cannot be a proxy.
        MissingDependencyError: a SOCKS proxy needs the package socksio.
    """
    server = urlsplit(base_url)
    host = server.hostname or ""
    proxies = urllib.request.getproxies()
    kind = next((kind for kind in (server.scheme, "all") if proxies.get(kind)), None)
    if kind is None or is_this_machine(host) or _is_exempt(host, server.port, proxies):
        return None
    return _read_proxy(proxies[kind], _place(kind), host)


def is_this_machine(host: str) -> bool:
    """True for localhost and the loopback addresses, however the numbers are written."""
    if host.lower().rstrip(".").split(".")[-1] == "localhost":
        return True
    address = _numeric_address(host)
    return address is not None and (address.is_loopback or address.is_unspecified)


def _numeric_address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """The address that a host is; None for a name, which is not looked up."""
    try:
        found = socket.getaddrinfo(host, None, flags=socket.AI_NUMERICHOST)
        address = ipaddress.ip_address(str(found[0][4][0]).partition("%")[0])
    except (OSError, ValueError):  # ValueError: no text that could name a host
        return None
    return getattr(address, "ipv4_mapped", None) or address


def _is_exempt(host: str, port: int | None, proxies: dict[str, str]) -> bool:
    """True if NO_PROXY names the host: by name, by ending, or by a range of addresses."""
    if urllib.request.proxy_bypass(host if port is None else f"{host}:{port}"):
        return True
    address = _numeric_address(host)
    for entry in proxies.get("no", "").split(","):
        try:
            if address is not None and address in ipaddress.ip_network(entry.strip(), strict=False):
                return True
        except ValueError:  # a name
            continue
    return False


def _place(kind: str) -> str:
    """The name of the variable that sets the proxy."""
    names = (f"{kind}_proxy", f"{kind}_proxy".upper())
    return next((name for name in names if os.environ.get(name)), "the system's settings")


def _read_proxy(text: str, place: str, host: str) -> Proxy:
    text = text.strip()
    text = text if "://" in text else f"http://{text}"
    try:
        parts = urlsplit(text)
        name, port = parts.hostname, parts.port
    except ValueError:
        name, port = None, None
    is_address = name is not None and name.isprintable() and " " not in name
    if name is None or not is_address or parts.scheme not in _SCHEMES:
        scheme = text.partition("://")[0]
        given = f" it begins with {quoted(scheme, 20)}" if scheme not in _SCHEMES else ""
        raise InputError(
            f"the proxy that {place} sets cannot be used:{given or ' it is no address'}; write "
            f"http://HOST:PORT or socks5://HOST:PORT, or add {host} to NO_PROXY"
        )
    shown_name = f"[{name}]" if ":" in name else name
    shown = f"{parts.scheme}://{shown_name}" + (f":{port}" if port is not None else "")
    if parts.scheme.startswith("socks") and importlib.util.find_spec("socksio") is None:
        raise MissingDependencyError(
            "socksio", extra="server", purpose=f"the proxy {shown} that {place} sets"
        )
    return Proxy(text, f"{shown}, set by {place}")
