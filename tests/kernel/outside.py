"""What nmap, hping3 and thc-ipv6 say about a target on the other end of an Ethernet: a host of ours, or a kernel.

``python -m tests.kernel.outside`` prints both targets' verdicts side by side (root).
"""

from __future__ import annotations

import contextlib
import re
import socket
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor

from tests.support import network_namespace

DEVICE = "eth0"
TOOLS, TARGET, SECOND, SPOOFED = "10.9.0.1", "10.9.0.2", "10.9.0.3", "10.9.0.99"
TOOLS6, TARGET6 = "fd09::1", "fd09::2"
WEB, ECHO, CLOSED = 80, 7, 81
LANES = 16                       # copies of implementation6 at a time, each with an address of its own
IMPLEMENTATION, FRAGMENTATION = range(1, 58), range(1, 34)     # their numbers of cases
FLOODS = (4, 16, 24)             # cases of fragmentation6 repeated without pauses, and for how many seconds each
FLOOD_S = 0.1
HPING_S = 0.2                    # how long an answer is waited for

TCP = ["-p", str(WEB)]
HPING = {                        # odd packets by name: arguments of hping3
    "no flags": TCP, "SYN,FIN": [*TCP, "-S", "-F"], "SYN,RST": [*TCP, "-S", "-R"], "FIN": [*TCP, "-F"],
    "FIN,PSH,URG": [*TCP, "-F", "-P", "-U"], "all flags": [*TCP, *"-F -S -R -P -A -U -X -Y".split()],
    "ACK": [*TCP, "-A"], "SYN with data": [*TCP, "-S", "-d", "800"], "SYN, no window": [*TCP, "-S", "-w", "0"],
    "SYN to port 0": ["-S", "-p", "0"], "SYN to a closed port": ["-S", "-p", str(CLOSED)],
    "data offset 1": [*TCP, "-S", "-O", "1"], "data offset 15": [*TCP, "-S", "-O", "15"], "bad sum": [*TCP, "-S", "-b"],
    "SYN in tiny fragments": [*TCP, "-S", "-f", "-d", "64"], "more fragments": [*TCP, "-S", "-x"],
    "last fragment alone": [*TCP, "-S", "-g", "8"],
    "fragment beyond the end": [*TCP, "-S", "-x", "-g", "8190", "-d", "1000"],
    "record route": ["--icmp", "-G"], "loose source route": ["--icmp", "--lsrr", TARGET],
    "strict source route": ["--icmp", "--ssrr", TARGET], "from ourselves": [*TCP, "-S", "-a", TARGET],
    "from loopback": [*TCP, "-S", "-a", "127.0.0.1"], "from a group": [*TCP, "-S", "-a", "224.0.0.1"],
    "from everybody": [*TCP, "-S", "-a", "255.255.255.255"],
    "echo between our ports": ["-2", "-s", str(ECHO), "-k", "-p", str(ECHO), "-a", TARGET],
    "datagram to port 0": ["-2", "-p", "0"], "empty datagram": ["-2", "-p", str(ECHO)],
    "datagram to a closed port": ["-2", "-p", str(CLOSED)],
    "large datagram in pieces": ["-2", "-p", str(ECHO), "-d", "9000", "-f"], "echo request": ["--icmp"],
    "large echo in pieces": ["--icmp", "-d", "9000", "-f"], "echo, odd code": ["--icmp", "-K", "77"],
    "timestamp request": ["--icmp", "-C", "13"], "mask request": ["--icmp", "-C", "17"],
    "redirect": ["--icmp", "-C", "5", "-K", "1", "--icmp-gw", SPOOFED], "source quench": ["--icmp", "-C", "4"],
    "unreachable": ["--icmp", "-C", "3", "-K", "3"], "unknown type": ["--icmp", "-C", "77", "--force-icmp"],
    "protocol 0": ["-0", "-H", "0", "-d", "40"], "protocol 255": ["-0", "-H", "255", "-d", "40"],
    "IPv6 in IPv4": ["-0", "-H", "41", "-d", "60"], "TTL 1": [*TCP, "-S", "-t", "1"],
}


class Range:
    """The tools' namespace, and programs that serve on the target."""

    def __init__(self, tools, host, listener, datagrams):
        self.tools = tools
        self.host = host                                 # None: the target is a kernel
        self._listener, self._datagrams = listener, datagrams
        for serve in (self._serve_web, self._serve_echo):
            threading.Thread(target=serve, daemon=True).start()
        for lane in range(LANES):
            tools.run("ip", "addr", "add", f"{TOOLS6}:{lane + 16:x}/64", "dev", DEVICE, "nodad")
        tools.run("ip", "addr", "add", f"{SPOOFED}/24", "dev", DEVICE)

    def _serve_web(self):
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    @staticmethod
    def _answer(connection):
        with connection, contextlib.suppress(OSError):
            connection.settimeout(20)
            connection.recv(10_000)
            connection.sendall(b"HTTP/1.0 200 OK\r\nServer: outside\r\nContent-Length: 2\r\n\r\nok")

    def _serve_echo(self):
        while True:
            try:
                data, address = self._datagrams.recvfrom(65535)
                if data and address[1]:
                    self._datagrams.sendto(data, address)
            except BlockingIOError:
                continue
            except OSError:
                if self._datagrams.fileno() < 0:
                    return

    def run(self, *argv, timeout: float = 120):
        """A tool's output, both streams."""
        done = subprocess.run([*self.tools.prefix, *map(str, argv)], capture_output=True, text=True, timeout=timeout,
                              errors="replace", stdin=subprocess.DEVNULL)
        return done.stdout + done.stderr

    # --- the tools

    def nmap(self):
        """``(-O -sV, -sU)``: both at once, on two addresses, since each mostly waits."""
        with ThreadPoolExecutor(2) as pool:
            os = pool.submit(self.run, "nmap", "-n", "-Pn", "-O", "-sV", "--max-os-tries", "1",
                             "-p", f"{WEB},{CLOSED}", "-v", TARGET)
            udp = pool.submit(self.run, "nmap", "-n", "-Pn", "-sU", "--top-ports", "20", "-S", SPOOFED, "-e", DEVICE,
                              SECOND)
            return os.result(), udp.result()

    def odd_packet(self, name, wait_s: float = HPING_S):
        """The answer to one of `HPING`."""
        said = self.run("timeout", "-s", "INT", wait_s, "hping3", "-n", "-c", "1", *HPING[name], TARGET)
        received = int(m[1]) if (m := re.search(r"(\d+) packets received", said)) else 0
        if m := re.search(r"flags=(\w*)", said):
            return f"TCP {m[1]}"
        if m := re.search(r"ICMP (.*?) from", said):
            return f"ICMP {m[1]}"
        return "answer" if received else "-"

    def hping(self):
        """The answer to each odd packet: ``{name: text}``."""
        return {name: self.odd_packet(name) for name in HPING}         # not at once: each hears the others' answers

    def implementation_case(self, number, lane=0):
        said = self.run("atk6-implementation6", "-p", "-s", f"{TOOLS6}:{lane + 16:x}", DEVICE, TARGET6, number)
        m = re.search(r"Test +\d+: (.*?)\t+(PASSED|FAILED) - (.*)", said)
        assert m, said
        return m[1], m[3].removeprefix("we got a ")

    def implementation(self):
        """What implementation6 heard to each of its cases: ``{number: (name, text)}``."""
        def lane(k):
            return {n: self.implementation_case(n, k) for n in IMPLEMENTATION if n % LANES == k}

        with ThreadPoolExecutor(LANES) as pool:
            found = {n: said for part in pool.map(lane, range(LANES)) for n, said in part.items()}
        return dict(sorted(found.items()))

    def fragmentation(self):
        """All cases of fragmentation6 at once, then some without pauses: a flood."""
        with ThreadPoolExecutor(len(FRAGMENTATION)) as pool:
            said = list(pool.map(lambda n: self.run("atk6-fragmentation6", "-p", DEVICE, TARGET6, n), FRAGMENTATION))
        for case in FLOODS:
            self.run("timeout", FLOOD_S, "atk6-fragmentation6", "-f", "-p", DEVICE, TARGET6, case)
        return said

    def answers(self):
        """Whether the target still serves, both versions and protocols."""
        for family, address in ((socket.AF_INET, TARGET), (socket.AF_INET6, TARGET6)):
            with self.tools.enter():
                web = socket.socket(family, socket.SOCK_STREAM)
                echo = socket.socket(family, socket.SOCK_DGRAM)
            with web, echo:
                for s in (web, echo):
                    s.settimeout(20)
                web.connect((address, WEB))
                web.sendall(b"GET / HTTP/1.0\r\n\r\n")
                echo.sendto(b"still there?", (address, ECHO))
                if web.recv(100)[:15] != b"HTTP/1.0 200 OK" or echo.recv(100) != b"still there?":
                    return False
        return True


@contextlib.contextmanager
def our_target(wrap=lambda link: link, **options):
    """A host of ours; ``wrap`` puts something around its link."""
    import netstack
    from netstack.link import Tap

    with network_namespace() as tools:
        with tools.enter():
            tap = Tap(DEVICE)
        prepare(tools, TOOLS, TOOLS6)
        with netstack.Host(link=wrap(tap), address=[f"{TARGET}/24", f"{SECOND}/24", f"{TARGET6}/64"], drain=1,
                           **options) as host:
            listener = host.create_server(("::", WEB), family=socket.AF_INET6, dualstack_ipv6=True)
            datagrams = host.socket(socket.AF_INET6, socket.SOCK_DGRAM)
            with listener, datagrams:
                datagrams.bind(("::", ECHO))
                yield Range(tools, host, listener, datagrams)


@contextlib.contextmanager
def kernel_target():
    with network_namespace() as tools, network_namespace() as far:
        tools.run("ip", "link", "add", DEVICE, "type", "veth", "peer", "name", DEVICE, "netns", far.name)
        prepare(tools, TOOLS, TOOLS6)
        prepare(far, TARGET, TARGET6)
        far.run("ip", "addr", "add", f"{SECOND}/24", "dev", DEVICE)
        with far.enter():
            listener = socket.create_server(("::", WEB), family=socket.AF_INET6, dualstack_ipv6=True)
            datagrams = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
        with listener, datagrams:
            datagrams.bind(("::", ECHO))
            tools.run("ping", "-6", "-c", "1", "-W", "20", TARGET6)
            yield Range(tools, None, listener, datagrams)


def prepare(netns, address, address6):
    netns.run("ip", "addr", "add", f"{address}/24", "dev", DEVICE)
    netns.run("ip", "addr", "add", f"{address6}/64", "dev", DEVICE, "nodad")
    netns.run("ip", "link", "set", DEVICE, "up")


def nmap_lines(said):
    """What nmap concludes, without the fingerprint."""
    wanted = ("TCP Sequence Prediction", "IP ID Sequence", "Network Distance", "80/tcp", "81/tcp")
    return {line.split(":")[0].split("  ")[0]: line for line in said.splitlines() if line.startswith(wanted)}


def survey(target):
    """``{tool: {case: verdict}}``."""
    with target as place:
        os, udp = place.nmap()
        states = sorted(re.findall(r"^\d+/udp +(\S+)", udp, re.M))
        fingerprint = "".join(re.findall(r"^OS:(.*)$", os, re.M))
        out = {"nmap -O -sV": {**nmap_lines(os), "fingerprint": fingerprint},
               "nmap -sU --top-ports 20": {"ports": ", ".join(f"{states.count(s)} {s}" for s in dict.fromkeys(states))},
               "hping3": place.hping(),
               "implementation6": {f"{n} {name}": said for n, (name, said) in place.implementation().items()}}
        place.fragmentation()
        out["afterwards"] = {"answers": str(place.answers())}
        return out


def main():
    ours, kernel = survey(our_target()), survey(kernel_target())
    print("| tool | case | ours | kernel |\n|---|---|---|---|")
    for tool, cases in ours.items():
        for case, said in cases.items():
            print(f"| {tool} | {case} | {said} | {kernel[tool].get(case, '')} |")


if __name__ == "__main__":
    main()
