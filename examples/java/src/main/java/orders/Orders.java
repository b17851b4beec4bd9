package orders;

import java.sql.Array;
import java.sql.Connection;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.time.Duration;
import java.time.OffsetDateTime;
import java.util.List;
import java.util.Optional;
import java.util.UUID;

/**
 * The order functions. Each call is made on a connection: in autocommit it is a transaction of its
 * own, otherwise it commits with all else.
 *
 * setString sends varchar, which becomes text by itself and nothing else: hence the casts.
 */
final class Orders {
    private static final String CREATE = """
            SELECT * FROM order_idempotency.create_order(?, ?, ?, account => ?, payload => ?::jsonb,
                pay_within => ?::interval, headers => ?::jsonb, on_conflict => ?)""";

    private static final String TRANSITION = """
            SELECT * FROM order_idempotency.transition_order(?, ?, request_key => ?, on_conflict => ?)""";

    static final String GET = "SELECT * FROM order_idempotency.get_order(?)";

    private static final String HISTORY = "SELECT * FROM order_idempotency.order_history(?)";

    private Orders() {
    }

    /** What to do about what cannot be done: raise an error, or report it as an outcome. */
    enum OnConflict {
        ERROR, REPORT;

        /** The word for it in SQL. */
        String word() {
            return name().toLowerCase(java.util.Locale.ROOT);
        }
    }

    /** What create_order is asked for. The amount is in minor units, such as cents; JSON is text. */
    record NewOrder(String key, long amount, String currency, String account, String payload,
            Duration payWithin, String headers) {
        NewOrder(String key, long amount, String currency) {
            this(key, amount, currency, null, null, null, null);
        }
    }

    /** The type order_result. What may be null depends on the outcome; docs/reference.md tells. */
    record Result(String orderKey, String outcome, String state, Integer version, UUID eventId,
            OffsetDateTime changedAt, String detail) {
    }

    /** A row of get_order. */
    record Order(String orderKey, String state, int version, Long amount, String currency, String account,
            String moneyStatus, String payload, boolean tombstone, OffsetDateTime createdAt,
            OffsetDateTime changedAt, List<String> allowedTransitions) {
    }

    /** A row of order_history. */
    record Step(int version, String state, OffsetDateTime at, UUID eventId, String requestKey, String reason) {
    }

    /** Creates an order. */
    static Result create(Connection connection, NewOrder order, OnConflict onConflict) throws SQLException {
        return Database.one(connection, Orders::result, CREATE, order.key, order.amount, order.currency,
                order.account, order.payload, order.payWithin == null ? null : order.payWithin.toString(),
                order.headers, onConflict.word());
    }

    /** Changes an order's state. The request key tells a repeat from a second request for the same. */
    static Result transition(Connection connection, String key, String toState, String requestKey,
            OnConflict onConflict) throws SQLException {
        return Database.one(connection, Orders::result, TRANSITION, key, toState, requestKey,
                onConflict.word());
    }

    /** Reads an order, if there is one. */
    static Optional<Order> get(Connection connection, String key) throws SQLException {
        return Database.rows(connection, Orders::order, GET, key).stream().findFirst();
    }

    /** Reads what happened to an order, oldest first. */
    static List<Step> history(Connection connection, String key) throws SQLException {
        return Database.rows(connection, Orders::step, HISTORY, key);
    }

    /** Reads an order_result. */
    private static Result result(ResultSet row) throws SQLException {
        return new Result(row.getString("order_key"), row.getString("outcome"), row.getString("state"),
                row.getObject("version", Integer.class), row.getObject("event_id", UUID.class),
                row.getObject("changed_at", OffsetDateTime.class), row.getString("detail"));
    }

    /** Reads a row of get_order. */
    private static Order order(ResultSet row) throws SQLException {
        return new Order(row.getString("order_key"), row.getString("state"), row.getInt("version"),
                row.getObject("amount", Long.class), row.getString("currency"), row.getString("account"),
                row.getString("money_status"), row.getString("payload"), row.getBoolean("tombstone"),
                row.getObject("created_at", OffsetDateTime.class),
                row.getObject("changed_at", OffsetDateTime.class), strings(row.getArray("allowed_transitions")));
    }

    /** Reads an order_step. */
    static Step step(ResultSet row) throws SQLException {
        return new Step(row.getInt("version"), row.getString("state"), row.getObject("at", OffsetDateTime.class),
                row.getObject("event_id", UUID.class), row.getString("request_key"), row.getString("reason"));
    }

    /** Reads a text[]. */
    private static List<String> strings(Array array) throws SQLException {
        return List.of((String[]) array.getArray());
    }
}
