"""Which connections stay where there is no room for all."""

import logging

import pytest

from core.listening.connections import Connections, backlog, most_connections, network_of


class CountedConnection:
    """A connection that remembers whether it was abandoned."""

    def __init__(self, address: str | None = "192.0.2.1") -> None:
        self.address = address
        self.is_open = True

    def abandon(self) -> None:
        self.is_open = False


def opened(connections: Connections, count: int, address: str | None = "192.0.2.1") -> list[CountedConnection]:
    made = [CountedConnection(address) for _ in range(count)]
    assert all(connections.admit(connection) for connection in made)
    return made


def test_the_one_that_waits_longest_makes_room() -> None:
    connections = Connections(3)
    busy, first, second = opened(connections, 3)
    connections.wait(first)
    connections.wait(second)
    connections.wait(first)  # it has answered since, and waits anew
    (third,) = opened(connections, 1)
    assert [connection.is_open for connection in (busy, first, second, third)] == [True, True, False, True]


def test_nobody_at_work_makes_room() -> None:
    connections = Connections(2)
    one, other = opened(connections, 2)
    connections.wait(one)
    connections.work(one)
    assert not connections.admit(CountedConnection())
    assert one.is_open
    assert other.is_open
    connections.leave(other)
    connections.leave(other)
    opened(connections, 1)
    assert not connections.admit(CountedConnection())


def test_an_address_that_has_its_share_gives_up_its_own_and_no_others() -> None:
    connections = Connections(10, most_per_address=2)
    (theirs,) = opened(connections, 1, "192.0.2.2")
    connections.wait(theirs)
    mine = opened(connections, 2)
    assert not connections.admit(CountedConnection())
    connections.wait(mine[1])
    opened(connections, 1)
    assert (theirs.is_open, mine[0].is_open, mine[1].is_open) == (True, True, False)
    opened(connections, 5, None)  # a Unix socket's have no address, so no limit but that of all


def test_one_that_leaves_twice_gives_its_address_one_place_back() -> None:
    connections = Connections(10, most_per_address=2)
    leaving, _ = opened(connections, 2)
    connections.leave(leaving)
    connections.leave(leaving)
    opened(connections, 1)
    assert not connections.admit(CountedConnection())


def test_of_ipv6_the_network_counts() -> None:
    assert network_of("192.0.2.1") == "192.0.2.1"
    assert network_of("2001:db8::1") == network_of("2001:db8::ffff:0:0:1") != network_of("2001:db8:0:1::1")


@pytest.mark.parametrize("descriptors", [128, 256, 1024, 2**15])
def test_there_is_a_descriptor_for_each_connection_and_what_it_opens(descriptors: int) -> None:
    most, waiting = most_connections(descriptors), backlog(descriptors)
    assert 2 * most + 2 * waiting + 64 <= descriptors
    assert most >= 8


def test_what_befalls_connections_is_logged_once_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    connections = Connections(1)
    opened(connections, 1)
    for _ in range(1000):
        connections.admit(CountedConnection())
    assert len(caplog.records) == 1
