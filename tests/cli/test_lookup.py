"""``netstack lookup``: what dig(1) shows, asked from a stack of its own."""

import dns.flags
import dns.message
import dns.rcode
import pytest

from tests.cli.conftest import SERVER, netstack_command


def lookup(*argv):
    return netstack_command("lookup", *argv)


def test_an_answer_with_its_server_time_and_size(servers):
    done = lookup("alias.example", f"@{SERVER}")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith(";; opcode: QUERY, status: NOERROR, id: ")
    assert lines[1] == ";; flags: qr rd ra; QUERY: 1, ANSWER: 3, AUTHORITY: 0, ADDITIONAL: 0"
    assert ";alias.example. IN A" in lines
    assert "alias.example. 300 IN CNAME www.example." in lines
    assert {"www.example. 300 IN A 10.88.0.80", "www.example. 300 IN A 10.88.0.81"} <= set(lines)
    assert lines[-3].startswith(";; Query time: ") and lines[-2] == f";; SERVER: {SERVER}#53 (UDP)"
    assert lines[-1].startswith(";; MSG SIZE rcvd: ") and int(lines[-1].split()[-1]) > 40
    assert servers.asked == [("alias.example.", "A", "UDP")]


@pytest.mark.parametrize("argv, expected", [
    (["six.example", "aaaa"], ["2001:db8::80"]), (["mail.example", "MX"], ["10 www.example."]),
    (["text.example", "TXT"], ['"hello world"']), (["-x", SERVER], ["server.example."]),
    (["www.example"], ["10.88.0.80", "10.88.0.81"]), (["www.example", "AAAA"], [])])
def test_types(servers, argv, expected):
    done = lookup("--short", "--dns", SERVER, *argv)
    assert (done.returncode, sorted(done.stdout.splitlines())) == (0, expected), done.stderr


def test_no_such_name_is_an_answer(servers):
    done = lookup("nothing.elsewhere", f"@{SERVER}")
    assert done.returncode == 0 and "status: NXDOMAIN" in done.stdout and "IN SOA" in done.stdout


def test_failures_are_shown_as_they_are(servers):
    def refuse(query, response, transport):
        response.set_rcode(dns.rcode.REFUSED)
        return response

    servers.change = refuse
    done = lookup("www.example", f"@{SERVER}")
    assert done.returncode == 0 and "status: REFUSED" in done.stdout


def test_tcp_by_option_and_for_what_is_cut(servers):
    assert f"SERVER: {SERVER}#53 (TCP)" in lookup("--tcp", "www.example", f"@{SERVER}").stdout

    def cut(query, response, transport):
        if transport == "UDP":
            response.flags |= dns.flags.TC
            response.answer = []
        return response

    servers.change = cut
    done = lookup("www.example", f"@{SERVER}")
    assert "(TCP)" in done.stdout and "10.88.0.80" in done.stdout


def test_a_server_by_name_and_with_a_port(servers):
    assert lookup("--short", "--dns", SERVER, "six.example", "AAAA", "@server.example").stdout == "2001:db8::80\n"
    done = lookup("--timeout", "0.2", "www.example", f"@{SERVER}:5353")
    assert done.returncode == 9 and f"{SERVER}#5353" in done.stderr and "no servers could be reached" in done.stderr


def test_silence_is_exit_code_9(servers):
    servers.change = lambda query, response, transport: None
    done = lookup("--timeout", "0.2", "www.example", f"@{SERVER}")
    assert done.returncode == 9 and "timed out" in done.stderr and done.stdout == ""


@pytest.mark.parametrize("argv, why", [
    ([], "NAME"), (["x", "NOTYPE"], "NOTYPE"), (["x", "A", "y"], "'y'"), (["@1.2.3.4"], "name"),
    (["x" * 64 + ".example", "@10.88.0.53"], "x"), (["-x", "nonsense", "@10.88.0.53"], "nonsense")])
def test_what_cannot_be_is_said(runtime, argv, why):
    done = lookup(*argv)
    assert done.returncode in (1, 2) and why in done.stderr and "Traceback" not in done.stderr
