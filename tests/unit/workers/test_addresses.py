from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.runtime.addresses import allowed_of, refusal


@pytest.mark.parametrize(
    ("address", "what"),
    [
        ("0.0.0.0", "unspecified"),
        ("0.1.2.3", "reserved"),
        ("10.255.0.1", "private"),
        ("100.64.0.1", "carrier-grade NAT"),
        ("100.100.100.200", "carrier-grade NAT"),
        ("127.0.0.1", "loopback"),
        ("127.255.255.254", "loopback"),
        ("168.63.129.16", "cloud platform"),
        ("169.254.169.254", "link-local"),
        ("172.16.0.1", "private"),
        ("172.31.255.255", "private"),
        ("192.0.0.192", "reserved"),
        ("192.168.1.1", "private"),
        ("198.18.0.1", "benchmarking"),
        ("203.0.113.9", "documentation"),
        ("224.0.0.1", "multicast"),
        ("239.255.255.250", "multicast"),
        ("240.0.0.1", "reserved"),
        ("255.255.255.255", "broadcast"),
        ("::", "unspecified"),
        ("::1", "loopback"),
        ("fe80::1", "link-local"),
        ("fe80::1%eth0", "link-local"),
        ("fec0::1", "site-local"),
        ("fc00::1", "private"),
        ("fd00:ec2::254", "private"),
        ("ff02::1", "multicast"),
        ("2001:db8::1", "documentation"),
        ("3fff::1", "documentation"),
        ("100::1", "reserved"),
        ("5f00::1", "reserved"),
        ("::ffff:127.0.0.1", "loopback (127.0.0.1)"),
        ("::ffff:a9fe:a9fe", "link-local (169.254.169.254)"),
        ("::ffff:10.0.0.1", "private (10.0.0.1)"),
        ("::127.0.0.1", "loopback (127.0.0.1)"),
        ("::8.8.8.8", "reserved"),
        ("64:ff9b::10.0.0.1", "private (10.0.0.1)"),
        ("64:ff9b:1::8.8.8.8", "private"),
        ("2002:7f00:1::", "loopback (127.0.0.1)"),
        ("2002:a9fe:a9fe::1", "link-local (169.254.169.254)"),
        ("2001:0:808:808::80ff:fffe", "loopback (127.0.0.1)"),
        ("2001:0:808:808::f7f7:f7f7", "reserved"),
        ("2600::5efe:10.0.0.1", "private (10.0.0.1)"),
        ("not an address", "unreadable"),
    ],
)
def test_what_is_not_public_is_refused_under_its_name(address: str, what: str) -> None:
    assert refusal(address) == what


@pytest.mark.parametrize(
    "address",
    ["8.8.8.8", "1.1.1.1", "172.32.0.1", "100.128.0.1", "169.253.1.1", "2600::1", "2a00:1450:4001::200e",
     "::ffff:8.8.8.8", "64:ff9b::8.8.8.8", "2002:808:808::1"],
)  # fmt: skip
def test_what_is_public_is_fine(address: str) -> None:
    assert refusal(address) is None


@given(st.integers(0, 2**32 - 1))
def test_whatever_the_standard_library_calls_not_global_is_refused(number: int) -> None:
    address = IPv4Address(number)

    if not address.is_global or address.is_multicast:
        assert refusal(str(address)) is not None


@given(st.integers(0, 2**128 - 1) | st.integers(0, 2**32 - 1).map(lambda low: 0xFFFF << 32 | low))
def test_whatever_the_standard_library_calls_not_global_is_refused_in_ipv6(number: int) -> None:
    address = IPv6Address(number)
    mapped = address.ipv4_mapped

    if (mapped or address).is_multicast or not (mapped or address).is_global:
        assert refusal(str(address)) is not None


@given(st.sampled_from(["10.1.2.3", "127.0.0.1", "169.254.169.254", "100.64.9.9", "192.168.0.1"]))
def test_no_spelling_in_ipv6_hides_a_private_address(text: str) -> None:
    number = int(ip_address(text))
    spellings = [
        0xFFFF << 32 | number,
        number,
        0x64FF9B << 96 | number,
        0x2002 << 112 | number << 80 | 1,
        0x20010000 << 96 | number << 64,
        0x20010000 << 96 | 0x08080808 << 64 | (number ^ 0xFFFFFFFF),
        0x2600 << 112 | 0x5EFE << 32 | number,
        0x2600 << 112 | 0x2005EFE << 32 | number,
    ]

    for spelling in spellings:
        assert refusal(str(IPv6Address(spelling))) is not None, IPv6Address(spelling)


def test_a_tenant_may_be_allowed_what_is_private_and_no_more() -> None:
    allowed = allowed_of(["10.1.0.0/16", "fd12::/32", "not a network", "10.9.0.1/8"])

    assert refusal("10.1.255.255", allowed) is None
    assert refusal("fd12::7", allowed) is None
    assert refusal("10.2.0.1", allowed) == "private"
    assert refusal("fd13::7", allowed) == "private"


def test_the_mapped_spelling_of_an_allowed_address_is_that_address() -> None:
    allowed = (ip_network("127.0.0.0/8"),)

    assert refusal("::ffff:127.0.0.1", allowed) is None
    assert refusal("::1", allowed) == "loopback"


def test_a_tunnel_to_an_allowed_address_is_not_that_address() -> None:
    allowed = (ip_network("10.0.0.0/8"),)

    assert refusal("::10.0.0.1", allowed) == "reserved"
    assert refusal("64:ff9b:1::10.0.0.1", allowed) == "private"
