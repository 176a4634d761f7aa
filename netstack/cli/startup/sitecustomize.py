"""The first thing a Python program under ``netstack run`` does: put a stack under its ``socket`` module.

It stands in front of the ``sitecustomize`` that the installation may have, and runs that one afterwards.
"""

import os
import sys


def _begin():
    here = os.path.dirname(os.path.abspath(__file__))
    package = os.path.dirname(os.path.dirname(here))
    try:
        import netstack
    except ImportError:
        sys.path.append(os.path.dirname(package))
        import netstack
    if not os.path.samefile(os.path.dirname(netstack.__file__), package):
        raise ImportError(f"another netstack is in the way: {netstack.__file__}")
    from netstack.cli.inside import begin

    begin()


def _next():
    """Run the sitecustomize that this one hides."""
    import importlib.machinery
    import importlib.util

    here = os.path.dirname(os.path.abspath(__file__))
    others = [p for p in sys.path if os.path.abspath(p or ".") != here]
    spec = importlib.machinery.PathFinder.find_spec("sitecustomize", others)
    if spec is not None and spec.loader is not None:
        module = importlib.util.module_from_spec(spec)
        sys.modules["sitecustomize"] = module
        spec.loader.exec_module(module)


if os.environ.get("NETSTACK_RUN"):
    try:
        _begin()
    except Exception as error:
        # Going on would put the program on the kernel's network unseen.
        sys.exit(f"netstack run: {sys.executable} cannot have a stack: {error}")
_next()
