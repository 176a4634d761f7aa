"""Routers of these tests live in a folder of their own, as those of tests/router."""

from tests.router.conftest import backend, runtime  # noqa: F401
