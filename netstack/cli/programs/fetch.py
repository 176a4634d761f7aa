"""Fetch a URL and hash it: ``fetch.py URL``. Prints a line of JSON now and then, the last one with the SHA-256."""

import hashlib
import json
import sys
import time
import urllib.error
import urllib.request


def open_patiently(url, seconds=20.0):
    """The server may still be starting."""
    until = time.monotonic() + seconds
    while True:
        try:
            return urllib.request.urlopen(url, timeout=30)
        except urllib.error.URLError as error:
            if not isinstance(error.reason, ConnectionRefusedError) or time.monotonic() > until:
                raise
            time.sleep(0.05)


def main(url):
    digest = hashlib.sha256()
    buffer = memoryview(bytearray(1 << 20))
    done = 0
    moving = 0.0
    with open_patiently(url) as response:
        told = time.monotonic()
        while True:
            before = time.perf_counter()
            n = response.readinto(buffer)
            now = time.perf_counter()
            moving += now - before
            if not n:
                break
            digest.update(buffer[:n])
            done += n
            if time.monotonic() - told > 0.2:
                told = time.monotonic()
                print(json.dumps({"bytes": done}), flush=True)
    print(json.dumps({"bytes": done, "seconds": moving, "sha256": digest.hexdigest()}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
