// A payment provider in the same process.  As real ones do, it knows an idempotency key
// again and answers what it answered first.

export class Provider {
  charges = []; // what customers were really charged

  #answers = new Map();

  // Charges an amount, once a key.
  async charge(key, amount) {
    if (!this.#answers.has(key)) {
      const charge = { id: `ch-${key}`, amount };
      this.charges.push(charge);
      this.#answers.set(key, charge);
    }
    return this.#answers.get(key);
  }
}
