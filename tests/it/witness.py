"""A witness, written from c2sp.org/tlog-cosignature and /signed-note alone.

usage: witness.py NAME SEED-HEX PROOF-OR-CHECKPOINT
Appends its cosignature of the checkpoint at the end of the file, and prints its verifier key.
"""
import base64
import hashlib
import sys
import time

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

name, path = sys.argv[1], sys.argv[3]
key = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(sys.argv[2]))
raw = serialization.Encoding.Raw, serialization.PublicFormat.Raw
public = b"\x04" + key.public_key().public_bytes(*raw)
key_id = hashlib.sha256(name.encode() + b"\n" + public).digest()[:4]
with open(path, encoding="utf-8", newline="") as file:
    text = file.read()
# A proof has its checkpoint behind the first empty line; a note its text before the last one.
note = text.partition("\n\n")[2] if text.startswith("c2sp.org/tlog-proof@v1\n") else text
body = note.rpartition("\n\n")[0] + "\n"
now = int(time.time())
signature = key.sign(f"cosignature/v1\ntime {now}\n{body}".encode())
line = base64.b64encode(key_id + now.to_bytes(8, "big") + signature).decode()
with open(path, "a", encoding="utf-8", newline="") as file:
    file.write(f"\u2014 {name} {line}\n")
print(f"{name}+{key_id.hex()}+{base64.b64encode(public).decode()}")
