package orders;

import java.sql.SQLException;
import java.util.Set;
import java.util.concurrent.ThreadLocalRandom;

/** Calls again what another try can mend. */
final class Retry {
    private static final int MAX_TRIES = 10;

    /** Milliseconds before the second try; it doubles from try to try. */
    private static final long FIRST_PAUSE = 20;

    private static final Set<String> CAN_RETRY = Set.of(
            "40001", // lost against another transaction
            "40P01", // deadlock
            "OI002", "55P03", // the key is in use; lock_timeout
            "53300", // no slot for a connection
            "57P01", "57P02", "57P03"); // terminated; crashed; starting

    private Retry() {
    }

    /** One try. */
    interface Try<T> {
        T run() throws SQLException;
    }

    /**
     * Runs work for as long as another try can mend what went wrong.
     *
     * work is one call or one whole transaction, takes its connection by itself, and uses the same
     * idempotency key each time: then it does not matter whether the try that got no answer was carried out.
     */
    static <T> T call(Try<T> work) throws SQLException {
        long pause = FIRST_PAUSE;
        for (int tries = 1;; tries++) {
            try {
                return work.run();
            } catch (SQLException error) {
                if (tries == MAX_TRIES || !canRetry(error)) {
                    throw error;
                }
                sleep(pause + ThreadLocalRandom.current().nextLong(pause), error);
            }
            pause *= 2;
        }
    }

    /**
     * Tells whether the same call with the same key may do better. Class 08 is a connection that is
     * lost, timed out or could not be made; the driver's own errors have SQLSTATEs too.
     */
    static boolean canRetry(SQLException error) {
        String state = error.getSQLState();
        return state != null && (state.startsWith("08") || CAN_RETRY.contains(state));
    }

    /** Waits; whoever interrupts that gets the error that would have been tried again. */
    private static void sleep(long milliseconds, SQLException error) throws SQLException {
        try {
            Thread.sleep(milliseconds);
        } catch (InterruptedException interrupted) {
            Thread.currentThread().interrupt();
            throw error;
        }
    }
}
