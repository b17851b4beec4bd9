"""What is measured, and what is compared with what."""

from dataclasses import dataclass

PAYLOAD = ('{"customer": "c-48151623", "items": [{"sku": "A-1001", "qty": 2, "price": 1250}, '
           '{"sku": "B-2002", "qty": 1, "price": 999}], "note": "leave at the door"}')
RESPONSE = '{"order": "0192f0c1-77d1-7c3a-8a3e-c91d54b07f26", "state": "created", "status": 201}'

# $2 to $5 of every statement; $1 is the key, $6 a random UUID
AMOUNT, CURRENCY, ACCOUNT = "3499", "EUR", "customer-4815"
ORDER = (AMOUNT, CURRENCY, ACCOUNT, PAYLOAD)

FRESH = "uuid7"                 # a fresh UUIDv7 for each call


@dataclass(frozen=True)
class Case:
    """A call that is made again and again."""

    name: str
    title: str
    statements: tuple
    keys: str = FRESH           # or the name of a file of keys
    once: bool = False          # each key of the file once
    expected: str = None        # what each call answers
    params: tuple = ORDER
    clients: int = 8
    redis: bool = False


@dataclass(frozen=True)
class Comparison:
    """Two cases, and the ratio of their rates that is aimed at."""

    ours: str
    peer: str
    targets: dict = None        # by fsync; None: shown only

    def target(self, fsync):
        """What is aimed at with that setting of fsync, or None."""
        return (self.targets or {}).get(fsync)


@dataclass(frozen=True)
class Section:
    """Comparisons that are shown together."""

    name: str
    fsync: tuple                # settings to run with
    comparisons: tuple

    def cases(self):
        """The names of its cases, each once."""
        names = [name for c in self.comparisons for name in (c.peer, c.ours)]
        return list(dict.fromkeys(names))


def both(target):
    """One target with fsync on and off."""
    return {"on": target, "off": target}


CREATE = "SELECT * FROM order_idempotency.create_order($1, $2, $3, $4, $5)"
CLAIM = "SELECT * FROM order_idempotency.claim_key($1, $5)"
CLAIM_BARE = "SELECT * FROM order_idempotency.claim_key($1)"
PEER_ORDER = ("INSERT INTO peer.orders (key, state, version, amount, currency, account, payload, event_id, "
              "created_at, changed_at) VALUES ($1, 'created', 1, $2, $3, $4, $5, $6, now(), now())")
PEER_LEDGER = ("INSERT INTO peer.ledger (order_key, version, effect, debit_account, credit_account, amount, "
               "currency, posted_at) VALUES ($1, 1, 'hold', $4, 'escrow', $2, $3, now())")
PEER_EVENT = ("INSERT INTO peer.events (event_id, key, version, type, payload, created_at) VALUES ($6, $1, 1, "
              "'order.created', peer.event_payload($1, 'created', 1, $2, $3, $4, $5), now())")
PEER_KEY = ("INSERT INTO peer.keys (key, request_hash) VALUES ($1, sha256(convert_to("
            "jsonb_build_array($2, $3, $4, $5)::text, 'UTF8'))) ON CONFLICT (key) DO NOTHING")
PEER_RESPONSE = ("UPDATE peer.keys SET response = jsonb_build_object('state', 'created', 'version', 1, "
                 "'event_id', $6, 'changed_at', now()) WHERE key = $1")
BARE_INSERT = "INSERT INTO peer.bare_orders VALUES ($1, $2, $3, $4, $5)"
BARE_UPDATE = "UPDATE peer.bare_states SET state = 'paid' WHERE key = $1"
BARE_EVENT = "INSERT INTO peer.bare_events (key, type) VALUES ($1, 'order.paid')"
BARE_CHANGE = ("WITH changed AS (UPDATE peer.bare_states SET state = 'paid' WHERE key = $1 RETURNING key) "
               "INSERT INTO peer.bare_events (key, type) SELECT key, 'order.paid' FROM changed")

CASES = {case.name: case for case in (
    Case("insert", "bare INSERT of one row", (BARE_INSERT,), expected="1 rows"),
    Case("create", "`create_order`", (CREATE,), expected="created"),
    Case("create_plain", "`create_order` without account", (CREATE,), expected="created",
         params=(AMOUNT, CURRENCY, r"\N", PAYLOAD)),
    Case("function", "PL/pgSQL, the order's row is the key",
         ("SELECT * FROM peer.create_order($1, $2, $3, $4, $5)",), expected="created"),
    Case("function_keys", "PL/pgSQL, a table of keys",
         ("SELECT * FROM peer.create_order_with_key($1, $2, $3, $4, $5)",), expected="created"),
    Case("statements", "BEGIN, order, ledger, event, COMMIT",
         ("BEGIN", PEER_ORDER + " ON CONFLICT (key) DO NOTHING", PEER_LEDGER, PEER_EVENT, "COMMIT")),
    Case("statements_keys", "BEGIN, key, order, ledger, event, response, COMMIT",
         ("BEGIN", PEER_KEY, PEER_ORDER, PEER_LEDGER, PEER_EVENT, PEER_RESPONSE, "COMMIT")),
    Case("select", "`SELECT 1`", ("SELECT 1",), keys="orders", expected="1"),
    Case("select_same", "`SELECT 1`, given the same parameters as `create_order`",
         ("SELECT 1 WHERE $1 IS NOT NULL AND $2 > 0 AND $3 <> $4 AND $5 IS NOT NULL",), keys="orders",
         expected="1"),
    Case("create_again", "`create_order`, replayed", (CREATE,), keys="orders", expected="replayed"),
    Case("claim_again", "`claim_key` with a request, replayed", (CLAIM,), keys="claims",
         expected="replayed"),
    Case("claim_bare_again", "`claim_key` without one, replayed", (CLAIM_BARE,), keys="claims",
         expected="replayed"),
    Case("get", "Redis `GET`", ("GET",), keys="claims", expected=RESPONSE, redis=True),
    Case("create_again_1", "`create_order`, replayed, one client", (CREATE,), keys="orders",
         expected="replayed", clients=1),
    Case("claim_again_1", "`claim_key` with a request, replayed, one client", (CLAIM,), keys="claims",
         expected="replayed", clients=1),
    Case("select_1", "`SELECT 1`, one client", ("SELECT 1",), keys="orders", expected="1",
         clients=1),
    Case("get_1", "Redis `GET`, one client", ("GET",), keys="claims", expected=RESPONSE, redis=True,
         clients=1),
    Case("transition", "`transition_order`",
         ("SELECT * FROM order_idempotency.transition_order($1, 'paid')",), keys="states", once=True,
         expected="applied"),
    Case("change", "UPDATE and INSERT in one statement", (BARE_CHANGE,), keys="states", once=True,
         expected="1 rows"),
    Case("change_two", "BEGIN, UPDATE, INSERT, COMMIT", ("BEGIN", BARE_UPDATE, BARE_EVENT, "COMMIT"),
         keys="states", once=True),
)}

SECTIONS = {section.name: section for section in (
    Section("create", ("on", "off"), (
        Comparison("create", "insert", {"on": 0.90, "off": 0.75}),
        Comparison("create_plain", "insert"),
    )),
    Section("byhand", ("on", "off"), (
        Comparison("create", "function", both(1.3)),
        Comparison("create", "function_keys"),
        Comparison("create", "statements", both(2.5)),
        Comparison("create", "statements_keys"),
    )),
    Section("replay", ("off",), (
        Comparison("create_again", "select", both(0.85)),
        Comparison("create_again", "select_same"),
        Comparison("claim_again", "select", both(0.85)),
        Comparison("claim_bare_again", "select"),
        Comparison("create_again", "get", both(1.0)),
        Comparison("claim_again", "get", both(1.0)),
        Comparison("claim_bare_again", "get"),
        Comparison("create_again_1", "select_1"),
        Comparison("claim_again_1", "select_1"),
        Comparison("create_again_1", "get_1"),
        Comparison("claim_again_1", "get_1"),
    )),
    Section("transition", ("on", "off"), (
        Comparison("transition", "change", both(0.75)),
        Comparison("transition", "change_two"),
    )),
)}
