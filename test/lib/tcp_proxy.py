#!/usr/bin/python3
"""A TCP proxy that breaks, for tests: tcp_proxy.py PORT TARGET_PORT.

Both ports are on 127.0.0.1, the first on another address of this machine if one is given.  It says "ready" when it listens, and takes commands,
one a line, each answered by "ok":

    pass        hand on what comes, both ways, for connections from now on too
    hole        swallow what comes, both ways, and hand on nothing; connections
                are accepted all the same
    deaf        hand on what clients send, and swallow the answers
    stall       read no more: what is sent stays in the kernels' buffers
    slow N      hand on no more than about N bytes a second, each way of a connection
    cut N       when N more bytes of answers have been handed on, reset the
                connection in the middle of what is there
    drop        reset all connections
    refuse      stop listening, until "pass"
    count       says "ok N", the bytes of answers handed on so far
    trap K WHAT for messages with their length in the first four bytes, their type in
                the next two and a number in the last of twelve, and answers with that
                number behind their length (Kafka): reset all connections, and when a
                client sends one of type K swallow it (WHAT is "request"), or hand it
                on and swallow its answer ("answer"), then reset all and "refuse"
    sprung      says "ok 1" when that has happened, else "ok 0"
    hold TEXT   hand on what comes, but when a client sends TEXT nothing of its from there on,
                until "pass"
    held        says "ok 1" when that has happened, else "ok 0"
"""

import select
import socket
import struct
import sys
import threading
import time

port, target = int(sys.argv[1]), int(sys.argv[2])
address = sys.argv[3] if len(sys.argv) > 3 else "127.0.0.1"
lock = threading.Condition()
mode = "pass"
cut_after = None
rate = 0
handed_on = 0
trap = None                 # (type, what)
awaited = None              # (connection, number) of an answer to be swallowed
held_from = None            # what a client sends when it is held
held = False
pairs = set()
listener = None


def reset(pair):
    """Close both ends of a connection without a goodbye."""
    for end in pair:
        try:
            end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            end.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        end.close()
    pairs.discard(pair)


def send(data, to):
    """Write data, as slowly as the mode says."""
    while data and mode == "slow":
        piece = max(1, rate // 20)
        to.sendall(data[:piece])
        data = data[piece:]
        time.sleep(0.05)
    to.sendall(data)


def hand_on(data, answer, to, pair):
    """Treat data as the mode says; False: the connection is over."""
    global cut_after, handed_on
    with lock:
        if mode == "hole" or (mode == "deaf" and answer):
            return True
        over = answer and cut_after is not None and len(data) >= cut_after
        if over:
            data, cut_after = data[:cut_after], None
        elif answer and cut_after is not None:
            cut_after -= len(data)
        if answer:
            handed_on += len(data)
    try:
        send(data, to)
    except OSError:
        over = True
    if over:
        with lock:
            reset(pair)
    return not over


def spring():
    """The trap has caught something: be gone."""
    global trap, awaited
    trap = awaited = None
    for pair in list(pairs):
        reset(pair)
    refuse()


def look(frame, answer, pair):
    """Is it what the trap is for?  False: the connection is over."""
    global awaited
    with lock:
        if trap is None:
            return True
        if answer and awaited == (pair, frame[4:8]):
            spring()
            return False
        if not answer and int.from_bytes(frame[4:6], "big") == trap[0]:
            if trap[1] == "request":
                spring()
                return False
            awaited = (pair, frame[8:12])
    return True


def frames(buffer):
    """Take whole messages out of what has come of a connection."""
    while len(buffer) >= 4 and len(buffer) >= 4 + int.from_bytes(buffer[:4], "big"):
        end = 4 + int.from_bytes(buffer[:4], "big")
        yield bytes(buffer[:end])
        del buffer[:end]


def not_held(buffer):
    """Take what may be handed on out of what has come of a client, while one is to be held."""
    global held
    with lock:
        at = buffer.find(held_from) if mode == "hold" else len(buffer)
        found = mode == "hold" and at >= 0
        held |= found
        if at < 0:              # its beginning may have come
            begun = (n for n in range(len(held_from) - 1, 0, -1) if buffer.endswith(held_from[:n]))
            at = len(buffer) - next(begun, 0)
    yield bytes(buffer[:at])
    del buffer[:at]
    if found:
        with lock:
            while mode == "hold":
                lock.wait()
        yield bytes(buffer)
        buffer.clear()


def pump(source, to, answer, pair):
    """One direction of a connection."""
    trapped = trap is not None
    buffer = bytearray()
    while True:
        with lock:
            while mode == "stall" and pair in pairs:
                lock.wait()
        try:
            if not select.select([source], [], [], 0.05)[0]:
                continue
            with lock:
                if mode == "stall":
                    continue
            data = source.recv(65536)
        except (OSError, ValueError):
            break
        if trapped and data:
            buffer += data
            if not all(look(frame, answer, pair) and hand_on(frame, answer, to, pair)
                       for frame in frames(buffer)):
                break
        elif data and not answer and (mode == "hold" or buffer):
            buffer += data
            if not all(hand_on(part, answer, to, pair) for part in not_held(buffer)):
                break
        elif not data or not hand_on(data, answer, to, pair):
            break
    with lock:
        if mode != "hole":      # in a hole nobody hears of an end either
            reset(pair)


def accept(server):
    """Take connections until the listener is closed."""
    while True:
        try:
            client, _ = server.accept()
        except OSError:
            return
        try:
            upstream = socket.create_connection(("127.0.0.1", target), timeout=5)
            upstream.settimeout(None)
        except OSError:
            reset((client,))
            continue
        for end in (client, upstream):
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        pair = (client, upstream)
        with lock:
            pairs.add(pair)
        for source, to, answer in ((client, upstream, False), (upstream, client, True)):
            threading.Thread(target=pump, args=(source, to, answer, pair), daemon=True).start()


def listen():
    """Begin to accept, where that is not being done."""
    global listener
    if listener is None:
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((address, port))
        listener.listen(64)
        threading.Thread(target=accept, args=(listener,), daemon=True).start()


def refuse():
    """Stop listening."""
    global listener
    if listener is not None:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        listener = None


def command(word, *arguments):
    """Carry out a command; returns the answer."""
    global mode, cut_after, rate, trap, held_from, held
    if word == "count":
        return f"ok {handed_on}"
    if word == "sprung":
        return f"ok {int(trap is None)}"
    if word == "held":
        return f"ok {int(held)}"
    if word == "cut":
        cut_after = int(arguments[0])
    elif word in ("drop", "trap"):
        for pair in list(pairs):
            reset(pair)
        if word == "trap":
            trap = (int(arguments[0]), arguments[1])
    elif word == "refuse":
        refuse()
    else:
        if word == "slow":
            rate = int(arguments[0])
        if word == "hold":
            held_from = arguments[0].encode()
            held = False
        was, mode = mode, word
        if word == "pass":
            listen()
            if was == "hole":       # what was swallowed is missing
                for pair in list(pairs):
                    reset(pair)
    lock.notify_all()
    return "ok"


listen()
print("ready", flush=True)
for line in sys.stdin:
    with lock:
        reply = command(*line.split())
    print(reply, flush=True)
