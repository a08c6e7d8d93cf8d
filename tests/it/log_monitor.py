"""Reads a log as C2SP tlog-tiles over HTTP, written from c2sp.org/tlog-tiles, /tlog-checkpoint, /signed-note and RFC 6962 alone.

usage: log_monitor.py http://HOST:PORT/log VKEY-FILE KEPT
Fetches the checkpoint, every tile and every entry bundle, and computes the log from its entries alone. KEPT holds the last
checkpoint seen, when there was one; the log must go on from it. Prints `ok SIZE`, and `erased` with the bundles that answer 410,
or `refused: why`.
"""
import base64
import hashlib
import os
import sys
import urllib.error
import urllib.request

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey


class Refused(Exception):
    pass


def need(condition, why):
    if not condition:
        raise Refused(why)


def fetch(url):
    """Status and body."""
    try:
        with urllib.request.urlopen(url, timeout=20) as reply:
            return reply.status, reply.read()
    except urllib.error.HTTPError as error:
        return error.code, b""


def opened(note, vkey):
    """Size and root of a checkpoint that the key signed."""
    name, key_id, encoded = vkey.split("+", 2)
    key = base64.b64decode(encoded, validate=True)
    need(key[0] == 1, "not an Ed25519 key")
    body, _, signatures = note.rpartition("\n\n")
    body += "\n"
    good = False
    for line in signatures.splitlines():
        dash, who, blob = line.split(" ")
        raw = base64.b64decode(blob, validate=True)
        if dash == "\u2014" and who == name and raw[:4].hex() == key_id:
            try:
                Ed25519PublicKey.from_public_bytes(key[1:]).verify(raw[4:], body.encode())
                good = True
            except InvalidSignature as error:
                raise Refused("signature") from error
    need(good, "not signed by the key")
    origin, size, root = body.split("\n")[:3]
    need(origin == name, "origin")
    return int(size), base64.b64decode(root, validate=True)


def leaf(entry):
    return hashlib.sha256(b"\x00" + entry).digest()


def tree(hashes):
    """RFC 6962 section 2.1 over hashes of leaves or of complete subtrees of one height."""
    if not hashes:
        return hashlib.sha256().digest()
    if len(hashes) == 1:
        return hashes[0]
    k = 1 << ((len(hashes) - 1).bit_length() - 1)
    return hashlib.sha256(b"\x01" + tree(hashes[:k]) + tree(hashes[k:])).digest()


def place(number, width):
    """tlog-tiles: `x001/x234/067`, and `.p/W` for a partial tile."""
    groups = [f"{number % 1000:03}"]
    while number >= 1000:
        number //= 1000
        groups.insert(0, f"x{number % 1000:03}")
    return "/".join(groups) + (f".p/{width}" if width < 256 else "")


def tiles(count):
    """Number and width of every tile over so many hashes."""
    return [(first // 256, min(256, count - first)) for first in range(0, count, 256)]


def read_log(url, size):
    """All leaf hashes, each tile compared with what lies below it; and the bundles that are gone."""
    leaves, erased = [], []
    for number, width in tiles(size):
        status, tile = fetch(f"{url}/tile/0/{place(number, width)}")
        need(status == 200 and len(tile) == width * 32, f"tile 0/{number}")
        hashes = [tile[at : at + 32] for at in range(0, len(tile), 32)]
        status, bundle = fetch(f"{url}/tile/entries/{place(number, width)}")
        if status == 410:
            erased.append(number)
        else:
            need(status == 200, f"bundle {number}")
            for expected in hashes:
                length = int.from_bytes(bundle[:2], "big")
                need(len(bundle) >= 2 + length, f"bundle {number} is short")
                need(leaf(bundle[2 : 2 + length]) == expected, f"an entry of bundle {number}")
                bundle = bundle[2 + length :]
            need(not bundle, f"bundle {number} is long")
        leaves += hashes
    level, below = 1, leaves
    while len(below) >= 256:
        below = [tree(below[at : at + 256]) for at in range(0, len(below) - 255, 256)]
        for number, width in tiles(len(below)):
            status, tile = fetch(f"{url}/tile/{level}/{place(number, width)}")
            expected = b"".join(below[number * 256 : number * 256 + width])
            need(status == 200 and tile == expected, f"tile {level}/{number}")
        level += 1
    for beyond in (f"0/{place(size // 256, size % 256 + 1)}", f"0/{place(size // 256 + 1, 1)}", f"{level}/000.p/1"):
        need(fetch(f"{url}/tile/{beyond}")[0] == 404, f"tile {beyond} is beyond the log")
    return leaves, erased


def main():
    url, vkey, kept = sys.argv[1], open(sys.argv[2], encoding="utf-8").read().strip(), sys.argv[3]
    try:
        status, note = fetch(f"{url}/checkpoint")
        need(status == 200, "no checkpoint")
        size, root = opened(note.decode(), vkey)
        leaves, erased = read_log(url, size)
        need(tree(leaves) == root, "the root does not follow from the tiles")
        if os.path.exists(kept):
            old_size, old_root = opened(open(kept, encoding="utf-8", newline="").read(), vkey)
            need(old_size <= size, f"the log shrank from {old_size} to {size} entries")
            need(tree(leaves[:old_size]) == old_root, "the history was rewritten")
        with open(kept, "w", encoding="utf-8", newline="") as file:
            file.write(note.decode())
        print(f"ok {size}" + "".join(f" erased {number}" for number in erased))
    except Refused as why:
        print(f"refused: {why}")


main()
