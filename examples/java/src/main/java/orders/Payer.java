package orders;

import java.sql.SQLException;
import java.time.Duration;
import orders.Claims.Claim;
import orders.Orders.OnConflict;
import orders.Orders.Order;

/**
 * Charges orders through a provider. The call to the provider cannot be part of a transaction; the
 * claim with a lease holds what lies around it together: at most one worker at a time, and after a
 * crash another one.
 */
final class Payer {
    private static final String SCOPE = "payments";

    private final Database database;
    private final Provider provider;
    private final Duration lease;

    /** The lease must be longer than a call to the provider takes. */
    Payer(Database database, Provider provider, Duration lease) {
        this.database = database;
        this.provider = provider;
        this.lease = lease;
    }

    /** Another worker is at it, or was when it crashed: come back later. */
    static final class InProgress extends RuntimeException {
        private static final long serialVersionUID = 1;
    }

    /** The lease ended and another attempt has taken over: it has the say now. */
    static final class Stale extends RuntimeException {
        private static final long serialVersionUID = 1;
    }

    /** Made from the order, so that each worker that comes to it uses the same, also at the provider. */
    static String key(Order order) {
        return "pay-" + order.orderKey();
    }

    /**
     * Charges an order and records that. Call it again until it succeeds. If the provider fails the
     * lease is kept, for nobody knows whether it has charged.
     */
    void pay(Order order) throws SQLException {
        Claim claim = claim(order);
        if (claim.outcome().equals("claimed")) {
            String charge = provider.charge(key(order), order.amount());
            record(order, claim.attempt(), charge);
        }
    }

    /** Claims the payment for this worker, and commits that. The outcome is claimed or replayed. */
    Claim claim(Order order) throws SQLException {
        String request = Json.object("order", order.orderKey(), "amount", order.amount(),
                "currency", order.currency());
        Claim claim = Retry.call(() -> database.call(
                connection -> Claims.claim(connection, SCOPE, key(order), request, lease)));
        return switch (claim.outcome()) {
            case "claimed", "replayed" -> claim;
            case "in_progress" -> throw new InProgress();
            default -> throw new IllegalStateException(key(order) + ": " + claim.outcome());
        };
    }

    /**
     * Completes the claim and changes the order's state, both or neither. The claim comes first: an
     * attempt that was overtaken must change nothing.
     */
    void record(Order order, int attempt, String charge) throws SQLException {
        Retry.call(() -> database.transaction(connection -> {
            String receipt = Json.object("charge", charge);
            String outcome = Claims.complete(connection, SCOPE, key(order), receipt, attempt);
            if (!outcome.equals("completed") && !outcome.equals("replayed")) {
                throw new Stale();
            }
            return Orders.transition(connection, order.orderKey(), "paid", charge, OnConflict.ERROR);
        }));
    }
}
