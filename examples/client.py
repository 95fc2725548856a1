#!/usr/bin/env python3
"""A client of KeplerFS in Python's standard library: put, get with range, list, delete, events.

usage: KEPLER_URL=http://127.0.0.1:3001 python3 examples/client.py    (KEPLER_TOKEN where one is needed)
"""

import json
import os
import threading
import urllib.parse
import urllib.request


class Kepler:
    def __init__(self, url="http://127.0.0.1:3000", token=None):
        self.url = url.rstrip("/")
        self.headers = {"Kepler-Client": "client.py"}
        if token:
            self.headers["Authorization"] = f"Bearer {token}"
        # Never through a proxy: nodes are near.
        self.opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def _ask(self, method, path, body=None, headers={}, timeout=60):
        request = urllib.request.Request(
            self.url + path, data=body, headers={**self.headers, **headers}, method=method
        )
        return self.opener.open(request, timeout=timeout)  # HTTPError carries the problem document

    @staticmethod
    def _path(name):
        return "/v1/files/" + urllib.parse.quote(name, safe="/+")

    def put(self, name, body, durability="quorum", content_type="application/octet-stream"):
        """Stores bytes, or an open file; returns the receipt."""
        headers = {"Content-Type": content_type}
        with self._ask("PUT", f"{self._path(name)}?durability={durability}", body, headers) as answer:
            return json.load(answer)

    def get(self, name, first=None, last=None):
        """Returns the file's bytes, or those from `first` to `last`, both included."""
        headers = {} if first is None else {"Range": f"bytes={first}-{'' if last is None else last}"}
        with self._ask("GET", self._path(name), headers=headers) as answer:
            return answer.read()

    def list(self, prefix=""):
        """Yields every file whose name begins with `prefix`, a page at a time."""
        query = {"prefix": prefix}
        while True:
            with self._ask("GET", "/v1/files?" + urllib.parse.urlencode(query)) as answer:
                page = json.load(answer)
            yield from page["files"]
            if "next" not in page:
                return
            query["after"] = page["next"]

    def delete(self, name):
        self._ask("DELETE", self._path(name)).close()

    def events(self, connected=None):
        """Yields what happens on the node, from now on; `connected` is set once it listens."""
        with self._ask("GET", "/v1/events") as answer:
            if connected:
                connected.set()
            for line in answer:
                if line.startswith(b"data:"):
                    yield json.loads(line[len(b"data:"):])


def main():
    kepler = Kepler(os.environ.get("KEPLER_URL", "http://127.0.0.1:3000"), os.environ.get("KEPLER_TOKEN"))

    connected, seen = threading.Event(), threading.Event()

    def follow():
        for event in kepler.events(connected):
            if event["type"] == "written" and event["name"] == "python/a b+c.txt":
                print("event:", event)
                return seen.set()

    threading.Thread(target=follow, daemon=True).start()
    assert connected.wait(10), "no stream of events"

    receipt = kepler.put("python/a b+c.txt", b"0123456789" * 1000, content_type="text/plain")
    print("put:", receipt["cid"], receipt["replicas"])
    assert len(kepler.get("python/a b+c.txt")) == 10_000
    assert kepler.get("python/a b+c.txt", 15, 19) == b"56789"
    assert kepler.get("python/a b+c.txt", 9_998) == b"89"
    print("list:", [(file["name"], file["size"]) for file in kepler.list("python/")])
    assert seen.wait(10), "the event of the write did not come"
    kepler.delete("python/a b+c.txt")
    assert list(kepler.list("python/")) == []


if __name__ == "__main__":
    main()
