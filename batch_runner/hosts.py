"""Where an endpoint is: its base URL in one spelling, and whether its host is this machine."""

import ipaddress
from urllib.parse import urlsplit


def base_url(text: str) -> str:
    """The URL up to and without `/responses`; a bare host gets `/v1`.

    Raises ValueError with a message that goes on after "base_url ..." and does not repeat it.
    """
    try:
        url = urlsplit(text.strip())
        port_is_read = url.port is None or url.port > 0
    except ValueError:
        port_is_read = False
    if "://" not in text:
        raise ValueError("must begin with http:// or https://, as https://host/v1 does")
    if not port_is_read or url.scheme not in ("http", "https") or not url.hostname:
        raise ValueError("must look like https://host/v1")
    if any(character.isspace() for character in url.netloc + url.path):
        raise ValueError("must not hold white space")
    if url.username or url.password or url.query or url.fragment:
        raise ValueError("must not carry a user, password, query or fragment")
    path = url.path.rstrip("/").removesuffix("/responses")
    return f"{url.scheme}://{url.netloc}{path or '/v1'}"


def is_loopback(host: str) -> bool:
    """True for a host that cannot be another machine: no name is looked up."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def host_and_port(url: str) -> tuple[str, int]:
    """Of a base URL: what tells one endpoint from another."""
    parts = urlsplit(url)
    return parts.hostname or "", parts.port or (80 if parts.scheme == "http" else 443)


def is_loopback_url(url: str) -> bool:
    return is_loopback(urlsplit(url).hostname or "")
