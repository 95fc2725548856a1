#!/usr/bin/env python3
"""Recomputes the golden vectors of the ring from the text of the design, on its own.

    ring.py            checks ring.json beside this script; exits 1 on any difference
    ring.py --write    makes it anew

The algorithm, as the design (section 5) says it: token i of a node is the first 8 bytes, big-endian, of
SHA-256("kepler-ring-v1", 0x00, node id, 0x00, i in decimal), i from 0; a node has 512 x capacity /
reference tokens, rounded, 32 to 4,096. The walk goes from the first token at or after the key, wrapping,
ties by node id. Owners are the first N distinct nodes: those in zones not yet used first, then the
rest; a node without a zone is a zone of its own. Fallbacks are the others, clockwise. It is written
the slow, plain way on purpose: nothing here is shared with the implementation.
"""

import hashlib
import json
import pathlib
import sys
from fractions import Fraction
from math import floor

GIB = 1 << 30
FILE = pathlib.Path(__file__).with_name("ring.json")


def sha(*parts):
    return hashlib.sha256(b"".join(parts)).digest()


def first8(digest):
    return int.from_bytes(digest[:8], "big")


def token_count(capacity, reference):
    return max(32, min(4096, floor(Fraction(512 * capacity, reference) + Fraction(1, 2))))


def tokens_of(member, reference):
    return [
        first8(sha(b"kepler-ring-v1", b"\0", member["id"].encode(), b"\0", str(i).encode()))
        for i in range(token_count(member["capacity"], reference))
    ]


def ring_of(case):
    return sorted(
        (token, m["id"]) for m in case["members"] for token in tokens_of(m, case["reference_capacity"])
    )


def clockwise(ring, key):
    """Every distinct node in the order in which the walk from `key` meets it."""
    start = next((i for i, (token, _) in enumerate(ring) if token >= key), 0)
    return list(dict.fromkeys(node for _, node in ring[start:] + ring[:start]))


def preference(case, ring, key, n):
    zone_of = {m["id"]: ("zone", m["zone"]) if m["zone"] is not None else ("node", m["id"]) for m in case["members"]}
    walk = clockwise(ring, key)
    owners, used = [], set()
    for node in walk:
        if len(owners) < n and zone_of[node] not in used:
            owners.append(node)
            used.add(zone_of[node])
    for node in walk:
        if len(owners) < n and node not in owners:
            owners.append(node)
    return owners, [node for node in walk if node not in owners]


def digest(case, ring):
    members = sorted(case["members"], key=lambda m: m["id"])
    index = {m["id"]: i for i, m in enumerate(members)}
    parts = [len(members).to_bytes(4, "big")]
    for m in members:
        zone = b"\0" if m["zone"] is None else b"\1" + m["zone"].encode() + b"\0"
        parts.append(m["id"].encode() + b"\0" + zone)
    parts += [token.to_bytes(8, "big") + index[node].to_bytes(4, "big") for token, node in ring]
    return sha(*parts).hex()


def shares(ring):
    """The keys, of 2^64, whose first owner each node is."""
    keys, previous = {}, ring[-1][0] - (1 << 64)
    for token, node in ring:
        keys[node] = keys.get(node, 0) + token - previous
        previous = token
    return keys


def recompute(case):
    """`case` with everything that follows from its members, keys and replication factor."""
    ring, n = ring_of(case), case["replication_factor"]
    keys = []
    for key in case["keys"]:
        owners, fallbacks = preference(case, ring, int(key["key"], 16), n)
        keys.append({"key": key["key"], "owners": owners, "fallbacks": fallbacks})
    return {
        "name": case["name"],
        "reference_capacity": case["reference_capacity"],
        "replication_factor": n,
        "members": case["members"],
        "token_count": len(ring),
        "first_tokens": [[f"{token:016x}", node] for token, node in ring[:3]],
        "first_owner_keys": {node: str(keys) for node, keys in sorted(shares(ring).items())},
        "digest": digest(case, ring),
        "keys": keys,
    }


def member(name, zone=None, capacity=100 * GIB):
    return {"id": name, "zone": zone, "capacity": capacity}


def cases():
    fifty = [member(f"node-{i}", f"zone-{i % 7}" if i % 5 else None, (20 + 9 * i) * GIB) for i in range(50)]
    sets = [
        ("one node", 3, [member("node-a")]),
        ("two nodes, three replicas", 3, [member("node-a"), member("node-b")]),
        ("three equal nodes", 3, [member(f"node-{c}") for c in "abc"]),
        ("ten equal nodes", 3, [member(f"node-{i}") for i in range(10)]),
        ("three zones of two", 3, [member(f"node-{i}", f"zone-{i % 3}") for i in range(6)]),
        ("one zone and a node of none", 3, [member(f"node-{i}", "eu") for i in range(5)] + [member("lonely")]),
        ("two zones, three replicas", 3, [member(f"n{i}", "ab"[i == 4]) for i in range(5)]),
        (
            "unequal capacity, both clamps",
            2,
            [
                member("tiny", capacity=1),
                member("half", capacity=50 * GIB),
                member("odd", capacity=123_456_789_012),
                member("double", capacity=200 * GIB),
                member("huge", capacity=5000 * GIB),
            ],
        ),
        ("fifty mixed nodes, five replicas", 5, fifty),
    ]
    for name, n, members in sets:
        case = {"name": name, "reference_capacity": 100 * GIB, "replication_factor": n, "members": members}
        ring = ring_of(case)
        middle = ring[len(ring) // 2][0]
        keys = [0, (1 << 64) - 1, ring[0][0], ring[-1][0], middle, middle + 1, middle - 1]
        keys += [first8(sha(b"key", str(i).encode())) for i in range(13)]
        yield recompute(case | {"keys": [{"key": f"{key % (1 << 64):016x}"} for key in keys]})


def main():
    if sys.argv[1:] == ["--write"]:
        FILE.write_text(json.dumps({"cases": list(cases())}, indent=1) + "\n")
        return 0
    stored = json.loads(FILE.read_text())["cases"]
    wrong = [case["name"] for case in stored if recompute(case) != case]
    keys = sum(len(case["keys"]) for case in stored)
    print(f"ring: {len(stored)} member sets, {keys} keys, {len(wrong)} sets differ {wrong or ''}".rstrip())
    return 1 if wrong or not keys else 0


if __name__ == "__main__":
    sys.exit(main())
