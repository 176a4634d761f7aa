"""What a router writes down of its promises, and what the next one makes of it."""

import os
import stat

import pytest

from netstack.errors import AddressTakenError
from netstack.router.journal import Journal, digest_of
from netstack.router.pool import HOLD_NS, AddressPool, pack_address

TOKEN = bytes(range(16))


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "default.leases")


def pool_with(path, clock=lambda: 0, network="10.77.0.0/16"):
    """A pool as a router makes it: it begins with what the router before it left."""
    pool = AddressPool(network, clock=clock)
    pool.journal = Journal(path)
    for text, (uid, epoch, digest) in pool.journal.load().leases.items():
        pool.restore(pack_address(text), digest, uid, epoch)
    return pool


def lines(path):
    with open(path) as file:
        return file.read().splitlines()


def test_the_next_router_holds_the_addresses_for_their_owners(path):
    before = pool_with(path)
    got, _ = before.lease("a", 1000, token=TOKEN)
    other, _ = before.lease("b", 1000, token=b"x" * 16)
    gone, _ = before.lease("c", 1000)
    before.release(gone.address, "c")

    now = [5]
    pool = pool_with(path, clock=lambda: now[0])              # the one before never said goodbye
    assert len(pool) == 2
    for uid, token in ((1000, None), (1000, b"x" * 16), (1001, TOKEN)):
        with pytest.raises(AddressTakenError, match="held"):
            pool.lease("thief", uid, got.address, token)
    assert pool.lease("d", 1000)[0].address == gone.address, "who asks for any gets none that is held"
    back, previous = pool.lease("a again", 1000, got.address, TOKEN)
    assert previous is None and back.epoch == 2
    now[0] += HOLD_NS
    assert pool.expire() == [other.address] and len(pool) == 2
    assert pool.lease("e", 1001, other.address)[0].owner == "e"


def test_what_was_restored_is_remembered_by_the_router_after_that_too(path):
    got, _ = pool_with(path).lease("a", 1000, token=TOKEN)
    pool_with(path)
    third = pool_with(path)
    with pytest.raises(AddressTakenError):
        third.lease("thief", 1000, got.address)
    assert third.lease("a", 1000, got.address, TOKEN)[0].epoch == 2


def test_neither_tokens_nor_other_users_are_in_it(path):
    pool_with(path).lease("a", 1000, token=TOKEN)
    text = "\n".join(lines(path))
    assert TOKEN.hex() not in text and digest_of(TOKEN) in text
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600


@pytest.mark.parametrize("kept", range(0, 110, 7))
def test_a_line_that_was_cut_off_is_passed_over(path, kept):
    pool = pool_with(path)
    first, _ = pool.lease("a", 1000, token=TOKEN)
    size = os.path.getsize(path)
    pool.lease("b", 1000)
    os.truncate(path, min(size + kept, os.path.getsize(path) - 1))
    assert list(Journal(path).load().leases) == ["10.77.0.2"]
    assert len(pool_with(path)) == 1


@pytest.mark.parametrize("rubbish", [b"\xff" * 100 + b"\n", b"+ 10.77.0.2 0 1 abc\n", b"- \n", b"p 0\n", b"\n",
                                     b"+ x 1 1 " + b"0" * 64 + b"\n", b"p a b c\n"])
def test_rubbish_is_passed_over(path, rubbish):
    pool_with(path).lease("a", 1000, token=TOKEN)
    with open(path, "ab") as file:
        file.write(rubbish)
    assert list(Journal(path).load().leases) == ["10.77.0.2"]


def test_addresses_of_another_pool_are_not_restored(path):
    pool_with(path).lease("a", 1000, token=TOKEN)
    assert len(pool_with(path, network="10.78.0.0/16")) == 0


def test_it_is_written_anew_before_it_grows_without_end(path, monkeypatch):
    monkeypatch.setattr("netstack.router.journal.REWRITE_LINES", 10)
    pool = pool_with(path)
    kept, _ = pool.lease("kept", 1000, token=TOKEN)
    for _ in range(100):
        got, _ = pool.lease("a", 1000)
        pool.release(got.address, "a")
        assert len(lines(path)) <= 16
    assert list(Journal(path).load().leases) == ["10.77.0.2"]
    assert not os.path.exists(path + ".new")


def test_a_journal_that_cannot_be_written_is_no_journal(path):
    pool = pool_with(path)
    pool.lease("a", 1000, token=TOKEN)
    os.close(pool.journal._fd)
    pool.journal._fd = os.open("/dev/full", os.O_WRONLY)
    got, _ = pool.lease("b", 1000)
    assert pool.journal.broken and not os.path.exists(path)
    pool.release(got.address, "b")                              # the router goes on


def test_a_link_in_its_place_is_not_followed(path, tmp_path):
    target = tmp_path / "target"
    target.write_text("mine")
    os.symlink(target, path)
    with pytest.raises(OSError, match="symbolic"):
        Journal(path).load()
    assert target.read_text() == "mine"


def test_ports_that_several_have_are_taken_until_the_last_gives_them_back(path):
    journal = Journal(path)
    digest = digest_of(TOKEN)
    journal.note(f"s 1000 {digest}", "p 0 80 1000", "p 0 80 1000", "p 1 53 1000", "P 0 80", "P 1 53")
    found = Journal(path).load()
    assert found.ports == {(0, 80): 1} and found.users == {(0, 80): 1000} and found.sharers == {(1000, digest)}
    journal.note("P 0 80", f"S 1000 {digest}")
    journal.rewrite()
    assert lines(path) == []
    journal.close()
    assert not os.path.exists(path)
