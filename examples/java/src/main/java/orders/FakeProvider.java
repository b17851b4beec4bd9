package orders;

import com.sun.net.httpserver.HttpExchange;
import com.sun.net.httpserver.HttpServer;
import java.io.IOException;
import java.net.InetAddress;
import java.net.InetSocketAddress;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse.BodyHandlers;
import java.nio.charset.StandardCharsets;
import java.util.Map;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.atomic.AtomicInteger;

/** A provider on a port of its own. It knows the keys that it has seen, and counts. */
final class FakeProvider implements Provider, AutoCloseable {
    private final HttpServer server;
    private final HttpClient client = HttpClient.newHttpClient();
    private final Map<String, String> charges = new ConcurrentHashMap<>();
    private final AtomicInteger calls = new AtomicInteger();

    FakeProvider() throws IOException {
        server = HttpServer.create(new InetSocketAddress(InetAddress.getLoopbackAddress(), 0), 0);
        server.createContext("/charges", this::answer);
        server.start();
    }

    /** The provider's side of a charge. */
    private void answer(HttpExchange exchange) throws IOException {
        String key = exchange.getRequestHeaders().getFirst("Idempotency-Key");
        int call = calls.incrementAndGet();
        byte[] charge = charges.computeIfAbsent(key, k -> "ch_" + k + "_" + call).getBytes(StandardCharsets.UTF_8);
        exchange.sendResponseHeaders(200, charge.length);
        exchange.getResponseBody().write(charge);
        exchange.close();
    }

    /** The worker's side of it. */
    @Override
    public String charge(String key, long amount) {
        URI uri = URI.create("http://127.0.0.1:" + server.getAddress().getPort() + "/charges");
        HttpRequest request = HttpRequest.newBuilder(uri).header("Idempotency-Key", key)
                .POST(HttpRequest.BodyPublishers.ofString("amount=" + amount)).build();
        try {
            return client.send(request, BodyHandlers.ofString()).body();
        } catch (IOException error) {
            throw new IllegalStateException("no answer of the provider", error);
        } catch (InterruptedException error) {
            Thread.currentThread().interrupt();
            throw new IllegalStateException("interrupted", error);
        }
    }

    /** How often it was called. */
    int calls() {
        return calls.get();
    }

    /** How often it charged. */
    int charges() {
        return charges.size();
    }

    @Override
    public void close() {
        server.stop(0);
    }
}
