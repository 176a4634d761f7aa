from netstack import aio as aio
from netstack import key_log as key_log
from netstack import link as link
from netstack import socket as socket
from netstack import testing as testing
from netstack import tls as tls
from netstack.host import Host as Host
from netstack.host import attach as attach
from netstack.patching import patch as patch
from netstack.patching import replaced as replaced
from netstack.patching import stale_references as stale_references
from netstack.router import Router as Router
from netstack.stack import Stack as Stack

patched = replaced
__version__: str
def get_include() -> str: ...
