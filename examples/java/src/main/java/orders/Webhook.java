package orders;

import java.sql.Connection;
import java.sql.SQLException;
import orders.Claims.Claim;
import orders.Orders.OnConflict;

/** What a payment provider posts to; it does that more than once if it likes. */
final class Webhook {
    private static final String SCOPE = "webhooks";

    private final Database database;

    Webhook(Database database) {
        this.database = database;
    }

    /** What is delivered: this order was paid by this charge. */
    record Delivery(String id, String order, String charge) {
        /** The body; a delivery's name must not stand for another one. */
        String json() {
            return Json.object("id", id, "order", order, "charge", charge);
        }
    }

    /** What it came to: the JSON to answer, and whether that was stored before. */
    record Handled(String response, boolean replayed) {
    }

    /** Nothing was kept of the delivery: the provider shall send it again, so answer 409. */
    static final class SendAgain extends RuntimeException {
        private static final long serialVersionUID = 1;

        SendAgain(String why) {
            super(why);
        }
    }

    /** Marks an order as paid, once for each delivery. */
    Handled handle(Delivery delivery) throws SQLException {
        return Retry.call(() -> database.transaction(connection -> handle(connection, delivery)));
    }

    /**
     * The transaction. The claim has no lease: it commits with the change, or not at all. SET is LOCAL
     * because behind a pooler a setting of the session is somebody else's soon.
     */
    private Handled handle(Connection connection, Delivery delivery) throws SQLException {
        Database.execute(connection, "SET LOCAL order_idempotency.in_flight_wait = '2 s'");
        Claim claim = Claims.claim(connection, SCOPE, delivery.id, delivery.json(), null);
        switch (claim.outcome()) {
            case "claimed":
                String response = Json.object("outcome", apply(connection, delivery));
                Claims.complete(connection, SCOPE, delivery.id, response, null);
                return new Handled(response, false);
            case "replayed":
                return new Handled(claim.response(), true);
            default:
                throw new SendAgain(delivery.id + ": " + claim.outcome());
        }
    }

    /**
     * Changes the order's state. Not being possible for good is an outcome, because an error would
     * undo the claim and the provider would send the delivery for ever. What may become possible is an
     * error: the order is in use, or was not created yet.
     */
    private String apply(Connection connection, Delivery delivery) throws SQLException {
        String outcome = Orders.transition(connection, delivery.order, "paid", delivery.charge,
                OnConflict.REPORT).outcome();
        if (outcome.equals("in_progress") || outcome.equals("missing")) {
            throw new SendAgain(delivery.order + ": " + outcome);
        }
        return outcome;
    }
}
