"""Private memory of this process, with and without a Host on a channel."""


def private():
    """Bytes that only this process has (Private_Clean and Private_Dirty of all mappings)."""
    with open("/proc/self/smaps_rollup") as f:
        return 1024 * sum(int(line.split()[1]) for line in f if line.startswith("Private_"))


def bare():
    """What the interpreter itself needs."""
    return private()


def with_host():
    """The same after a Host was made on one side of a channel."""
    from netstack.host import Host
    from netstack.link.channel import channel_pair

    one, two = channel_pair()
    host = Host(link=one, address="10.0.0.1/24")
    used = private()
    host.close()
    two.close()
    return used
