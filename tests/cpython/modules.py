"""Which of CPython's test modules use the network, and which of their tests a stack cannot mean."""

from __future__ import annotations

import re

MODULES = """test_socket test_timeout test_select test_poll test_epoll test_selectors test_socketserver
test_ssl test_httplib test_httpservers test_urllib test_urllib2 test_urllib2_localnet test_robotparser
test_ftplib test_smtplib test_smtpd test_poplib test_imaplib test_telnetlib test_nntplib test_asyncore
test_asynchat test_xmlrpc test_docxmlrpc test_wsgiref test_logging
test_asyncio.test_base_events test_asyncio.test_buffered_proto test_asyncio.test_events
test_asyncio.test_proactor_events test_asyncio.test_selector_events test_asyncio.test_sendfile
test_asyncio.test_server test_asyncio.test_sock_lowlevel test_asyncio.test_ssl test_asyncio.test_sslproto
test_asyncio.test_streams test_asyncio.test_transports test_asyncio.test_unix_events
test_asyncio.test_protocols test_asyncio.test_subprocess test_asyncio.test_runners""".split()

# The kernel's by nature, by test id; the first match counts.
KERNEL = [(reason, re.compile(pattern)) for reason, pattern in (
    ("AF_CAN", r"CAN(Test|BCM)|BasicCAN|ISOTP|J1939"),
    ("AF_VSOCK", r"VSOCK|Vsock"),
    ("AF_ALG", r"LinuxKernelCryptoAPI"),
    ("AF_BLUETOOTH", r"Bluetooth"),
    ("AF_HYPERV", r"HyperV"),
    ("AF_RDS", r"\.(BasicRDS|RDS|ThreadedRDS)"),
    ("AF_QIPCRTR", r"QIPCRTR"),
    ("SCTP", r"SCTP"),
    ("SCM_RIGHTS", r"SCMRights|SendRecvFds|FDPass|sendfds|send_fds"),
    ("AF_UNIX", r"[Uu]nix(?!_events)|LinuxAbstract|UDS\b|UnixStream|UnixDatagram|unix_(?!events)"),
    ("ioctl, interface names", r"ioctl|InterfaceName|InterfaceIndex|if_name|nameindex|scopeid|interface"),
    ("os.sendfile", r"SendfileUsingSendfile|_sendfile_use_sendfile|SendfileMixin.*native|sendfile.*(native|os_)"),
    ("descriptors that are inherited", r"InheritanceTest|SocketSharing|inherit|fromfd|CloexecConstant"),
    ("the machine's name databases", r"getprotobyname|getservby|gethostby|getaddrinfo|getnameinfo|host_resolution"
                                     r"|HostnameRes"),
    ("raw descriptors", r"unknown_socket_family|socket_fileno|dealloc_warn|invalid_fd|SocketIO_fd"),
    ("Windows", r"proactor_events|WindowsUtils"),
)]

# Tests of IP sockets that do not pass on a stack, and why; the first match counts.
MISSES = [(reason, re.compile(pattern)) for reason, pattern in (
    ("a readiness descriptor carries no data, so no second socket is made of its number",
     r"testCloseException|test_setblocking_invalidfd|test_response_fileno"),
    ("socket.close(fd) closes the readiness descriptor; the socket is the stack's and stays", r"test_socket_close$"),
    ("a readiness descriptor never blocks, or a read of it by mistake would: it does not repeat O_NONBLOCK",
     r"testSetBlocking|NonblockConstantTest"),
    ("urgent data stays in the stream (RFC 6093), so a readiness descriptor shows no POLLPRI", r"test_handle_expt"),
    ("a program's own subclass of ssl.SSLSocket is the standard library's and works on descriptors",
     r"test_context_custom_class"),
    ("the child of a fork cannot use its parent's stack", r"test_Forking"),
    ("a race of the test, seen on a loaded machine: the server closes with records unread, and its reset overtakes the"
     " client's first write", r"test_wrong_cert_tls13|test_pha_required_nocert"),
)]

IP_FAMILIES = {"AF_INET", "AF_INET6"}


def kind(row: dict) -> str:
    """inet, pair (a socket pair only), kernel:REASON, or other (parsers, mocks, error paths)."""
    for reason, pattern in KERNEL:
        if pattern.search(row["id"]):
            return "kernel:" + reason
    used = row.get("sockets") or {}
    made = [name for name in used if name.startswith(("kernel ", "stack ", "refused "))]
    families = {name.split(" ", 1)[1].split("/")[0] for name in made}
    if families & IP_FAMILIES:
        return "inet"
    if "AF_UNIX" in families:
        return "kernel:AF_UNIX"
    return "pair" if used.get("socketpair") else "other"


def reason(test: str) -> str:
    """Why a test of IP sockets misses; "" for one that nobody has looked into."""
    return next((reason for reason, pattern in MISSES if pattern.search(test)), "")
