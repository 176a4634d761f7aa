"""Entry of the processes that run one function of ``bench/_programs/stacks.pyx``."""

from bench import build


def call(name, arguments):
    """Run it; what it returns is a dictionary of plain numbers."""
    return getattr(build.cython_program("stacks"), name)(**arguments)
