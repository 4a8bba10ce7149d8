"""A DDS domain that nobody else on this machine uses; imports no ROS.

What a demo or a test sends must reach its own processes only: it stays on this machine, in a
domain of its own. The settings are environment variables that must be set before rclpy starts.
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

from seg_node.core.types import SegNodeError
from seg_node.ros.transport import local_environment

if TYPE_CHECKING:
    from collections.abc import Mapping

DOMAINS = 100
"""Domains 1 to 100 are tried: their ports lie below those that Linux hands out by itself."""

_FIRST_PORT, _PORTS_PER_DOMAIN = 7400, 250
_OFFSETS = (0, 10)
"""Discovery ports within a domain: multicast, and the first participant's with LOCALHOST."""


def domain_is_free(domain: int) -> bool:
    """Return whether nobody on this machine listens on the discovery ports of a DDS domain."""
    for offset in _OFFSETS:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            try:
                probe.bind(("", _FIRST_PORT + _PORTS_PER_DOMAIN * domain + offset))
            except OSError:
                return False
    return True


def choose_domain(start: int) -> int:
    """Return the first free domain (1..100) from `start` on, wrapping around.

    Raises:
        SegNodeError: all of them are in use.

    """
    for offset in range(DOMAINS):
        domain = 1 + (start + offset) % DOMAINS
        if domain_is_free(domain):
            return domain
    msg = f"all {DOMAINS} DDS domains are in use on this machine; end some ROS processes"
    raise SegNodeError(msg)


def private_environment(environ: Mapping[str, str], start: int) -> dict[str, str]:
    """Return the variables to add so that ROS stays private and large images arrive.

    A domain that is set already is kept: whoever set it wants to look on.

    Args:
        environ: the environment of the process to be, such as `os.environ`.
        start: where the search for a free domain begins; the process id spreads well.

    """
    domain = environ.get("ROS_DOMAIN_ID") or str(choose_domain(start))
    return {**local_environment(environ), "ROS_DOMAIN_ID": domain}
