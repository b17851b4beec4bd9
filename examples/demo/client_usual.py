"""The client of the usual articles: check for the key, then insert, then publish.

    client_usual.py CONNINFO EVENTS_FILE

Written as those articles write it, in good faith: a table of processed
requests with a primary key, short transactions, state and charge together
in one, an event only after the commit, a retry on every error.  The parts:

1. Idempotency middleware: look the request's key up; known means that the
   stored response is the answer.
2. The handler, in a transaction of its own: INSERT with ON CONFLICT DO
   NOTHING, or read the order, check its state, UPDATE it, INSERT the charge.
   (Read, decide, write: what an ORM's "load, change, save" does.)
3. The middleware again: store the key with the response.  It wraps any
   handler and so is not part of the handler's transaction.
4. Publish after commit, so that nothing of an aborted transaction goes out.

What is wrong with it lies between the steps: in what other clients do there,
and in what a crash there leaves.  The table of the demo counts that.
"""

import json
import os
import sys
import uuid

from client import serve
from feed import CANCEL, COMPLETE, CREATE, EVENT_TYPES, PAY

# Plain tables, as an application has them.
SCHEMA = """
CREATE TABLE orders (
	order_key text PRIMARY KEY,
	state text NOT NULL,
	version int NOT NULL,
	amount bigint NOT NULL,
	currency text NOT NULL,
	account text NOT NULL,
	payload jsonb
);
CREATE TABLE charges (
	id bigserial PRIMARY KEY,
	order_key text NOT NULL REFERENCES orders,
	account text NOT NULL,
	amount bigint NOT NULL,
	currency text NOT NULL
);
CREATE TABLE processed_requests (
	request_key text PRIMARY KEY,
	response text NOT NULL,
	processed_at timestamptz NOT NULL DEFAULT now()
);

-- Not of the pattern: the demo's own instrument, which notes each change of
-- state in the transaction that makes it.
CREATE TABLE measured_changes (order_key text, version int, state text);
CREATE FUNCTION measure_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO measured_changes VALUES (NEW.order_key, NEW.version, NEW.state);
	RETURN NULL;
END $$;
CREATE TRIGGER measure_change AFTER INSERT OR UPDATE ON orders
	FOR EACH ROW EXECUTE FUNCTION measure_change();
GRANT SELECT, INSERT, UPDATE ON orders, charges, processed_requests,
	measured_changes TO demo_app;
GRANT USAGE ON SEQUENCE charges_id_seq TO demo_app;
"""

# What a request turns an order into, and from what.
TARGETS = {PAY: ("created", "paid"), COMPLETE: ("paid", "completed"),
           CANCEL: ("created", "cancelled")}

FIND_KEY = "SELECT response FROM processed_requests WHERE request_key = %s"
STORE_KEY = ("INSERT INTO processed_requests (request_key, response) VALUES (%s, %s) "
             "ON CONFLICT (request_key) DO NOTHING")
INSERT_ORDER = ("INSERT INTO orders VALUES (%s, 'created', 1, %s, %s, %s, %s) "
                "ON CONFLICT (order_key) DO NOTHING")
FIND_ORDER = ("SELECT state, version, amount, currency, account FROM orders "
              "WHERE order_key = %s")
UPDATE_ORDER = "UPDATE orders SET state = %s, version = %s WHERE order_key = %s"
INSERT_CHARGE = ("INSERT INTO charges (order_key, account, amount, currency) "
                 "VALUES (%s, %s, %s, %s)")


class Publisher:
    """The broker's end: one JSON line for each event, appended at once."""

    def __init__(self, path):
        self.file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def publish(self, order, version, state):
        """Append one event."""
        event = {"specversion": "1.0", "id": str(uuid.uuid4()), "source": "usual",
                 "type": EVENT_TYPES[state], "subject": order,
                 "data": {"key": order, "version": version, "state": state}}
        os.write(self.file, json.dumps(event).encode() + b"\n")


def create(connection, request):
    """Step 2 for a create: (outcome, version, state) to answer and publish."""
    with connection.transaction():
        inserted = connection.execute(
            INSERT_ORDER, (request.order, request.amount, request.currency,
                           request.account, json.dumps(request.payload)))
    if inserted.rowcount == 0:
        return "replayed", None, None
    return "created", 1, "created"


def change(connection, request):
    """Step 2 for the others: read the order, check it, update it, charge."""
    needed, target = TARGETS[request.op]
    with connection.transaction():
        found = connection.execute(FIND_ORDER, (request.order,)).fetchone()
        if found is None:
            return "missing", None, None
        state, version, amount, currency, account = found
        if state == target:
            return "replayed", None, None
        if state != needed:
            return ("ignored" if request.op == CANCEL else "illegal"), None, None
        connection.execute(UPDATE_ORDER, (target, version + 1, request.order))
        if request.op == PAY:
            connection.execute(INSERT_CHARGE, (request.order, account, amount, currency))
    return ("cancelled" if request.op == CANCEL else "applied"), version + 1, target


def handler(publisher):
    """The function that carries out one request with the four steps."""

    def handle(connection, request):
        key = request.request_key or request.order
        stored = connection.execute(FIND_KEY, (key,)).fetchone()            # 1
        if stored:
            return "ignored" if stored[0] == "ignored" else "replayed"
        step = create if request.op == CREATE else change
        outcome, version, state = step(connection, request)                 # 2
        if outcome in ("missing", "illegal"):
            return outcome          # an error response is not stored
        connection.execute(STORE_KEY, (key, outcome))                       # 3
        if state:
            publisher.publish(request.order, version, state)                # 4
        return outcome

    return handle


if __name__ == "__main__":
    serve(handler(Publisher(sys.argv[2])), sys.argv[1])
