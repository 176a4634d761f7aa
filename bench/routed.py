"""Runs one function of ``bench/_programs/stacks.pyx`` between two attachments of a router in this process."""

from bench import build


def call(name, arguments):
    """Make a router and two attachments, run, take all down."""
    from netstack.router.router import Router

    program = build.cython_program("stacks")
    program.set_polite(True)                           # two stacks and the router's thread: three parties
    with Router() as router, router.attach() as one, router.attach() as two:
        return getattr(program, name)(links=(one.link, two.link), addresses=(one.address, two.address), **arguments)
