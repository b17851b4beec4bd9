package orders;

import static orders.Check.equal;

import java.io.IOException;
import java.sql.Connection;
import java.sql.SQLException;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.UUID;
import orders.Claims.Claim;
import orders.Orders.NewOrder;
import orders.Orders.OnConflict;
import orders.Orders.Order;
import orders.Orders.Result;
import orders.Orders.Step;
import orders.Webhook.Delivery;
import orders.Webhook.Handled;
import org.postgresql.ds.PGSimpleDataSource;
import org.postgresql.util.PSQLException;

/** The scenario; ../clients.md tells it for all languages. */
final class Steps {
    private final String url;
    private final boolean pooled;
    private final Database database;

    /** All keys of this run begin so. */
    private final String prefix = "java-" + UUID.randomUUID() + "-";

    Steps(String url, boolean pooled) throws SQLException {
        this.url = url;
        this.pooled = pooled;
        this.database = new Database(Database.source(url, pooled));
    }

    /**
     * Loses the answer to a create that has committed. The same call with the same key, on a new
     * connection, gets that answer.
     */
    void createWithRetry() throws SQLException {
        NewOrder order = new NewOrder(prefix + "lost", 4990, "EUR");
        PGSimpleDataSource source = Database.source(url, pooled);
        BadNetwork.install(source, order.key());
        Database bad = new Database(source);
        List<String> states = new ArrayList<>();

        Result result = Retry.call(() -> recording(states, () -> bad.call(
                connection -> Orders.create(connection, order, OnConflict.ERROR))));

        List<Step> history = database.call(connection -> Orders.history(connection, order.key()));
        equal("SQLSTATEs", states, List.of("08006", "00000"));
        equal("outcome", result.outcome(), "replayed");
        equal("event_ids", eventIds(history), List.of(result.eventId()));
    }

    /**
     * Loses a race at REPEATABLE READ: what the snapshot does not show is there. The whole transaction
     * is made again, with a new snapshot.
     */
    void retrySerialization() throws SQLException {
        NewOrder order = new NewOrder(prefix + "race", 100, "EUR");
        List<Result> rivals = new ArrayList<>();
        List<String> states = new ArrayList<>();

        Result result = Retry.call(() -> recording(states, () -> database.transaction(connection -> {
            Database.execute(connection, Database.REPEATABLE_READ);
            if (Orders.get(connection, order.key()).isEmpty()) { // takes the snapshot
                rivals.add(database.call(other -> Orders.create(other, order, OnConflict.ERROR)));
            }
            return Orders.create(connection, order, OnConflict.ERROR);
        })));

        equal("SQLSTATEs", states, List.of("40001", "00000"));
        equal("rivals", rivals.stream().map(Result::outcome).toList(), List.of("created"));
        equal("outcome", result.outcome(), "replayed");
        equal("event_id", result.eventId(), rivals.get(0).eventId());
    }

    /**
     * Does what cannot be done: an error with a SQLSTATE, or an outcome where the caller asked for a
     * report.
     */
    void outcomes() throws SQLException {
        NewOrder order = new NewOrder(prefix + "outcomes", 4990, "EUR");
        NewOrder other = new NewOrder(order.key(), 9990, "EUR");
        create(order);

        PSQLException mismatch = error(connection -> Orders.create(connection, other, OnConflict.ERROR));
        PSQLException illegal = error(connection -> complete(connection, order, OnConflict.ERROR));
        PSQLException missing = error(connection -> payNobody(connection, OnConflict.ERROR));
        equal("other amount", mismatch.getSQLState(), "OI001");
        equal("its detail", mismatch.getServerErrorMessage().getDetail(),
                "The request differs from the first one in: amount.");
        equal("completed before paid", illegal.getSQLState(), "OI003");
        equal("its detail", illegal.getServerErrorMessage().getDetail(), "The order is in state \"created\".");
        equal("its hint", illegal.getServerErrorMessage().getHint(), "Allowed states: \"paid\", \"cancelled\".");
        equal("no such order", missing.getSQLState(), "OI004");
        database.transaction(connection -> {
            reports(connection, order, other);
            return null;
        });
    }

    /** Does the same in one transaction, which goes on and commits. */
    private void reports(Connection connection, NewOrder order, NewOrder other) throws SQLException {
        Result mismatch = Orders.create(connection, other, OnConflict.REPORT);
        equal("other amount", mismatch.outcome(), "mismatch");
        equal("its detail", mismatch.detail(), "The request differs from the first one in: amount.");
        Result illegal = complete(connection, order, OnConflict.REPORT);
        equal("completed before paid", illegal.outcome(), "illegal");
        equal("its detail", illegal.detail(), "The order is in state \"created\".");
        Result missing = payNobody(connection, OnConflict.REPORT);
        equal("no such order", missing.outcome(), "missing");
        equal("its state", missing.state(), null);
        Result paid = Orders.transition(connection, order.key(), "paid", "charge", OnConflict.REPORT);
        equal("then", paid.outcome(), "applied");
    }

    /** Completes an order, which must be paid first. */
    private Result complete(Connection connection, NewOrder order, OnConflict onConflict) throws SQLException {
        return Orders.transition(connection, order.key(), "completed", "done", onConflict);
    }

    /** Pays an order that does not exist. */
    private Result payNobody(Connection connection, OnConflict onConflict) throws SQLException {
        return Orders.transition(connection, prefix + "nobody's", "paid", "charge", onConflict);
    }

    /**
     * Lets a worker crash after the provider has charged and before that is recorded. The next one waits
     * for the lease's end and asks the provider with the same key. Then the first turns out to be alive,
     * and is told off.
     */
    void payWithLease() throws SQLException, IOException, InterruptedException {
        Order order = create(new NewOrder(prefix + "lease", 4990, "EUR", "alice", null, null, null));
        try (FakeProvider provider = new FakeProvider()) {
            Payer slow = new Payer(database, provider, Duration.ofSeconds(2));
            Claim claim = slow.claim(order);
            String charge = provider.charge(Payer.key(order), order.amount()); // and no record of it

            Payer next = new Payer(database, provider, Duration.ofMinutes(1));
            payInTheEnd(next, order);
            equal("calls", provider.calls(), 2);
            equal("charges", provider.charges(), 1);
            Check.raises(Payer.Stale.class, () -> slow.record(order, claim.attempt(), charge));

            Claim done = next.claim(order);
            equal("payment", done.outcome(), "replayed");
            equal("receipt", done.response(), Json.object("charge", charge));
            equal("attempts", done.attempt(), 2);
            equal("waited for the lease", done.claimedAt().isBefore(claim.leaseUntil()), false);
            List<Step> history = database.call(connection -> Orders.history(connection, order.orderKey()));
            equal("request keys", history.stream().map(Step::requestKey).toList(), Arrays.asList(null, charge));
        }
    }

    /** Pays as soon as nobody else is at it. */
    private void payInTheEnd(Payer payer, Order order) throws SQLException, InterruptedException {
        while (true) {
            try {
                payer.pay(order);
                return;
            } catch (Payer.InProgress busy) {
                Thread.sleep(50);
            }
        }
    }

    /**
     * Delivers twice what can be done, and twice what cannot. What comes before its order leaves
     * nothing, and can be done later.
     */
    void webhookInbox() throws SQLException {
        NewOrder order = new NewOrder(prefix + "webhook", 4990, "EUR");
        Webhook webhook = new Webhook(database);
        Delivery paid = new Delivery(prefix + "delivery-1", order.key(), "ch_1");
        Delivery second = new Delivery(prefix + "delivery-2", order.key(), "ch_2");
        String applied = Json.object("outcome", "applied");
        String illegal = Json.object("outcome", "illegal");

        Check.raises(Webhook.SendAgain.class, () -> webhook.handle(paid));
        create(order);
        equal("first delivery", webhook.handle(paid), new Handled(applied, false));
        equal("the same again", webhook.handle(paid), new Handled(applied, true));
        equal("second payment", webhook.handle(second), new Handled(illegal, false));
        equal("the same again", webhook.handle(second), new Handled(illegal, true));
        Order after = read(order.key());
        equal("state", after.state(), "paid");
        equal("version", after.version(), 2);
    }

    /** Reads what was written, each type as Java has it. */
    void readOrder() throws SQLException {
        // as jsonb writes it: the shorter name first, a blank after each colon
        String payload = "{\"note\": \"für \\\"Zoë\\\"\", \"lines\": [{\"sku\": \"book\", \"count\": 2}]}";
        NewOrder asked = new NewOrder(prefix + "read", 1L << 40, "EUR", "alice", payload, Duration.ofHours(36),
                Json.object("traceparent", "00-1-1-01"));
        Result created = database.call(connection -> Orders.create(connection, asked, OnConflict.ERROR));
        Result paid = database.call(
                connection -> Orders.transition(connection, asked.key(), "paid", "ch_9", OnConflict.ERROR));
        Order order = read(asked.key());
        equal("amount", order.amount(), 1L << 40);
        equal("account", order.account(), "alice");
        equal("payload", order.payload(), payload);
        equal("allowed", order.allowedTransitions(), List.of("completed"));
        equal("created_at", order.createdAt(), created.changedAt());
        readHistory(created, paid);
        checkPrepared(asked.key());
    }

    /** Finds steps by parameters of each type. */
    private void readHistory(Result created, Result paid) throws SQLException {
        List<Step> history = database.call(connection -> Orders.history(connection, created.orderKey()));
        equal("event_ids", eventIds(history), List.of(created.eventId(), paid.eventId()));
        List<Step> found = database.call(connection -> Database.rows(connection, Orders::step, """
                SELECT * FROM order_idempotency.order_history(?)
                WHERE event_id = ? AND at <= ? AND at > ? - ?::interval AND state = ANY (?)""",
                created.orderKey(), paid.eventId(), paid.changedAt(), paid.changedAt(),
                Duration.ofHours(1).toString(), new String[] {"paid", "completed"}));
        equal("found", found.stream().map(Step::requestKey).toList(), List.of("ch_9"));
    }

    /**
     * Looks whether the server has our statement under a name: it shall, but not through a pooler. One
     * transaction, so that both come to one session.
     */
    private void checkPrepared(String key) throws SQLException {
        int count = database.transaction(connection -> {
            Orders.get(connection, key);
            return Database.one(connection, row -> row.getInt(1), """
                    SELECT count(*) FROM pg_prepared_statements
                    WHERE statement LIKE 'SELECT * FROM order_idempotency.get_order(_1)'""");
        });
        equal("prepared", count > 0, !pooled);
    }

    /** Creates an order and reads it. */
    private Order create(NewOrder order) throws SQLException {
        database.call(connection -> Orders.create(connection, order, OnConflict.ERROR));
        return read(order.key());
    }

    /** Reads an order that must be there. */
    private Order read(String key) throws SQLException {
        return database.call(connection -> Orders.get(connection, key)).orElseThrow();
    }

    /** The events of an order, oldest first. */
    private static List<UUID> eventIds(List<Step> history) {
        return history.stream().map(Step::eventId).toList();
    }

    /** The server's error that work must end in. */
    private PSQLException error(Database.Work<?> work) throws SQLException {
        return Check.raises(PSQLException.class, () -> database.call(work));
    }

    /** Runs a try and keeps what came of it. */
    private static <T> T recording(List<String> states, Retry.Try<T> work) throws SQLException {
        try {
            T result = work.run();
            states.add("00000");
            return result;
        } catch (SQLException error) {
            states.add(error.getSQLState());
            throw error;
        }
    }
}
