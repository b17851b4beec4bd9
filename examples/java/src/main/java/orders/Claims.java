package orders;

import java.sql.Connection;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.time.Duration;
import java.time.OffsetDateTime;

/** The functions for claims. */
final class Claims {
    private static final String CLAIM = """
            SELECT * FROM order_idempotency.claim_key(?, ?::jsonb, scope => ?, lease => ?::interval)""";

    private static final String COMPLETE = """
            SELECT * FROM order_idempotency.complete_key(?, ?::jsonb, scope => ?, attempt => ?)""";

    private Claims() {
    }

    /** The type claim_result. */
    record Claim(String outcome, String response, Integer attempt, OffsetDateTime claimedAt,
            OffsetDateTime leaseUntil) {
    }

    /** Claims a key for the transaction; a lease, if there is one, outlives it. */
    static Claim claim(Connection connection, String scope, String key, String request, Duration lease)
            throws SQLException {
        return Database.one(connection, Claims::read, CLAIM, key, request, scope,
                lease == null ? null : lease.toString());
    }

    /**
     * Stores the response of the work that an attempt claimed; null for a claim without a lease. An
     * attempt is an Integer: bigint does not become int by itself.
     */
    static String complete(Connection connection, String scope, String key, String response, Integer attempt)
            throws SQLException {
        return Database.one(connection, row -> row.getString(1), COMPLETE, key, response, scope, attempt);
    }

    /** Reads a claim_result. */
    private static Claim read(ResultSet row) throws SQLException {
        return new Claim(row.getString("outcome"), row.getString("response"),
                row.getObject("attempt", Integer.class), row.getObject("claimed_at", OffsetDateTime.class),
                row.getObject("lease_until", OffsetDateTime.class));
    }
}
