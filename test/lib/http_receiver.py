#!/usr/bin/env python3
"""A receiver of events by HTTP for tests, as well or as badly behaved as an event asks for.

Usage: http_receiver.py LOGFILE [CERTIFICATE KEY]

Listens on a free port of 127.0.0.1, prints the port, and serves until its standard input ends.  Member "do" of an
event's payload is a list of what to do at each attempt; behind its end, and without it, 204.  Each request becomes a
line of JSON in the log when it has been read, and one when it has been answered.

    status N [SECONDS]   answer with the status, and Retry-After if given
    slow SECONDS         answer 204 after that time
    hang                 never answer
    reset                end the connection without an answer
    cut                  end it in the middle of the headers of a 200
    lie                  200 with a Content-Length that is longer than what comes
    endless              200 and a body that never ends
    headers              200 and headers that never end
    redirect URL         307 to another place
    garbage              something that is no HTTP
"""
import json
import socket
import socketserver
import ssl
import struct
import sys
import threading
import time

lock = threading.Lock()
attempts = {}
under_way = {}


def note(log, **what):
    with lock:
        log.write(json.dumps({"at": time.time(), **what}) + "\n")
        log.flush()


class Receiver(socketserver.StreamRequestHandler):
    def handle(self):
        try:
            while self.one_request():
                pass
        except (ConnectionError, ssl.SSLError, OSError):
            pass

    def read_request(self):
        line = self.rfile.readline().decode("latin-1")
        if not line:
            return None
        headers = {}
        while (field := self.rfile.readline().decode("latin-1").rstrip("\r\n")):
            name, _, value = field.partition(":")
            headers.setdefault(name.strip().lower(), value.strip())
        length = int(headers.get("content-length", 0))
        body = self.rfile.read(length)
        if len(body) < length:      # the sender is gone, or was cut off
            return None
        return line.split(), headers, body.decode("utf-8")

    def one_request(self):
        request = self.read_request()
        if request is None:
            return False
        (method, path, _), headers, body = request
        event = headers.get("ce-id", "")
        key = headers.get("ce-subject", "")
        with lock:
            attempt = attempts[event] = attempts.get(event, 0) + 1
            under_way[key] = under_way.get(key, 0) + 1
            busy, same_key = sum(under_way.values()), under_way[key]
        payload = json.loads(body) if body else None
        plan = payload.get("do", []) if isinstance(payload, dict) else []
        do = plan[attempt - 1] if attempt <= len(plan) else "status 204"
        note(self.server.log, what="request", method=method, path=path, headers=headers, body=body,
             event=event, key=key, attempt=attempt, do=do, busy=busy, same_key=same_key)
        word, *arguments = do.split()
        try:
            return getattr(self, "do_" + word)(*arguments)
        finally:
            with lock:
                under_way[key] -= 1
            note(self.server.log, what="answer", event=event, key=key, attempt=attempt, do=do)

    def answer(self, status, *fields):
        lines = [f"HTTP/1.1 {status} Answer", "Content-Length: 0", *fields, "", ""]
        self.wfile.write("\r\n".join(lines).encode())
        return True

    def do_status(self, status, retry_after=None):
        return self.answer(status, *([f"Retry-After: {retry_after}"] if retry_after else []))

    def do_slow(self, seconds):
        time.sleep(float(seconds))
        return self.answer(204)

    def do_hang(self):
        self.connection.settimeout(60)
        self.rfile.read(1)
        return False

    def do_reset(self):
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        return False

    def do_cut(self):
        self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Le")
        return False

    def do_lie(self):
        self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nshort")
        return False

    def do_endless(self):
        self.wfile.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            self.wfile.write(b"x" * 4096)

    def do_headers(self):
        self.wfile.write(b"HTTP/1.1 200 OK\r\n")
        while True:
            self.wfile.write(b"X-More: " + b"y" * 1000 + b"\r\n")

    def do_redirect(self, url):
        return self.answer(307, f"Location: {url}")

    def do_garbage(self):
        self.wfile.write(b"SSH-2.0-nothing\r\n")
        return False


class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True


def main():
    server = Server(("127.0.0.1", 0), Receiver)
    server.log = open(sys.argv[1], "a", encoding="utf-8")
    if len(sys.argv) > 2:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(sys.argv[2], sys.argv[3])
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(server.server_address[1], flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
