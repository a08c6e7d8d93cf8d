"""Checks C2SP tlog-proof files, written from c2sp.org/tlog-proof, /tlog-checkpoint, /signed-note and RFC 6962/9162 alone.

usage: proof_checker.py VKEY CONTENT PROOF...
Prints `ok` or `refused: why` for each proof: that the log's key signed a checkpoint of a log whose entry at the stated
index is the extra data, and that the extra data holds the SHA-256 of CONTENT.
"""
import base64
import hashlib
import sys

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey


class Refused(Exception):
    pass


def need(condition, why):
    if not condition:
        raise Refused(why)


def b64(text):
    try:
        raw = base64.b64decode(text, validate=True)
    except ValueError as error:
        raise Refused("base64") from error
    need(base64.b64encode(raw).decode() == text, "base64 is not canonical")
    return raw


def number(text):
    need(text.isascii() and text.isdigit() and (text == "0" or text[0] != "0"), "number")
    return int(text)


def leaf_hash(entry):
    return hashlib.sha256(b"\x00" + entry).digest()


def node_hash(left, right):
    return hashlib.sha256(b"\x01" + left + right).digest()


def root_from_path(index, size, leaf, path):
    """RFC 9162 section 2.1.3.2."""
    need(index < size, "index is not in the log")
    fn, sn, r = index, size - 1, leaf
    for p in path:
        need(sn != 0, "path too long")
        if fn & 1 or fn == sn:
            r = node_hash(p, r)
            while not fn & 1 and fn != 0:
                fn >>= 1
                sn >>= 1
        else:
            r = node_hash(r, p)
        fn >>= 1
        sn >>= 1
    need(sn == 0, "path too short")
    return r


def check_note(note, vkey):
    """The origin, size and root of a checkpoint that `vkey` signed."""
    name, key_id, encoded = vkey.split("+", 2)
    key = b64(encoded)
    need(key[0] == 1 and len(key) == 33, "not an Ed25519 key")
    expected = hashlib.sha256(name.encode() + b"\n\x01" + key[1:]).digest()[:4]
    need(expected.hex() == key_id, "key id")
    body, _, signatures = note.rpartition("\n\n")
    need(body and signatures.endswith("\n"), "not a signed note")
    body += "\n"
    signed = False
    for line in signatures[:-1].split("\n"):
        need(line.startswith("\u2014 ") and line.count(" ") == 2, "signature line")
        _, who, blob = line.split(" ")
        raw = b64(blob)
        if who == name and raw[:4] == expected:
            try:
                Ed25519PublicKey.from_public_bytes(key[1:]).verify(raw[4:], body.encode())
            except InvalidSignature as error:
                raise Refused("signature") from error
            signed = True
    need(signed, "not signed by the key")
    origin, size, root = body.split("\n")[:3]
    need(origin == name, "origin")
    root = b64(root)
    need(len(root) == 32, "root")
    return number(size), root


def check(text, vkey, digest):
    head, _, note = text.partition("\n\n")
    lines = head.split("\n")
    need(lines[0] == "c2sp.org/tlog-proof@v1", "first line")
    need(len(lines) > 2 and lines[1].startswith("extra ") and lines[2].startswith("index "), "extra and index")
    entry, index = b64(lines[1][6:]), number(lines[2][6:])
    path = [b64(line) for line in lines[3:]]
    need(all(len(p) == 32 for p in path), "hash length")
    size, root = check_note(note, vkey)
    need(root_from_path(index, size, leaf_hash(entry), path) == root, "root")
    need(digest in entry, "another content")


def main():
    vkey = open(sys.argv[1], encoding="utf-8").read().strip()
    digest = hashlib.sha256(open(sys.argv[2], "rb").read()).digest()
    for name in sys.argv[3:]:
        try:
            with open(name, encoding="utf-8", newline="") as proof:
                check(proof.read(), vkey, digest)
            print("ok")
        except (Refused, UnicodeDecodeError) as why:
            print(f"refused: {why}")


if __name__ == "__main__":
    main()
