#!/usr/bin/python3
"""What the tests of examples/pipeline send, and what must come of it.

    pipeline_model.py generate KIND SEED TOTAL FEED EXPECTED
        so many messages, a fifth of them repeats, as the program's "send-..." reads them
    pipeline_model.py check EXPECTED KIND EVENTS REJECTED DATABASE
        KIND is kafka (records as kcat writes them) or rabbitmq (messages as amqp_client.py
        does), DATABASE what is in the tables. Prints how much of what is wrong, in JSON.

The model knows nothing of the extension but what its documentation says of the built-in lifecycle.
"""

import heapq
import json
import random
import sys
from collections import Counter, defaultdict

SKUS = [f"sku-{n}" for n in range(1, 51)]

# what an order goes through, how often, and the states that come of it
CHAINS = [
    (60, ["create", "pay", "ship"]), (18, ["create", "cancel"]), (10, ["create", "pay"]),
    (10, ["create"]), (1, ["create", "cancel", "pay too late"]), (1, ["create", "pay", "ship nothing"])]
EVENTS = {"create": ["order.created"], "pay": ["order.paid"], "cancel": ["order.cancelled"],
          "ship": ["order.completed", "parcel.sent"]}
STATES = {"create": "created", "pay": "paid", "cancel": "cancelled", "ship": "completed"}

# messages that nobody can carry out, by how that is said
POISON = {"broken": "cannot be read", "unknown": "there is no command", "negative": "amount",
          "no id": "has no id", "long id": "has no id", "nul": "Unicode escape", "taken": "another message had this id"}


class Generator:
    """Messages of many orders, each order's in their sequence, and their repeats."""

    def __init__(self, kind, seed, total):
        # AMQP has no id that is too long
        self.poisons = [poison for poison in POISON if kind == "kafka" or poison != "long id"]
        self.random = random.Random(seed)
        self.total = total
        self.feed = []
        self.expected = {"orders": {}, "events": {}, "rejected": {}, "stock": Counter(),
                         "distinct": 0, "repeats": 0}
        self.open = []          # (order, what is left to do)
        self.later = []         # (when, number, message): repeats, a heap
        self.made = 0
        self.creations = []     # for ids that are taken

    def run(self):
        while len(self.feed) < self.total:
            if self.later and self.later[0][0] <= len(self.feed):
                self.feed.append(heapq.heappop(self.later)[2])
                self.expected["repeats"] += 1
            else:
                self.next_message()

    def send(self, message, movable=True):
        """A message, and perhaps repeats: right after it, soon, or long after, some by another route."""
        self.feed.append(message)
        self.expected["distinct"] += 1
        if self.random.random() < 0.28:
            delay = self.random.choice([0, self.random.randint(1, 50), self.random.randint(500, 500 + self.total // 4)])
            repeat = dict(message)
            if movable and self.random.random() < 0.3:
                repeat["route"] = f"other-{self.random.randint(1, 99)}"
            heapq.heappush(self.later, (len(self.feed) + delay, len(self.feed), repeat))

    def next_message(self):
        chance = self.random.random()
        if chance < 0.002:
            self.poison(self.random.choice(self.poisons))
        elif len(self.open) < 20 or (chance < 0.4 and len(self.open) < 300):
            self.made += 1
            chain = self.random.choices([c for _, c in CHAINS], [w for w, _ in CHAINS])[0]
            self.open.append((f"order-{self.made}", list(chain)))
        else:
            place = self.random.randrange(len(self.open))
            order, left = self.open[place]
            self.command(order, left.pop(0))
            if not left:
                self.open[place] = self.open[-1]
                self.open.pop()

    def command(self, order, what):
        number = len(self.feed)
        identity = f"message-{number}"
        body = {"do": what.split()[0], "order": order}
        if what == "create":
            body.update(amount=self.random.randint(1, 99999), currency=self.random.choice(["EUR", "USD"]),
                        account=f"account-{self.random.randint(1, 200)}")
            self.expected["orders"][order] = {"version": 0, **{k: body[k] for k in ("amount", "currency", "account")}}
            self.expected["events"][order] = []
            self.creations.append((identity, order))
        elif what == "cancel":
            body["reason"] = "changed my mind"
        elif what.startswith("ship"):
            body.update(sku=self.random.choice(SKUS), count=self.random.randint(1, 3))
            if what == "ship nothing":
                body["sku"] = "no such thing"
        if what == "pay too late":
            self.expected["rejected"][identity] = ["illegal"]
        elif what == "ship nothing":
            self.expected["rejected"][identity] = ["there is no"]
        else:
            self.carried_out(order, what, identity, body)
        # by another route, a late payment could be in time
        self.send({"id": identity, "route": order, "body": body}, movable=what != "pay too late")

    def carried_out(self, order, what, identity, body):
        row = self.expected["orders"][order]
        row["state"] = STATES[what]
        row["version"] += 1
        self.expected["events"][order] += [[kind, identity] for kind in EVENTS[what]]
        if what == "ship":
            self.expected["stock"][body["sku"]] += body["count"]

    def poison(self, kind):
        number = len(self.feed)
        identity, route = f"message-{number}", f"poison-{number}"
        body = {"do": "create", "order": route, "amount": 1, "currency": "EUR"}
        if kind == "broken":
            body = f'{{"do": "create", "order": "{route}"'
        elif kind == "unknown":
            body["do"] = "burn"
        elif kind == "negative":
            body["amount"] = -1
        elif kind == "nul":
            body["order"] = "order\x00"
        elif kind in ("no id", "long id"):
            identity = "" if kind == "no id" else "x" * 300
            body["order"] = f"{route} without an id"
        elif not self.creations:
            return
        else:
            identity, route = self.random.choice(self.creations)
        name = f"no id {number}" if kind.endswith(" id") else identity
        self.expected["rejected"].setdefault(name, []).append(POISON[kind])
        self.send({"id": identity, "route": route, "body": body}, movable=kind != "taken")


def lines(path):
    with open(path, encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def event_of(source, line):
    """id, key, type, cause, position, where, payload."""
    if source == "kafka":
        flat = line["headers"]
        headers = {name.removeprefix("ce_"): value for name, value in zip(flat[::2], flat[1::2])}
        where, payload = line["partition"], line["payload"]
    else:
        headers = {name.removeprefix("cloudEvents:"): value for name, value in line["headers"].items()}
        where, payload = 0, line["body"]
        assert headers["id"] == line["id"]
    return {"id": headers["id"], "key": headers["subject"], "type": headers["type"],
            "cause": headers.get("causationid"), "position": int(headers["sequence"]), "where": where,
            "payload": json.loads(payload)}


class Checker:
    """Compares what came out with what was to come of what was sent."""

    def __init__(self, expected, source, events, rejected, database):
        with open(expected, encoding="utf-8") as file:
            self.expected = json.load(file)
        self.wrong = {what: [] for what in (
            "missing", "twice", "ghosts", "out of order", "money", "rejected", "orders", "stock")}
        self.repeated = 0
        self.source = source
        self.events = self.once([event_of(source, line) for line in lines(events)])
        self.rejected = self.once([event_of(source, line) for line in lines(rejected)])
        with open(database, encoding="utf-8") as file:
            self.database = json.load(file)

    def once(self, events):
        """Each event at its first place. What comes again under its id is a duplicate where the sink promises
        exactly once, and else what a reader drops."""
        seen, first = set(), []
        for event in events:
            if event["id"] not in seen:
                first.append(event)
            elif self.source == "kafka":
                self.wrong["twice"].append(event["id"])
            else:
                self.repeated += 1
            seen.add(event["id"])
        return first

    def check(self):
        self.check_events()
        self.check_rejected()
        self.check_database()
        return {"wrong": {what: len(found) for what, found in self.wrong.items()},
                "examples": [f"{what}: {one}" for what, found in self.wrong.items() for one in found[:5]],
                "events": len(self.events), "rejected": len(self.rejected), "repeated": self.repeated}

    def check_events(self):
        """Each message's events, once, those of an order in its order, with the order's money."""
        came = defaultdict(list)
        for event in self.events:
            came[event["key"]].append(event)
        for key in came.keys() - self.expected["events"].keys():
            self.wrong["ghosts"].append(key)
        for key, wanted in self.expected["events"].items():
            found = [[event["type"], event["cause"]] for event in came[key]]
            wanted_count, found_count = (Counter(map(tuple, what)) for what in (wanted, found))
            self.wrong["missing"] += (wanted_count - found_count).elements()
            self.wrong["ghosts"] += (set(found_count) - set(wanted_count))
            self.wrong["twice"] += [one for one in found_count if found_count[one] > 1]
            positions = [event["position"] for event in came[key]]
            if (wanted_count == found_count and found != wanted) or positions != sorted(positions) or \
                    len({event["where"] for event in came[key]}) > 1:
                self.wrong["out of order"].append((key, found))
            order = self.expected["orders"][key]
            for event in came[key]:
                if event["type"] != "parcel.sent" and any(
                        event["payload"][field] != order[field] for field in ("amount", "currency", "account")):
                    self.wrong["money"].append(event["payload"])

    def check_rejected(self):
        """Each message that could not be carried out is told of once, and for the right reason. Those without an
        id are known by their body, which is all that is left of them."""
        left = {name: list(reasons) for name, reasons in self.expected["rejected"].items()}
        without = [name for name in left if name.startswith("no id")]
        for event in self.rejected:
            name, reason = event["payload"]["id"], event["payload"]["reason"]
            if name.startswith("no id: ") and without:
                name = without.pop()
            reasons = left.get(name, [])
            fitting = [one for one in reasons if one in reason]
            if fitting:
                reasons.remove(fitting[0])
            else:
                self.wrong["rejected"].append(f"{name}: {reason}")
        self.wrong["rejected"] += [f"{name} was not" for name, reasons in left.items() if reasons]

    def check_database(self):
        found, wanted = self.database["orders"] or {}, self.expected["orders"]
        self.wrong["orders"] += [(key, found.get(key), wanted.get(key))
                                 for key in found.keys() | wanted.keys() if found.get(key) != wanted.get(key)]
        taken = {sku: count for sku, count in self.database["taken"].items() if count}
        self.wrong["stock"] += [(sku, taken.get(sku, 0), self.expected["stock"].get(sku, 0)) for sku in SKUS
                                if taken.get(sku, 0) != self.expected["stock"].get(sku, 0)]
        balance = Counter()
        for order in wanted.values():
            if order["state"] in ("created", "paid", "completed"):
                account = "escrow" if order["state"] == "created" else "revenue"
                balance[f"{account} {order['currency']}"] += order["amount"]
                balance[f"{order['account']} {order['currency']}"] -= order["amount"]
        for name in balance.keys() | self.database["balance"].keys():
            if balance[name] != self.database["balance"].get(name, 0):
                self.wrong["money"].append((name, self.database["balance"].get(name), balance[name]))


def generate(kind, seed, total, feed, expected):
    generator = Generator(kind, seed, int(total))
    generator.run()
    with open(feed, "w", encoding="utf-8") as file:
        file.writelines(json.dumps(message) + "\n" for message in generator.feed)
    with open(expected, "w", encoding="utf-8") as file:
        json.dump(generator.expected, file)
    counted = generator.expected
    print(json.dumps({"messages": len(generator.feed), "distinct": counted["distinct"], "repeats": counted["repeats"],
                      "rejected": sum(map(len, counted["rejected"].values())),
                      "events": sum(map(len, counted["events"].values()))}))


def main():
    if sys.argv[1] == "generate":
        generate(*sys.argv[2:])
    else:
        print(json.dumps(Checker(*sys.argv[2:]).check()))


main()
