"""Congestion control: every module of this package is imported, and registers the algorithm it holds."""

import importlib
import pkgutil

for _module in pkgutil.iter_modules(__path__, __name__ + "."):
    importlib.import_module(_module.name)
