"""asyncio on stacks: an event loop whose transports stand straight on a host's sockets.

The loop itself drives its hosts while it sleeps (`netstack.pollers`), so a packet that comes wakes one thread, and no
descriptor is made or flipped for a socket. Connections of the kernel work beside it as ever.

>>> asyncio.run(main(), loop_factory=netstack.aio.new_event_loop)                 # 3.12 and newer   doctest: +SKIP
>>> with asyncio.Runner(loop_factory=netstack.aio.new_event_loop) as runner:      # 3.11             doctest: +SKIP
...     runner.run(main())
>>> netstack.aio.new_event_loop().run_until_complete(main())                      # 3.10             doctest: +SKIP
"""

from netstack.aio.connecting import create_connection, open_connection, start_server
from netstack.aio.loop import EventLoop, LoopMixin, new_event_loop

__all__ = ["EventLoop", "LoopMixin", "create_connection", "new_event_loop", "open_connection", "start_server"]
