"""The runner of CPython's tests: what it counts, and that it notices what did not go through the stack."""

import json
import sys

import pytest

from tests.cpython.modules import kind, reason
from tests.cpython.run import misses, on_stack
from tests.support import ROOT, run

pytest.importorskip("test.test_urllib2_localnet", reason="this interpreter comes without its tests")


def test_a_module_goes_through_the_stack(tmp_path):
    out = tmp_path / "out.json"
    run([sys.executable, "-m", "tests.cpython.run", "--json", out, "test_urllib2_localnet", "test_robotparser"],
        cwd=ROOT)
    modules = json.loads(out.read_text())["modules"]
    row = modules["test_urllib2_localnet"]
    assert row["through"] == row["eligible"] == row["with_packets"] > 20 and row["missed"] == {}
    assert modules["test_robotparser"]["others"]["pass"] > 20


def test_the_kernel_is_counted_apart(tmp_path):
    out = tmp_path / "out.json"
    run([sys.executable, "-m", "tests.cpython.run", "--kernel", "--json", out, "test_urllib2_localnet"], cwd=ROOT)
    found = json.loads(out.read_text())
    assert found["kernel"] and found["modules"]["test_urllib2_localnet"]["with_packets"] == 0


def test_a_miss_has_a_reason_or_stands_out():
    known, new = "test.test_asyncore.TestAPI_UseIPv4Poll.test_handle_expt", "test.test_socket.NewTest.test_new"
    assert "urgent" in reason(known) and reason(new) == ""
    lines = misses({"m": {"missed": {known: "fail: flag not set", new: "error: x"},
                          "reasons": {known: reason(known), new: reason(new)}}})
    assert "1: UNEXPLAINED, error: x" in lines and f"    {known}" in lines


def test_only_the_stack_s_sockets_count():
    assert on_stack({"sockets": {"stack AF_INET/SOCK_STREAM": 2, "socketpair": 1}})
    assert not on_stack({"sockets": {"stack AF_INET/SOCK_STREAM": 1, "kernel AF_INET/SOCK_STREAM": 1}})
    assert not on_stack({"sockets": {"socketpair": 1}})
    assert kind({"id": "test.x", "sockets": {"refused AF_INET/any": 1}}) == "inet"
    assert kind({"id": "test.x", "sockets": {"socketpair": 1}}) == "pair"
    assert kind({"id": "test.test_socket.BasicCANTest.test_bind", "sockets": {}}) == "kernel:AF_CAN"
