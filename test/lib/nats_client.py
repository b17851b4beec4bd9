#!/usr/bin/python3
"""What tests ask a NATS server: nats_client.py CONNECTION COMMAND ARGUMENT, all in JSON.

CONNECTION: port; user, password.

    request     {"subject": s, "body": JSON}: the answer
    read        {"stream": name}: all messages of a stream, in its order, each a line

It speaks the protocol itself: https://docs.nats.io/reference/reference-protocols/nats-protocol
"""

import base64
import json
import os
import socket
import sys


class Connection:
    """A connection with one inbox."""

    def __init__(self, port, user=None, password=None):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=10)
        self.file = self.socket.makefile("rb")
        self.line()             # INFO
        options = {"verbose": False, "pedantic": False, "headers": True, "no_responders": True,
                   "lang": "test", "version": "0", "name": "test"}
        if user:
            options.update(user=user, **{"pass": password})
        self.inbox = f"_INBOX.{os.urandom(8).hex()}"
        self.send(f"CONNECT {json.dumps(options)}\r\nSUB {self.inbox}.* 1\r\nPING\r\n".encode())
        while self.line() != "PONG":
            pass

    def send(self, data):
        """Write bytes."""
        self.socket.sendall(data)

    def line(self):
        """One line of the protocol; raises where it is an error or the end."""
        line = self.file.readline().decode().rstrip("\r\n")
        if not line or line.startswith("-ERR"):
            raise RuntimeError(line or "connection closed")
        return line

    def message(self):
        """The data of the next message, or None: nobody is there to answer."""
        while True:
            words = self.line().split()
            if words[0] == "PING":
                self.send(b"PONG\r\n")
            if words[0] == "MSG":
                return self.file.read(int(words[-1]) + 2)[:-2]
            if words[0] == "HMSG":
                headers, total = int(words[-2]), int(words[-1])
                data = self.file.read(total + 2)[:-2]
                return None if data.startswith(b"NATS/1.0 503") else data[headers:]

    def request(self, subject, body):
        """Send a request and print its answer, as JSON."""
        self.ask(subject, body)
        print(json.dumps(self.answer()))

    def ask(self, subject, body):
        """Send a request."""
        data = json.dumps(body).encode() if body else b""
        self.send(f"PUB {subject} {self.inbox}.x {len(data)}\r\n".encode() + data + b"\r\n")

    def answer(self):
        """The answer to one."""
        data = self.message()
        if data is None:
            raise RuntimeError("no responders")
        return json.loads(data)

    def read(self, stream):
        """Print the messages of a stream, got by their numbers."""
        self.ask(f"$JS.API.STREAM.INFO.{stream}", {})
        state = self.answer()["state"]
        wanted = range(state["first_seq"], state["last_seq"] + 1)
        for number in wanted:
            self.ask(f"$JS.API.STREAM.MSG.GET.{stream}", {"seq": number})
        for number in wanted:
            answer = self.answer()
            if "error" not in answer:
                print(json.dumps(decode(answer["message"])))


def decode(message):
    """A message as the server shows it, taken apart."""
    lines = base64.b64decode(message.get("hdrs", "")).decode().split("\r\n")[1:]
    headers = dict(line.split(":", 1) for line in lines if line)
    return {"subject": message["subject"], "seq": message["seq"],
            "headers": {name: value.strip() for name, value in headers.items()},
            "body": base64.b64decode(message.get("data", "")).decode()}


def main():
    connection, command, argument = sys.argv[1:]
    getattr(Connection(**json.loads(connection)), command)(**json.loads(argument))


if __name__ == "__main__":
    main()
