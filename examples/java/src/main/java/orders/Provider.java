package orders;

/**
 * A payment provider. A charge with a key that it knows is the charge of the first time; without such
 * a provider no order can be paid exactly once.
 */
interface Provider {
    /** Charges a card and returns the charge's name. */
    String charge(String key, long amount);
}
