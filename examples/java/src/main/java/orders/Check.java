package orders;

import java.util.Objects;

/** What a step expects. */
final class Check {
    private Check() {
    }

    /** What is run. */
    interface Action {
        void run() throws Exception;
    }

    /** Says how a value differs from what it should be. */
    static void equal(String what, Object is, Object should) {
        if (!Objects.equals(is, should)) {
            throw new AssertionError(what + ": " + is + ", not " + should);
        }
    }

    /** Returns the error that an action must raise. */
    static <E extends Exception> E raises(Class<E> type, Action action) {
        try {
            action.run();
        } catch (Exception error) {
            if (type.isInstance(error)) {
                return type.cast(error);
            }
            throw new AssertionError(error.toString(), error);
        }
        throw new AssertionError("no " + type.getSimpleName());
    }
}
