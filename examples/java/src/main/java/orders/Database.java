package orders;

import java.net.URI;
import java.net.URLDecoder;
import java.nio.charset.StandardCharsets;
import java.sql.Connection;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.util.ArrayList;
import java.util.List;
import java.util.Objects;
import org.postgresql.ds.PGSimpleDataSource;

/**
 * Where connections come from. This one opens one for each piece of work; an application puts a
 * pool such as HikariCP around the same data source.
 */
final class Database {
    /** The isolation level that serializes without predicate locks; a loser gets 40001. */
    static final String REPEATABLE_READ = "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ";

    /** Seconds without an answer after which a connection counts as lost; more than in_flight_wait. */
    private static final int SOCKET_TIMEOUT = 30;

    private final PGSimpleDataSource source;

    Database(PGSimpleDataSource source) {
        this.source = source;
    }

    /** What is done on a connection. */
    interface Work<T> {
        T run(Connection connection) throws SQLException;
    }

    /** How a row becomes a value. */
    interface Row<T> {
        T read(ResultSet row) throws SQLException;
    }

    /**
     * The data source for a URL postgres://user:password@host:port/database?property=value.
     *
     * With pooled, PgBouncer or another pooler in transaction mode stands between: each transaction
     * may come to another session of the server, and what was prepared in the last one is not there.
     * prepareThreshold 0 says never to prepare under a name; parameters travel apart from the
     * statement all the same. Without a pooler 1 prepares at once, where the driver's own 5 waits for
     * the fifth time on one connection.
     */
    static PGSimpleDataSource source(String url, boolean pooled) throws SQLException {
        URI uri = URI.create(url);
        PGSimpleDataSource source = new PGSimpleDataSource();
        source.setServerNames(new String[] {uri.getHost()});
        source.setPortNumbers(new int[] {uri.getPort() < 0 ? 5432 : uri.getPort()});
        source.setDatabaseName(decode(uri.getRawPath().substring(1)));
        if (uri.getRawUserInfo() != null) {
            String[] login = uri.getRawUserInfo().split(":", 2);
            source.setUser(decode(login[0]));
            source.setPassword(login.length > 1 ? decode(login[1]) : null);
        }
        source.setSocketTimeout(SOCKET_TIMEOUT);
        source.setPrepareThreshold(pooled ? 0 : 1);
        String query = Objects.requireNonNullElse(uri.getRawQuery(), "");
        for (String property : query.isEmpty() ? new String[0] : query.split("&")) {
            String[] parts = property.split("=", 2);
            source.setProperty(decode(parts[0]), parts.length > 1 ? decode(parts[1]) : "");
        }
        return source;
    }

    /** Runs work whose every statement is a transaction of its own. */
    <T> T call(Work<T> work) throws SQLException {
        try (Connection connection = source.getConnection()) {
            return work.run(connection);
        }
    }

    /** Runs work as one transaction: it commits when work returns, and nothing stays if it throws. */
    <T> T transaction(Work<T> work) throws SQLException {
        try (Connection connection = source.getConnection()) {
            connection.setAutoCommit(false);
            T result;
            try {
                result = work.run(connection);
            } catch (SQLException | RuntimeException error) {
                rollback(connection, error);
                throw error;
            }
            connection.commit();
            return result;
        }
    }

    /** Makes a call with parameters and reads its rows. */
    static <T> List<T> rows(Connection connection, Row<T> row, String sql, Object... parameters)
            throws SQLException {
        try (PreparedStatement statement = connection.prepareStatement(sql)) {
            for (int i = 0; i < parameters.length; i++) {
                statement.setObject(i + 1, parameters[i]);
            }
            List<T> results = new ArrayList<>();
            try (ResultSet rows = statement.executeQuery()) {
                while (rows.next()) {
                    results.add(row.read(rows));
                }
            }
            return results;
        }
    }

    /** Makes a call that has one row. */
    static <T> T one(Connection connection, Row<T> row, String sql, Object... parameters)
            throws SQLException {
        return rows(connection, row, sql, parameters).get(0);
    }

    /** Makes a statement that has no rows. */
    static void execute(Connection connection, String sql) throws SQLException {
        try (PreparedStatement statement = connection.prepareStatement(sql)) {
            statement.execute();
        }
    }

    /** Rolls back; that this fails on a lost connection must not hide why it was done. */
    private static void rollback(Connection connection, Exception why) {
        try {
            connection.rollback();
        } catch (SQLException error) {
            why.addSuppressed(error);
        }
    }

    /** A part of a URL as it was meant; a plus sign is a plus sign there. */
    private static String decode(String part) {
        return URLDecoder.decode(part.replace("+", "%2B"), StandardCharsets.UTF_8);
    }
}
