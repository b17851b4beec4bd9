package orders;

import java.util.LinkedHashMap;
import java.util.Map;

/** A client of order_idempotency: see README.md. */
public final class Main {
    private Main() {
    }

    /** Takes the steps one after the other and exits with 1 if one of them failed. */
    public static void main(String[] arguments) throws Exception {
        String url = System.getenv("DATABASE_URL");
        if (url == null || !url.startsWith("postgres")) {
            System.err.println("cannot use DATABASE_URL: " + url);
            System.exit(1);
        }
        Steps steps = new Steps(url, "1".equals(System.getenv("POOLED")));
        Map<String, Check.Action> scenario = new LinkedHashMap<>();
        scenario.put("create with retry", steps::createWithRetry);
        scenario.put("retry on 40001", steps::retrySerialization);
        scenario.put("outcome and SQLSTATE", steps::outcomes);
        scenario.put("pay with a lease", steps::payWithLease);
        scenario.put("webhook inbox", steps::webhookInbox);
        scenario.put("read the order", steps::readOrder);

        int failed = 0;
        for (Map.Entry<String, Check.Action> step : scenario.entrySet()) {
            failed += take(step.getKey(), step.getValue()) ? 0 : 1;
        }
        System.out.println("1.." + scenario.size());
        System.exit(failed > 0 ? 1 : 0);
    }

    /** Takes a step and says what came of it. */
    private static boolean take(String name, Check.Action step) {
        try {
            step.run();
            System.out.println("ok - " + name);
            return true;
        } catch (Exception | AssertionError error) {
            System.out.println("not ok - " + name + ": " + error.toString().replace('\n', ' '));
            return false;
        }
    }
}
