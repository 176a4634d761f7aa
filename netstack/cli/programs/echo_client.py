"""Median round trip of 64 bytes: ``echo_client.py ADDRESS PORT COUNT``. Prints one line of JSON."""

import json
import socket
import statistics
import sys
import time


def connect_patiently(address, seconds=20.0):
    until = time.monotonic() + seconds
    while True:
        try:
            return socket.create_connection(address, timeout=30)
        except ConnectionRefusedError:
            if time.monotonic() > until:
                raise
            time.sleep(0.05)


def main(address, port, count):
    message = bytes(64)
    times = []
    with connect_patiently((address, port)) as s:
        s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for _ in range(count):
            start = time.perf_counter()
            s.sendall(message)
            missing = len(message)
            while missing:
                missing -= len(s.recv(missing)) or sys.exit("the server closed the connection")
            times.append(time.perf_counter() - start)
    print(json.dumps({"rtt_us": statistics.median(times) * 1e6}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
