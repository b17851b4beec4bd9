#!/usr/bin/python3
"""Who may log in to a NATS server by tokens: nats_jwt.py DIRECTORY.

An operator, two accounts of his and a user of the second one, as decentralized
authentication of NATS has them; openssl makes the keys and signs. It writes a
configuration for the server, and prints public key, seed and token of the user, and
a token for the same user from an account that the operator does not know.
"""

import base64
import binascii
import json
import subprocess
import sys
from pathlib import Path

OPERATOR, ACCOUNT, USER = 14 << 3, 0, 20 << 3
SEED = 18 << 3
NO_LIMITS = dict.fromkeys(("subs", "data", "payload"), -1)


def openssl(*arguments, data=None):
    """What openssl prints."""
    return subprocess.run(["openssl", *arguments], input=data, check=True,
                          stdout=subprocess.PIPE).stdout


def encode(data):
    """Bytes as NATS writes keys: with a checksum, in base 32."""
    return base64.b32encode(data + binascii.crc_hqx(data, 0).to_bytes(2, "little")).decode().rstrip("=")


def part(data):
    """A part of a token."""
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


class Key:
    """A pair of keys of one kind."""

    def __init__(self, directory, kind, name):
        self.file = directory / f"{name}.key"
        self.file.write_bytes(openssl("genpkey", "-algorithm", "ed25519"))
        private = openssl("pkey", "-in", str(self.file), "-outform", "DER")
        public = openssl("pkey", "-in", str(self.file), "-pubout", "-outform", "DER")
        self.kind, self.name = kind, name
        self.public = encode(bytes([kind]) + public[-32:])
        self.seed = encode(bytes([SEED | kind >> 5, (kind & 31) << 3]) + private[-32:])

    def vouch(self, other, claims):
        """A token for another key, signed by this one."""
        body = {"jti": other.name, "iat": 1700000000, "iss": self.public, "name": other.name,
                "sub": other.public, "nats": {"version": 2, **claims}}
        text = ".".join(part(json.dumps(p).encode()) for p in
                        ({"typ": "JWT", "alg": "ed25519-nkey"}, body))
        signed = self.file.with_suffix(".signed")
        signed.write_text(text)
        return text + "." + part(openssl("pkeyutl", "-sign", "-rawin", "-inkey", str(self.file),
                                         "-in", str(signed)))


def main():
    directory = Path(sys.argv[1])
    operator = Key(directory, OPERATOR, "operator")
    system, shop, stranger = (Key(directory, ACCOUNT, name) for name in ("system", "shop", "stranger"))
    user = Key(directory, USER, "user")
    unlimited = {"type": "account", "limits": {
        **NO_LIMITS, "imports": -1, "exports": -1, "wildcards": True, "conn": -1, "leaf": -1,
        "mem_storage": -1, "disk_storage": -1, "streams": -1, "consumer": -1}}
    system_token = operator.vouch(system, {**unlimited, "limits": {
        k: v for k, v in unlimited["limits"].items() if "storage" not in k and k not in ("streams", "consumer")}})
    (directory / "operator.conf").write_text(f"""\
operator: {operator.vouch(operator, {"type": "operator"})}
system_account: {system.public}
resolver: MEMORY
resolver_preload {{
    {system.public}: {system_token}
    {shop.public}: {operator.vouch(shop, unlimited)}
}}
""", encoding="utf-8")
    print(user.public, user.seed, *(account.vouch(user, {"type": "user", "pub": {}, "sub": {}, **NO_LIMITS})
                                    for account in (shop, stranger)))


main()
