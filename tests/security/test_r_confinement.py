"""R19 and section 5 of the security checklist: router and daemon have no privileges and few files and system calls."""

import ast
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import textwrap

import pytest

from netstack import confinement
from tests.router.conftest import runtime  # noqa: F401
from tests.router.lan import wait_until
from tests.support import ROOT, SANITIZED

NOBODY = 65534


@pytest.fixture(autouse=True)
def a_sanitizer_looks_for_leaks_elsewhere(monkeypatch):
    """It would trace its own process at its end, which no confined one may; all else that it finds, it finds."""
    if SANITIZED:
        monkeypatch.delenv("NETSTACK_CONFINE", raising=False)
        monkeypatch.setenv("ASAN_OPTIONS", f"{os.environ.get('ASAN_OPTIONS', '')}:detect_leaks=0")


def run(code, *arguments):
    """A program of its own: what it gives up, it never gets back."""
    return subprocess.run([sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)], cwd=ROOT,
                          capture_output=True, text=True, timeout=60)


def status(pid="self"):
    return dict(line.split(":\t", 1) for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines())


def test_r_capabilities_are_gone_for_good():
    done = run("""
        from netstack import confinement
        confinement.give_up_capabilities()
        print(open("/proc/self/status").read())
    """)
    assert done.returncode == 0, done.stderr
    said = dict(line.split(":\t", 1) for line in done.stdout.splitlines() if ":\t" in line)
    assert {int(said[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")} == {0}
    assert said["NoNewPrivs"].strip() == "1"
    if os.geteuid() == 0:
        assert int(said["CapBnd"], 16) == 0


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to have a capability to keep")
def test_r_a_capability_that_is_kept_still_works():
    done = run("""
        import socket
        from netstack import confinement
        confinement.give_up_capabilities([13])                # CAP_NET_RAW
        socket.socket(socket.AF_PACKET, socket.SOCK_RAW).close()
        try:
            socket.sethostname(socket.gethostname())          # CAP_SYS_ADMIN
        except PermissionError:
            print("refused")
    """)
    assert done.stdout == "refused\n", done.stderr


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to be another user")
def test_r19_nobody_of_the_same_user_may_look_inside():
    code = """
        import os, sys
        from netstack import confinement
        os.setresuid(65534, 65534, 65534)
        print(os.stat(f"/proc/{os.getpid()}/environ").st_uid)
        confinement.forbid_dumps()
        print(os.stat(f"/proc/{os.getpid()}/environ").st_uid, flush=True)
        sys.stdin.read()
    """
    victim = subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)], cwd=ROOT, stdin=subprocess.PIPE,
                              stdout=subprocess.PIPE, text=True)
    try:
        assert victim.stdout.readline() == f"{os.geteuid()}\n"          # setresuid has forbidden dumps, too
        assert victim.stdout.readline() == "0\n"
        spy = run("""
            import os, sys
            os.setresuid(65534, 65534, 65534)
            try:
                open(f"/proc/{sys.argv[1]}/mem", "rb")
            except PermissionError:
                print("refused")
        """, victim.pid)
        assert spy.stdout == "refused\n", spy.stderr
    finally:
        victim.stdin.close()
        victim.wait(10)


# The command, which tells when it would wait for a signal whether it may be dumped and traced: PR_GET_DUMPABLE.
TELLS = """
import ctypes, sys, threading
import netstack.cli.{0} as command
import netstack.confinement
netstack.confinement.restrict_calls = lambda families: True          # which would refuse the question, too
prctl = ctypes.CDLL(None).prctl
def tell(expected):
    print(prctl(3, 0, 0, 0, 0), flush=True)
    sys.stdin.read()
    return 15
command.wait_for_signal = tell
from netstack.cli.main import main
main(["{0}", *sys.argv[1:]], prog_name="netstack")
"""


@pytest.mark.parametrize("which", ["router", "daemon"])
def test_r19_router_and_daemon_are_not_to_be_looked_into(runtime, which):  # noqa: F811
    """Neither traced nor dumped by anybody of their user."""
    env = {**os.environ, "NETSTACK_ROUTER": "seen", "NETSTACK_DAEMON": "seen"}
    started = []
    try:
        for command in ("router", "daemon")[:1 + (which == "daemon")]:
            started.append(subprocess.Popen([sys.executable, "-c", TELLS.format(command), "-q"], cwd=ROOT, env=env,
                                            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
            said = started[-1].stdout.readline()
            assert said == "0\n", said
    finally:
        for process in reversed(started):
            process.communicate(timeout=30)


@pytest.mark.skipif(confinement.landlock_version() < 1, reason="this kernel has no Landlock")
def test_r_files_outside_the_folders_are_out_of_reach(tmp_path):
    for name in ("read", "write", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
    done = run("""
        import os, sys
        from netstack import confinement
        assert confinement.restrict_files(read=[sys.argv[1] + "/read"], write=[sys.argv[1] + "/write", "/nowhere"]) > 0
        os.chdir(sys.argv[1])
        print(open("read/file").read(), open("write/file", "w").write("new"))
        os.unlink("write/file")
        for path, mode in (("other/file", "r"), ("read/file", "w"), ("read/new", "w"), ("/etc/passwd", "r")):
            try:
                open(path, mode)
                print(path, "was opened")
            except PermissionError:
                pass
        try:
            os.rename("read/file", "write/stolen")
            print("was moved")
        except OSError:
            pass
    """, tmp_path)
    assert done.stdout == "read 3\n", done.stdout + done.stderr


CALLS = {
    "a process": ("import os; os.fork()", 1),
    "executable memory": ("import mmap; mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_EXEC)", 1),
    "a network socket": ("import socket; socket.socket(socket.AF_INET)", 1),
    "a signal to another": ("import os, signal; os.kill(os.getppid(), 0)", 1),
    "a namespace": ("import ctypes; ctypes.CDLL(None).unshare(0x40000000)", -signal.SIGSYS),
    "a program": ("import os; os.execv('/bin/true', ['true'])", -signal.SIGSYS),
    "another's memory": ("import ctypes; ctypes.CDLL(None).process_vm_readv(1, 0, 0, 0, 0, 0)", -signal.SIGSYS),
    "a trace": ("import ctypes; ctypes.CDLL(None).ptrace(16, 1, 0, 0)", -signal.SIGSYS),
    "a ring of io_uring": ("import ctypes; ctypes.CDLL(None).syscall(425, 1, 0)", -signal.SIGSYS),
}


@pytest.mark.skipif(confinement.landlock_version() < 1, reason="this kernel has no Landlock")
def test_r_a_thread_may_end_without_the_c_librarys_files():
    """As threads of Python do that want the interpreter while it ends: what pthread_exit() needs was loaded before
    (glibc aborts otherwise)."""
    done = run("""
        import ctypes, os, threading
        from netstack import confinement
        lib = ctypes.CDLL(None)
        confinement.restrict_files(read=["/proc"])
        ended = threading.Thread(target=lambda: lib.pthread_exit(None), daemon=True)
        ended.start()
        while len(os.listdir("/proc/self/task")) > 1:
            pass
        print("ended", flush=True)
        os._exit(0)
    """)
    assert (done.returncode, done.stdout) == (0, "ended\n"), done.stderr


@pytest.mark.parametrize("what", CALLS)
def test_r_calls_that_a_router_does_not_need(what):
    code, ended = CALLS[what]
    done = run(f"""
        import ctypes, mmap, os, signal, socket
        from netstack import confinement
        ctypes.CDLL(None)
        if not confinement.restrict_calls([socket.AF_UNIX]):
            raise SystemExit(77)
        {code}
        print("was done")
    """)
    if done.returncode == 77:
        pytest.skip("this kernel has no seccomp, or there is no table for this processor")
    assert "was done" not in done.stdout
    assert done.returncode == ended, done.stderr
    if ended == 1:
        assert re.search(r"(PermissionError|OSError).*Operation not permitted", done.stderr)


def test_r_what_a_router_does_need():
    done = run("""
        import os, select, socket, threading, time
        from netstack import confinement
        confinement.restrict_calls([socket.AF_UNIX, socket.AF_INET])
        a, b = socket.socketpair()
        thread = threading.Thread(target=a.send, args=(b"x",))
        thread.start()
        thread.join()
        assert select.select([b], [], [], 5)[0] and b.recv(1) == b"x"
        fd = os.memfd_create("m", 0)
        os.ftruncate(fd, 4096)
        socket.send_fds(a, [b"fd"], [fd])
        assert socket.recv_fds(b, 10, 1)[0] == b"fd"
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
            s.bind(("127.0.0.1", 0))
        time.sleep(0.001)
        print(time.strftime("%Y"), os.urandom(1) is not None)
    """)
    assert done.returncode == 0, done.stderr


def late_imports(folder):
    """Modules that functions below a folder import."""
    for path in sorted((ROOT / folder).rglob("*.py")):
        for function in ast.walk(ast.parse(path.read_text())):
            if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
                for node in ast.walk(function):
                    if isinstance(node, ast.Import):
                        yield from (alias.name for alias in node.names)
                    elif isinstance(node, ast.ImportFrom) and node.module:
                        yield node.module
    for path in sorted((ROOT / folder).rglob("*.pyx")):
        yield from re.findall(r"^ +(?:from|import) ([\w.]+)(?! cimport)", path.read_text(), re.M)


def test_r_everything_that_is_imported_late_is_loaded_before():
    """Extension modules cannot be loaded afterwards."""
    wanted = {name for folder in ("netstack/router", "netstack/link", "rings") for name in late_imports(folder)}
    assert {"posix_ipc", "rings.channel"} <= wanted
    wanted -= {"numpy", "multiprocessing.reduction"}      # views of counters, pickled channels: for programs
    wanted -= {"ctypes"}                                  # of the process that opens devices
    wanted -= {"pathlib"}                                 # Python alone: it can be loaded at any time
    done = run("""
        import sys
        from netstack.cli import confining
        confining.load(confining.ROUTER)
        print([name for name in sys.argv[1:] if name not in sys.modules])
    """, *sorted(wanted))
    assert done.stdout == "[]\n", done.stdout + done.stderr


@pytest.mark.parametrize("options", [(), ("--distrust",), ("--metrics", "127.0.0.1:0"), ("--metrics", "unix:{}/m")])
def test_r_a_router_runs_confined(tmp_path, options):
    env = {**os.environ, "NETSTACK_RUNTIME_DIR": str(tmp_path), "NETSTACK_ROUTER": "confined"}
    env.pop("NETSTACK_CONFINE", None)
    os.chmod(tmp_path, 0o700)
    options = [option.format(tmp_path) for option in options]
    router = subprocess.Popen([sys.executable, "-m", "netstack", "router", *options], cwd=ROOT, env=env,
                              stderr=subprocess.PIPE, text=True)
    try:
        log = ""
        while "control socket" not in log:
            line = router.stderr.readline()
            assert line, log
            log += line
        said = status(router.pid)
        assert int(said["CapEff"], 16) == int(said["CapPrm"], 16) == 0 and said["NoNewPrivs"].strip() == "1"
        if "Seccomp" in said:
            assert said["Seccomp"].strip() == "2"
        code = textwrap.dedent("""
            import socket
            listener = socket.create_server(("", 7))
            out = socket.create_connection(listener.getsockname())
            s, _ = listener.accept()
            out.sendall(b"through")
            print(s.recv(100))
        """)
        done = subprocess.run([sys.executable, "-m", "netstack", "run", "--", "-c", code], cwd=ROOT, env=env,
                              capture_output=True, text=True, timeout=60)
        assert done.stdout == "b'through'\n", done.stderr
    finally:
        router.send_signal(signal.SIGTERM)
        log += router.communicate(timeout=30)[1]
    assert router.returncode == 0 and "mistake" not in log, log


def test_r_confining_can_be_left_out(tmp_path):
    env = {**os.environ, "NETSTACK_RUNTIME_DIR": str(tmp_path), "NETSTACK_ROUTER": "open"}
    os.chmod(tmp_path, 0o700)
    router = subprocess.Popen([sys.executable, "-m", "netstack", "router", "--no-confine"], cwd=ROOT, env=env,
                              stderr=subprocess.PIPE, text=True)
    try:
        assert "control socket" in router.stderr.readline()
        assert status(router.pid).get("Seccomp", "0").strip() == status().get("Seccomp", "0").strip()
    finally:
        router.terminate()
        router.communicate(timeout=30)


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become another user")
def test_r_a_router_of_root_becomes_the_user_it_is_told(runtime):  # noqa: F811
    folder = pathlib.Path(runtime)
    os.chown(folder, NOBODY, NOBODY)
    env = {**os.environ, "NETSTACK_ROUTER": "nobodys"}
    router = subprocess.Popen([sys.executable, "-m", "netstack", "router", "--user", "nobody"], cwd=ROOT, env=env,
                              stderr=subprocess.PIPE, text=True)
    try:
        line = router.stderr.readline()
        assert "control socket" in line, line + router.stderr.read()
        assert status(router.pid)["Uid"].split() == [str(NOBODY)] * 4
        assert os.stat(folder / "nobodys.sock").st_uid == NOBODY
    finally:
        router.terminate()
        router.communicate(timeout=30)


@pytest.mark.parametrize("user, said", [("no-such-user-here", "there is no such user")])
def test_r_a_user_that_is_not_there(user, said):
    done = subprocess.run([sys.executable, "-m", "netstack", "router", "--user", user], cwd=ROOT, capture_output=True,
                          text=True, timeout=60)
    assert done.returncode == 2 and said in done.stderr


ANSWERING = """
import socket, sys
listener = socket.create_server(("", 7))
print("ready", flush=True)
while True:
    s, _ = listener.accept()
    s.sendall(s.recv(100))
    s.close()
"""


@pytest.mark.root
@pytest.mark.parametrize("kind", ["tap", "tun", "packet", "xdp"])
def test_r_a_confined_router_has_its_devices_opened_and_gets_a_lost_one_back(netns, tmp_path, kind):
    """By a process that keeps two capabilities (four for AF_XDP) and knows these devices alone (security section 5)."""
    if kind == "xdp" and not shutil.which("ethtool"):
        pytest.skip("needs ethtool")
    veth = kind in ("packet", "xdp")
    kernel = "kup0" if veth else "up0"

    def make():
        if veth:
            netns.run("ip", "link", "add", "up0", "type", "veth", "peer", "name", kernel)
            netns.run("ip", "link", "set", "up0", "up")
            if kind == "xdp":                # what was never on a wire has no checksum else
                netns.run("ethtool", "-K", kernel, "tx", "off")
        else:
            netns.run("ip", "tuntap", "add", "dev", "up0", "mode", kind)
        netns.run("ip", "link", "set", kernel, "up")
        netns.run("ip", "addr", "add", "192.0.2.1/24", "dev", kernel)
        netns.run("ip", "route", "add", "10.77.0.0/16", *(["via", "192.0.2.2"] if kind != "tun" else []), "dev", kernel)

    def asked():
        with netns.enter():
            s = socket.socket()
        with s:
            s.settimeout(5)
            try:
                s.connect(("10.77.0.2", 7))
                s.sendall(b"hello")
                return s.recv(100) == b"hello"
            except OSError:
                return False

    make()
    os.chmod(tmp_path, 0o700)
    env = {**os.environ, "NETSTACK_RUNTIME_DIR": str(tmp_path), "NETSTACK_ROUTER": "devices"}
    started = []
    try:
        router = netns.popen(sys.executable, "-m", "netstack", "router", "--uplink", f"{kind}:up0,address=192.0.2.2/24",
                             cwd=ROOT, env=env, stderr=subprocess.PIPE, text=True)
        started.append(router)
        assert "control socket" in router.stderr.readline()
        program = netns.popen(sys.executable, "-m", "netstack", "run", "--", "-c", ANSWERING, cwd=ROOT, env=env,
                              stdout=subprocess.PIPE, text=True)
        started.append(program)
        assert program.stdout.readline() == "ready\n"
        wait_until(asked, 60)
        said = status(router.pid)
        assert int(said["CapEff"], 16) == 0 and said.get("Seccomp", "2").strip() == "2"
        [opener] = map(int, pathlib.Path(f"/proc/{router.pid}/task/{router.pid}/children").read_text().split())
        said = status(opener)
        more = 1 << 14 | 1 << 39 if kind == "xdp" else 0
        assert int(said["CapEff"], 16) & ~(1 << 12 | 1 << 13 | more) == 0 and said["NoNewPrivs"].strip() == "1"
        netns.run("ip", "link", "delete", "up0")
        make()
        wait_until(asked, 60)
        router.terminate()
        assert router.wait(30) == 0
        assert not os.path.exists(f"/proc/{opener}")
    finally:
        for process in reversed(started):
            if process.poll() is None:
                process.kill()
            process.communicate(timeout=30)


def test_r_the_opener_opens_nothing_else():
    done = run("""
        from netstack.router.opener import Opener
        from netstack.router.uplinks import UplinkConfig
        opener = Opener([UplinkConfig.parse("tap:one")])
        for kind, name in (("tap", "two"), ("tun", "one"), ("packet", "lo")):
            try:
                print(opener.open(kind, name, bytes(6), True, False))
            except PermissionError as error:
                print("LinkError", error)
            except OSError as error:
                print(type(error).__name__, error)
        opener.close()
        opener.close()
        try:
            opener.open("tap", "one", bytes(6), True, False)
        except Exception as error:
            print(type(error).__name__)
    """)
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["LinkError"] * 3 + ["RouterError"], done.stdout + done.stderr
    assert all("no uplink of this router" in line for line in lines[:3])


def test_r_a_confined_router_relays_for_its_stacks(tmp_path):
    """The uplink ``user`` needs sockets of the kernel; nothing else is given back for it."""
    os.chmod(tmp_path, 0o700)
    env = {**os.environ, "NETSTACK_RUNTIME_DIR": str(tmp_path), "NETSTACK_ROUTER": "relaying"}
    with socket.create_server(("127.0.0.1", 0)) as outside:
        port = outside.getsockname()[1]
        router = subprocess.Popen([sys.executable, "-m", "netstack", "router", "--uplink", "user,loopback=10.77.0.1"],
                                  cwd=ROOT, env=env, stderr=subprocess.PIPE, text=True)
        try:
            line = router.stderr.readline()
            assert "control socket" in line, line + router.stderr.read()
            said = status(router.pid)
            assert int(said["CapEff"], 16) & ~(1 << 10) == 0 and said.get("Seccomp", "2").strip() == "2"
            code = f"import socket; s = socket.create_connection(('10.77.0.1', {port}), 30); print(s.recv(100))"
            program = subprocess.Popen([sys.executable, "-m", "netstack", "run", "--", "-c", code], cwd=ROOT, env=env,
                                       stdout=subprocess.PIPE, text=True)
            outside.settimeout(60)
            s, _ = outside.accept()
            with s:
                s.sendall(b"from outside")
            assert program.communicate(timeout=60)[0] == "b'from outside'\n"
        finally:
            router.terminate()
            log = router.communicate(timeout=30)[1]
        assert router.returncode == 0 and "mistake" not in log, log


COUNTING = """
import socket, sys, time
s = socket.create_connection(("10.77.0.2", 7))
s.settimeout(60)
for i in range(int(sys.argv[1])):
    s.sendall(b"%d" % i)
    assert s.recv(100) == b"%d" % i
    print(i, flush=True)
    time.sleep(0.02)
"""

ECHOING = """
import socket
listener = socket.create_server(("", 7))
print("ready", flush=True)
s, _ = listener.accept()
while data := s.recv(100):
    s.sendall(data)
"""


def test_r_connections_outlive_a_confined_router_that_is_killed(tmp_path):
    """F2 with the command: what the next router reads, and its networks, are within the reach of a confined one."""
    os.chmod(tmp_path, 0o700)
    env = {**os.environ, "NETSTACK_RUNTIME_DIR": str(tmp_path), "NETSTACK_ROUTER": "killed"}
    run_it = [sys.executable, "-m", "netstack", "run"]
    started = []

    def start(*command, **streams):
        started.append(subprocess.Popen(command, cwd=ROOT, env=env, text=True, **streams))
        return started[-1]

    def router():
        process = start(sys.executable, "-m", "netstack", "router", stderr=subprocess.PIPE)
        line = process.stderr.readline()
        assert "control socket" in line, line
        return process, line.split("pool ")[1].split(", control")[0]

    try:
        first, networks = router()
        server = start(*run_it, "--address", "10.77.0.2", "--address", "::", "--", "-c", ECHOING,
                       stdout=subprocess.PIPE)
        assert server.stdout.readline() == "ready\n"
        client = start(*run_it, "--", "-c", COUNTING, "60", stdout=subprocess.PIPE)
        for expected in range(10):
            assert client.stdout.readline() == f"{expected}\n"
        first.kill()
        first.wait(30)
        second, again = router()
        assert again == networks
        assert client.communicate(timeout=120)[0].split() == [str(n) for n in range(10, 60)]
        assert client.returncode == 0
        assert int(status(second.pid)["CapEff"], 16) == 0
    finally:
        for process in reversed(started):
            if process.poll() is None:
                process.kill()
            process.communicate(timeout=30)


def test_r_a_daemon_runs_confined(tmp_path):
    os.chmod(tmp_path, 0o700)
    env = {**os.environ, "NETSTACK_RUNTIME_DIR": str(tmp_path), "NETSTACK_ROUTER": "below", "NETSTACK_DAEMON": "above"}
    started = []
    try:
        for command in ("router", "daemon"):
            process = subprocess.Popen([sys.executable, "-m", "netstack", command], cwd=ROOT, env=env,
                                       stderr=subprocess.PIPE, text=True)
            started.append(process)
            line = process.stderr.readline()
            assert "router below" in line or "daemon 'above'" in line, line + process.stderr.read()
        said = status(started[1].pid)
        assert int(said["CapEff"], 16) == int(said["CapPrm"], 16) == 0 and said["NoNewPrivs"].strip() == "1"
        assert said.get("Seccomp", "2").strip() == "2"
        code = "import socket; s = socket.create_server(('', 7)); c = socket.create_connection(('127.0.0.1', 7)); " \
               "s.accept()[0].sendall(b'x'); print(c.recv(1), socket.gethostbyname('localhost'))"
        done = subprocess.run([sys.executable, "-m", "netstack", "run", "--mode", "daemon", "--", "-c", code], cwd=ROOT,
                              env=env, capture_output=True, text=True, timeout=60)
        assert done.stdout == "b'x' 127.0.0.1\n", done.stderr
    finally:
        for process in reversed(started):
            process.terminate()
            process.communicate(timeout=30)
    assert [process.returncode for process in started] == [0, 0]
