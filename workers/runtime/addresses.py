"""Which addresses a task may connect to: public ones, and private ones that its tenant is allowed. Pure.

A definition names hosts, and a worker stands inside a network: without this, `http` tasks would be a way to the
worker's own services, to the cloud's metadata and to whatever else trusts its neighbours (SSRF).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

#: The first that contains an address says what it is. After the special-purpose registries of IANA:
#: https://www.iana.org/assignments/iana-ipv4-special-registry and …/iana-ipv6-special-registry
_IPV4 = (
    ("0.0.0.0/32", "unspecified"),
    ("0.0.0.0/8", "reserved"),
    ("10.0.0.0/8", "private"),
    ("100.64.0.0/10", "carrier-grade NAT"),
    ("127.0.0.0/8", "loopback"),
    ("169.254.0.0/16", "link-local"),
    ("172.16.0.0/12", "private"),
    ("192.0.0.0/24", "reserved"),
    ("192.0.2.0/24", "documentation"),
    ("192.88.99.0/24", "reserved"),
    ("192.168.0.0/16", "private"),
    ("198.18.0.0/15", "benchmarking"),
    ("198.51.100.0/24", "documentation"),
    ("203.0.113.0/24", "documentation"),
    ("224.0.0.0/4", "multicast"),
    ("255.255.255.255/32", "broadcast"),
    ("240.0.0.0/4", "reserved"),
    # Public by number only: the host of every virtual machine on Azure, with its metadata.
    # https://learn.microsoft.com/azure/virtual-network/what-is-ip-address-168-63-129-16
    ("168.63.129.16/32", "cloud platform"),
)
_IPV6 = (
    ("::/128", "unspecified"),
    ("::1/128", "loopback"),
    ("64:ff9b:1::/48", "private"),
    ("fc00::/7", "private"),
    ("fe80::/10", "link-local"),
    ("fec0::/10", "site-local"),
    ("ff00::/8", "multicast"),
    ("2001:db8::/32", "documentation"),
    ("3fff::/20", "documentation"),
    ("2001::/23", "reserved"),
)
_SPECIAL: tuple[tuple[Network, str], ...] = tuple((ip_network(text), what) for text, what in (*_IPV4, *_IPV6))
#: All of IPv6 that is routed publicly; the rest is special or not assigned.
_GLOBAL_UNICAST = IPv6Network("2000::/3")

_NAT64 = IPv6Network("64:ff9b::/96")
_NAT64_LOCAL = IPv6Network("64:ff9b:1::/48")
_COMPATIBLE = IPv6Network("::/96")
#: The interface part of ISATAP addresses, which ends in an IPv4 address (RFC 5214).
_ISATAP = (0x00005EFE, 0x02005EFE)


def allowed_of(networks: Iterable[str]) -> tuple[Network, ...]:
    """Return a tenant's networks; one that cannot be read allows nothing."""
    found: list[Network] = []
    for text in networks:
        try:
            found.append(ip_network(text))
        except ValueError:
            continue
    return tuple(found)


def refusal(address: str, allowed: Iterable[Network] = ()) -> str | None:
    """Return what makes an address one not to connect to, such as `loopback`, or None if it is fine.

    `address` is numeric, as a resolver returns it; a zone (`fe80::1%eth0`) is left out of account.
    """
    try:
        found = ip_address(address.partition("%")[0])
    except ValueError:
        return "unreadable"
    return _refusal(found, tuple(allowed))


def _refusal(address: Address, allowed: tuple[Network, ...]) -> str | None:
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        # Not a neighbour of the IPv4 address but that very one, in IPv6 spelling.
        what = _refusal(address.ipv4_mapped, allowed)
        return what and f"{what} ({address.ipv4_mapped})"
    if any(address.version == network.version and address in network for network in allowed):
        return None
    inner: list[IPv4Address] = []
    if isinstance(address, IPv6Address):
        inner = list(_translated(address))
        for target in inner:
            what = _refusal(target, allowed)
            if what is not None:
                return f"{what} ({target})"
    for network, what in _SPECIAL:
        if address.version == network.version and address in network:
            return what
    if isinstance(address, IPv6Address) and address not in _GLOBAL_UNICAST and address not in _NAT64:
        return "reserved"
    return None


def _translated(address: IPv6Address) -> Iterator[IPv4Address]:
    """Yield the IPv4 addresses that a translator or tunnel would send to."""
    low = IPv4Address(int(address) & 0xFFFFFFFF)
    compatible = address in _COMPATIBLE and int(address) > 0xFFFF
    if compatible or address in _NAT64 or address in _NAT64_LOCAL:
        yield low
    if address.sixtofour is not None:
        yield address.sixtofour
    if address.teredo is not None:
        yield from address.teredo
    if int(address) >> 32 & 0xFFFFFFFF in _ISATAP:
        yield low
