"""Checks a file, its proof and its state proof as docs/FORMAT.md tells a stranger to; C2SP parts are proof_checker.py's.

usage: format_checker.py VKEY-FILE CONTENT PROOF STATE...
Prints for each state proof `ok OPERATION PATH STANDING BLOCK`, where the standing is current, replaced or absent, or `refused: why`.
"""
import hashlib
import sys

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from proof_checker import Refused, b64, check_note, leaf_hash, need, number, root_from_path

ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
EMPTY = b"SPARSE_MERKLE_PLACEHOLDER_HASH__"


def sha256(*parts):
    return hashlib.sha256(b"".join(parts)).digest()


class Reader:
    """Borsh, section 1."""

    def __init__(self, data):
        self.data, self.at = data, 0

    def take(self, count):
        need(self.at + count <= len(self.data), "cut short")
        self.at += count
        return self.data[self.at - count : self.at]

    def uint(self, size):
        return int.from_bytes(self.take(size), "little")

    def bytes(self):
        return self.take(self.uint(4))

    def opt(self, read):
        tag = self.uint(1)
        need(tag in (0, 1), "option")
        return read() if tag else None

    def end(self):
        need(self.at == len(self.data), "trailing bytes")


def content(r):
    """Section 2, `content`: kind, size and hashes, or kind and target."""
    kind = r.uint(1)
    need(kind in (0, 1), "content")
    if kind == 1:
        return ("symlink", r.bytes())
    return ("file", r.uint(8), r.opt(lambda: (r.take(32), r.take(32))))


def state(r):
    path, what = r.bytes(), content(r)
    mode, uid, gid, mtime, evidence = r.uint(4), r.uint(4), r.uint(4), r.uint(8), r.uint(1)
    need(mode <= 0o7777 and evidence <= 2, "state")
    return path, what


def transaction(data):
    """Section 2: what a transaction about a file says, its author's signature checked; or a coinbase."""
    r = Reader(data)
    need(r.uint(1) == 1, "version")
    chain, envelope = r.take(32), r.uint(1)
    if envelope == 2:
        found = {"op": "coinbase", "height": r.uint(8), "block": r.take(32), "state": r.take(32)}
        r.take(20), r.uint(8)
        r.end()
        return chain, found
    need(envelope == 0, "not about a file")
    author = r.take(64)
    r.take(8 + 8 + 16)
    need(r.uint(1) == 3, "not about a file")
    bucket = r.take(32)
    r.uint(8)
    need(r.uint(1) <= 4, "cause")
    r.opt(lambda: r.take(32)), r.opt(lambda: r.take(32))
    op = r.uint(1)
    found = {"bucket": bucket}
    if op in (1, 7):
        found["op"] = "put" if op == 1 else "accept"
        found["path"], found["content"] = state(r)
    elif op == 2 or op == 6:
        found["op"], found["path"] = ("remove" if op == 2 else "rmdir"), r.bytes()
    elif op == 3:
        found["op"], found["path"], found["to"] = "rename", r.bytes(), r.bytes()
    else:
        raise Refused("operation")
    signature = r.take(64)
    r.end()
    check_signature(author, data[:-64], signature)
    return chain, found


def check_signature(author, message, signature):
    """Sections 1 and 2: ECDSA r||s over SHA-256, s in the lower half."""
    low, high = (int.from_bytes(half, "big") for half in (signature[:32], signature[32:]))
    need(0 < high <= ORDER // 2, "s is not in the lower half")
    try:
        key = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256K1(), b"\x04" + author)
        key.verify(encode_dss_signature(low, high), b"wizefs tx v1\x00" + message, ec.ECDSA(hashes.SHA256()))
    except (InvalidSignature, ValueError) as error:
        raise Refused("author's signature") from error


def proven(text, vkey):
    """Section 8, first kind: log index, txid, transaction, checkpoint."""
    head, _, note = text.partition("\n\n")
    lines = head.split("\n")
    need(lines[0] == "c2sp.org/tlog-proof@v1" and len(lines) > 2, "first line")
    need(lines[1].startswith("extra ") and lines[2].startswith("index "), "extra and index")
    entry, index = b64(lines[1][6:]), number(lines[2][6:])
    path = [b64(line) for line in lines[3:]]
    need(all(len(p) == 32 for p in path), "hash length")
    size, root = check_note(note, vkey)
    txid = leaf_hash(entry)
    need(root_from_path(index, size, txid, path) == root, "log root")
    chain, said = transaction(entry)
    need(note.startswith(f"wizefs.invalid/{chain.hex()}\n"), "another chain")
    return index, txid, said, (size, root)


def bit(key, at):
    return key[at // 8] >> (7 - at % 8) & 1


def check_row(row, kind, siblings, root):
    """Section 6, and the rule of section 8 for a row."""
    key, depth = sha256(b"wizefs state v1\x00", row), len(siblings)
    if kind[0] == "value":
        found = sha256(b"JMT::LeafNode", key, sha256(kind[1]))
    elif kind[0] == "empty":
        found = EMPTY
    else:
        _, other, value = kind
        need(len(other) == 32 and len(value) == 32 and other != key, "other")
        need(all(bit(other, at) == bit(key, at) for at in range(depth)), "other is elsewhere")
        found = sha256(b"JMT::LeafNode", other, value)
    for up, sibling in enumerate(siblings):
        pair = (sibling, found) if bit(key, depth - 1 - up) else (found, sibling)
        found = sha256(b"JMT::IntrnalNode", *pair)
    need(found == root, "state root")
    return kind[1] if kind[0] == "value" else None


def rows_of(lines):
    rows = []
    for line in lines:
        words = line.split(" ")
        if words[0] == "row":
            need(len(words) > 2, "row")
            row, kind = b64(words[1]), words[2]
            need((kind, len(words)) in (("value", 4), ("empty", 3), ("other", 5)), "row")
            rows.append((row, (kind, *map(b64, words[3:])), []))
        else:
            need(rows and len(words) == 1 and len(b64(line)) == 32, "hash")
            rows[-1][2].append(b64(line))
    return rows


def bucket_is_open(value):
    r = Reader(value)
    need(r.uint(1) == 1, "bucket")
    r.bytes(), r.uint(1), r.take(64), r.opt(lambda: r.uint(4))
    closed = r.uint(1)
    r.end()
    return closed == 0


def entry_of(value):
    """Section 6, `entry`: the transaction that recorded the content, and a directory's id."""
    r = Reader(value)
    need(r.uint(1) == 1, "entry")
    txid, kind = r.take(32), r.uint(1)
    if kind == 1:
        directory = r.take(32)
        r.opt(lambda: r.uint(4))
        r.end()
        return txid, directory
    need(kind == 0, "entry")
    put = r.opt(lambda: r.take(32))
    r.uint(1), content(r), r.take(4 + 4 + 4 + 8 + 1)
    r.end()
    return put or txid, None


def standing(text, vkey):
    """Section 8, state proofs: block, bucket, path, checkpoint, and the transaction of the content there or none."""
    head, mark, rest = text.partition("\n\n")
    need(mark, "no empty line")
    lines = head.split("\n")
    need(lines[0] == "wizefs.invalid/state-proof@v1" and len(lines) > 4, "first line")
    fields = [line.partition(" ") for line in lines[1:4]]
    need([field[0] for field in fields] == ["block", "bucket", "path"], "fields")
    block, path = number(fields[0][2]), b64(fields[2][2])
    need(len(fields[1][2]) == 64 and not fields[1][2].strip("0123456789abcdef"), "bucket")
    bucket = bytes.fromhex(fields[1][2])
    _, _, coinbase, checkpoint = proven(rest, vkey)
    need(coinbase["op"] == "coinbase" and coinbase["height"] == block + 1, "coinbase")
    rows = rows_of(lines[4:])
    values = [check_row(*row, coinbase["state"]) for row in rows]
    need(rows[0][0] == b"b" + bucket, "the bucket's row")
    found, used = None, 1
    if values[0] is not None and bucket_is_open(values[0]):
        directory = bucket
        for place, name in enumerate(path.split(b"/"), 1):
            need(directory is not None and place < len(rows), "rows")
            need(rows[place][0] == b"e" + bucket + directory + name, "an entry's row")
            used, found, directory = place + 1, None, None
            if values[place] is None:
                break
            found, directory = entry_of(values[place])
            if directory is None and place < path.count(b"/") + 1:
                found = None
                break
    need(used == len(rows), "more rows")
    return block, bucket, path, checkpoint, found


def check(file, proof, state_proof, vkey):
    _, txid, said, checkpoint = proven(proof, vkey)
    need(said["op"] != "coinbase", "a coinbase")
    if "content" in said:
        need(said["content"][0] == "file" and said["content"][2], "no hashed file")
        need(said["content"][1:2] == (len(file),) and said["content"][2][1] == sha256(file), "another content")
    block, bucket, path, beside, found = standing(state_proof, vkey)
    need(beside == checkpoint, "another checkpoint")
    need((bucket, path) == (said["bucket"], said["path"]), "another path")
    stands = "absent" if found is None else "current" if found == txid else "replaced"
    return f"ok {said['op']} {path.decode()} {stands} {block}"


def main():
    text = lambda name: open(name, encoding="utf-8", newline="").read()
    vkey, file, proof = text(sys.argv[1]).strip(), open(sys.argv[2], "rb").read(), text(sys.argv[3])
    for name in sys.argv[4:]:
        try:
            print(check(file, proof, text(name), vkey))
        except (Refused, UnicodeDecodeError) as why:
            print(f"refused: {why}")


if __name__ == "__main__":
    main()
