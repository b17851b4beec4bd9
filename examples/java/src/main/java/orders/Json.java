package orders;

import java.util.StringJoiner;

/** Enough JSON for these examples; an application has Jackson or Gson here. */
final class Json {
    private Json() {
    }

    /** An object of names and values, which are strings or numbers. */
    static String object(Object... members) {
        StringJoiner json = new StringJoiner(", ", "{", "}");
        for (int i = 0; i < members.length; i += 2) {
            Object value = members[i + 1];
            json.add(quote((String) members[i]) + ": " + (value instanceof Number ? value : quote((String) value)));
        }
        return json.toString();
    }

    /** A string as JSON writes it. */
    private static String quote(String text) {
        StringBuilder json = new StringBuilder("\"");
        for (char c : text.toCharArray()) {
            if (c == '"' || c == '\\' || c < ' ') {
                json.append(String.format("\\u%04x", (int) c));
            } else {
                json.append(c);
            }
        }
        return json.append('"').toString();
    }
}
