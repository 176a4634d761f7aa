"""Run packetdrill scripts against the stack and report by topic.

``python -m tests.conformance.packetdrill.run --scripts DIR --list FILE [--json OUT]``; the packetdrill program is taken
from the environment, ``PACKETDRILL=/path/to/packetdrill``. README.md says the rest.
"""

import argparse
import concurrent.futures
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tests.conformance.packetdrill.relax import relax, relaxes

HERE = Path(__file__).parent
PROJECT = HERE.parents[2]
STANDINS = HERE / "standins"

# As the suites' own runners call packetdrill, one set for each version of IP.
ARGUMENTS = {
    "ipv4": [
        "--ip_version=ipv4", "--local_ip=192.168.0.1", "--gateway_ip=192.168.0.1", "--netmask_ip=255.255.0.0",
        "--remote_ip=192.0.2.1", "-D", "TFO_COOKIE=3021b9d889017eeb", "-D", "CODE=host_unreachable",
        "-D", "CMSG_LEVEL_IP=SOL_IP", "-D", "CMSG_TYPE_RECVERR=IP_RECVERR",
    ],
    "ipv4-mapped-ipv6": [
        "--ip_version=ipv4-mapped-ipv6", "--local_ip=192.168.0.1", "--gateway_ip=192.168.0.1",
        "--netmask_ip=255.255.0.0", "--remote_ip=192.0.2.1", "-D", "TFO_COOKIE=3021b9d889017eeb",
        "-D", "CODE=host_unreachable", "-D", "CMSG_LEVEL_IP=SOL_IPV6", "-D", "CMSG_TYPE_RECVERR=IPV6_RECVERR",
    ],
    "ipv6": [
        "--ip_version=ipv6", "--mtu=1520", "--local_ip=fd3d:0a0b:17d6::1", "--gateway_ip=fd3d:0a0b:17d6:8888::1",
        "--remote_ip=fd3d:fa7b:d17d::1", "-D", "TFO_COOKIE=c1d1e9742a47a9bc", "-D", "CODE=host_unreachable",
        "-D", "CMSG_LEVEL_IP=SOL_IPV6", "-D", "CMSG_TYPE_RECVERR=IPV6_RECVERR",
    ],
}

# A namespace with a device of that name, so that the scripts' sysctl, tc and ethtool commands find what they expect.
NAMESPACE = """
ip link set lo up
ip tuntap add dev tun0 mode tun
ip link set tun0 up
ulimit -s 1024
exec "$@"
"""


class Missing(Exception):
    """Why nothing can be run here."""


@dataclass(frozen=True)
class Script:
    repository: str
    path: str

    @property
    def topic(self):
        """The folder within its repository."""
        return f"{self.repository} {os.path.dirname(self.path) or '.'}"

    def __str__(self):
        return f"{self.repository} {self.path}"


@dataclass(frozen=True)
class Result:
    script: Script
    passed: bool
    relaxed: bool        # passed, but only with the changes of relax.py
    output: str


def find_packetdrill():
    """The program, from PACKETDRILL."""
    program = os.environ.get("PACKETDRILL")
    if not program:
        raise Missing("PACKETDRILL is not set: it names the packetdrill program, which is not part of this project")
    found = shutil.which(program)
    if not found:
        raise Missing(f"PACKETDRILL={program}: no such program")
    return Path(found).resolve()


def find_header(packetdrill, scripts):
    """The folder with packetdrill.h: PACKETDRILL_INCLUDE, beside the program, or in the scripts' checkout."""
    places = [
        os.environ.get("PACKETDRILL_INCLUDE"), packetdrill.parent,
        Path(scripts or ".") / "google/packetdrill/gtests/net/packetdrill",
    ]
    for place in places:
        if place and (Path(place) / "packetdrill.h").is_file():
            return Path(place)
    raise Missing("packetdrill.h is neither beside the program nor under --scripts: set PACKETDRILL_INCLUDE")


def python_library():
    """The shared library of the interpreter that runs this, for the shim to be linked with."""
    name = sysconfig.get_config_var("INSTSONAME") or ""
    for folder in (sysconfig.get_config_var("LIBDIR"), os.path.join(sys.base_prefix, "lib")):
        if folder and ".so" in name and (Path(folder) / name).is_file():
            return Path(folder) / name
    multiarch = sysconfig.get_config_var("MULTIARCH") or ""
    for folder in (Path("/usr/lib") / multiarch, Path("/usr/lib64")):
        if ".so" in name and (folder / name).is_file():
            return folder / name
    raise Missing("this Python has no shared library (libpython): the shim embeds it")


def build_shim(out, include):
    """Compile shim.c into the file *out*."""
    library = python_library()
    compiler = os.environ.get("CC", "cc").split()
    command = [
        *compiler, "-std=gnu11", "-O2", "-g", "-Wall", "-Wextra", "-fPIC", "-shared", "-iquote", str(include),
        f"-I{sysconfig.get_path('include')}", "-o", str(out), str(HERE / "shim.c"), str(library),
        f"-Wl,-rpath,{library.parent}", "-lpthread",
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise Missing(f"the shim does not compile:\n{done.stderr}")


def read_list(path):
    """The scripts of a list: lines of ``owner/repo path``; empty lines and those with # are skipped."""
    scripts = []
    for line in Path(path).read_text().splitlines():
        line = line.strip()
        if line and not line.startswith("#"):
            repository, _, rest = line.partition(" ")
            scripts.append(Script(repository, rest.strip()))
    return scripts


def own_options(text):
    """The options that a script gives itself, ``--mtu=1400``: its own word counts more than the runner's."""
    return {name: value.strip("\"'") for name, value in re.findall(r"^--(\w+)=(\S+)", text, re.MULTILINE)}


def folder_of(path, text, repository):
    """Where a script wants to be run: its own folder, or the one above it where the programs it names are found."""
    programs = re.findall(r"^\s*`?\s*([\w.-]+/[\w./-]+)", text, re.MULTILINE)
    for folder in path.parents:
        if all((folder / program).exists() for program in programs):
            return folder
        if folder == repository:
            break
    return path.parent


class Runner:
    """Runs scripts, each in a network namespace and a process of its own."""

    def __init__(self, scripts, packetdrill, scratch, *, timeout=60, ip_version="ipv4", trace=False):
        self.root = Path(scripts).resolve()
        self.packetdrill = packetdrill
        self.scratch = Path(scratch)
        self.timeout = timeout
        self.ip_version = ip_version
        self.trace = trace
        self.shim = self.scratch / "shim.so"
        build_shim(self.shim, find_header(packetdrill, scripts))

    def command(self, script_file, text, states):
        """The command line for a script: its own options decide about the version of IP, addresses and MTU."""
        own = own_options(text)
        version = own.get("ip_version", self.ip_version)
        mtu = own.get("mtu", "1520" if version == "ipv6" else "1500")
        local = own.get("local_ip", "fd3d:0a0b:17d6::1" if version == "ipv6" else "192.168.0.1")
        prefix = "64" if ":" in local else "16"
        flags = f"local_ip={local}/{prefix},mtu={mtu},states={states}" + (",trace=1" if self.trace else "")
        arguments = [a for a in ARGUMENTS.get(version, ()) if not (a.startswith("--") and a[2:].split("=")[0] in own)]
        packetdrill = [str(self.packetdrill), f"--so_filename={self.shim}", f"--so_flags={flags}", *arguments]
        privilege = [] if os.geteuid() == 0 else ["--map-root-user"]
        preload = ["env", f"LD_PRELOAD={self.shim}"]
        return ["unshare", "--net", *privilege, "sh", "-c", NAMESPACE, "sh", *preload, *packetdrill, str(script_file)]

    def attempt(self, script_file, folder, text, name, with_standins):
        """Run one file; ``(passed, output)``."""
        states = self.scratch / f"{name}.states"
        environment = dict(os.environ)
        environment.pop("LD_PRELOAD", None)
        environment["PD_SHIM_HOME"] = sys.base_prefix
        environment["PD_SHIM_PATH"] = ":".join(dict.fromkeys([str(PROJECT), *(p for p in sys.path if p)]))
        environment["PD_STATES"] = str(states)
        settings = self.scratch / f"{name}.settings"
        settings.unlink(missing_ok=True)
        environment["PD_SETTINGS"] = str(settings)
        standins = STANDINS if with_standins else STANDINS / "linux"
        environment["PATH"] = f"{standins}:{environment.get('PATH', '/usr/bin:/bin')}"
        process = subprocess.Popen(
            self.command(script_file, text, states), cwd=folder, env=environment, start_new_session=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )
        try:
            output, _ = process.communicate(timeout=self.timeout)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            output, _ = process.communicate()
            output += f"\nno end within {self.timeout} s\n".encode()
        return process.returncode == 0, output.decode(errors="replace")

    def run(self, script):
        """Run a script as it is, and, where that is allowed and needed, once more relaxed."""
        path = self.root / script.repository / script.path
        if not path.is_file():
            return Result(script, False, False, f"{path}: no such file\n")
        text = path.read_text(errors="replace")
        name = re.sub(r"\W+", "-", str(script))
        folder = folder_of(path, text, self.root / script.repository)
        passed, output = self.attempt(path, folder, text, name, False)
        if passed or not relaxes(script.repository):
            return Result(script, passed, False, output)
        copy = self.scratch / f"{name}.pkt"
        copy.write_text(relax(text))
        passed, output = self.attempt(copy, folder, text, name, True)
        return Result(script, passed, passed, output)


def summarize(results):
    """The JSON object: topics with their counts, the totals, and the mean over topics of the share that passed."""
    topics = {}
    for result in results:
        topic = topics.setdefault(result.script.topic, {"passed": 0, "failed": 0, "relaxed": 0})
        topic["passed" if result.passed else "failed"] += 1
        topic["relaxed"] += result.relaxed
    shares = [t["passed"] / (t["passed"] + t["failed"]) for t in topics.values()]
    return {
        "topics": topics,
        "passed": sum(r.passed for r in results),
        "failed": sum(not r.passed for r in results),
        "relaxed": sum(r.relaxed for r in results),
        "mean_over_topics": sum(shares) / len(shares) if shares else 0.0,
        "failures": {str(r.script): r.output.strip()[-2000:] for r in results if not r.passed},
    }


def report(summary, out):
    """The table for people."""
    width = max([len(name) for name in summary["topics"]] or [0])
    for name, topic in sorted(summary["topics"].items()):
        count = topic["passed"] + topic["failed"]
        print(f"{name:{width}}  {topic['passed']:4}/{count:<4} {topic['relaxed'] or '':>4}", file=out)
    count = summary["passed"] + summary["failed"]
    print(f"\n{summary['passed']} of {count} passed ({summary['relaxed']} of them relaxed), "
          f"{summary['failed']} failed; mean over topics {summary['mean_over_topics']:.4f}", file=out)


def run_all(scripts, listed, *, jobs=2, **settings):
    """Run the scripts of a list; the results in its order."""
    packetdrill = find_packetdrill()
    with tempfile.TemporaryDirectory(prefix="packetdrill-") as scratch:
        runner = Runner(scripts, packetdrill, scratch, **settings)
        with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
            return list(pool.map(runner.run, listed))


def main(argv=None):
    parser = argparse.ArgumentParser(prog="python -m tests.conformance.packetdrill.run", description=__doc__)
    parser.add_argument("--scripts", required=True, help="folder with checkouts as owner/repo/")
    parser.add_argument("--list", required=True, help="file with lines 'owner/repo path'")
    parser.add_argument("--json", help="write the result here")
    parser.add_argument("-j", "--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--timeout", type=float, default=60, help="seconds of real time for one script")
    parser.add_argument("--ip-version", choices=sorted(ARGUMENTS), default="ipv4", help="for scripts that name none")
    parser.add_argument("--only", default="", help="run only scripts whose line contains this")
    parser.add_argument("-v", "--verbose", action="store_true", help="show what failed scripts printed")
    parser.add_argument("--trace", action="store_true", help="show calls and packets of failed scripts too")
    options = parser.parse_args(argv)
    try:
        listed = [s for s in read_list(options.list) if options.only in str(s)]
        results = run_all(
            options.scripts, listed, jobs=options.jobs, timeout=options.timeout, ip_version=options.ip_version,
            trace=options.trace,
        )
    except (Missing, OSError) as error:
        print(f"packetdrill: {error}", file=sys.stderr)
        return 2
    for result in results:
        if not result.passed:
            print(f"FAIL {result.script}")
            if options.verbose or options.trace:
                print(result.output)
    summary = summarize(results)
    report(summary, sys.stdout)
    if options.json:
        Path(options.json).write_text(json.dumps(summary, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
