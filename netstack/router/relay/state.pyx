"""The names of what a relay counts, for Python: see state.pxd."""
