// The functions of order_idempotency, as this program calls them.

import pg from 'pg';
import { TryAgain, retry, transaction } from './retry.js';

// Through PgBouncer in transaction mode the next statement may meet another session,
// where nothing was prepared; a statement without a name is parsed each time.
const pooled = process.env.POOLED === '1';

// The driver gives bigint as a string, since a number holds 53 bits only.
const types = {
  getTypeParser: (oid, format) =>
    oid === pg.types.builtins.INT8 ? BigInt : pg.types.getTypeParser(oid, format),
};

// A pool of connections to the server, or to the pooler before it.
export function openPool() {
  const pool = new pg.Pool({ connectionString: process.env.DATABASE_URL, max: 4, types });

  pool.on('error', () => {}); // an idle connection was lost; the pool has dropped it
  return pool;
}

// Runs a statement, prepared under its name where that lasts.  Objects become JSON by
// themselves, but an array would become an array of SQL: pass JSON.stringify(array).
async function query(client, name, text, values) {
  const result = await client.query({ name: pooled ? undefined : name, text, values });
  return result.rows;
}

// Creates an order; the same key again gives the same answer.
export async function createOrder(client, { key, amount, currency, account, payload, payWithin, onConflict }) {
  const [order] = await query(client, 'create_order',
    `SELECT * FROM order_idempotency.create_order($1, $2, $3, account => $4, payload => $5,
                                                  pay_within => $6, on_conflict => $7)`,
    [key, amount, currency, account, payload, payWithin, onConflict ?? 'error']);
  return order;
}

// Takes an order to a state.
export async function transitionOrder(client, { key, toState, requestKey, onConflict }) {
  const [order] = await query(client, 'transition_order',
    'SELECT * FROM order_idempotency.transition_order($1, $2, request_key => $3, on_conflict => $4)',
    [key, toState, requestKey, onConflict ?? 'error']);
  return order;
}

// Cancels an order.
export async function cancelOrder(client, { key, reason }) {
  const [order] = await query(client, 'cancel_order',
    'SELECT * FROM order_idempotency.cancel_order($1, $2)', [key, reason]);
  return order;
}

// All of an order, or undefined.
export async function getOrder(client, key) {
  const [order] = await query(client, 'get_order', 'SELECT * FROM order_idempotency.get_order($1)', [key]);
  return order;
}

// The changes of an order, oldest first.
export function orderHistory(client, key) {
  return query(client, 'order_history', 'SELECT * FROM order_idempotency.order_history($1)', [key]);
}

// Claims a key.  With a lease, such as '30 seconds', the work may follow after the commit.
export async function claimKey(client, { key, request, scope, lease }) {
  const [claim] = await query(client, 'claim_key',
    'SELECT * FROM order_idempotency.claim_key($1, $2, scope => $3, lease => $4)',
    [key, request, scope, lease]);
  return claim;
}

// Stores the response of the work that a claim was for.
export async function completeKey(client, { key, response, scope, attempt }) {
  const [row] = await query(client, 'complete_key',
    'SELECT order_idempotency.complete_key($1, $2, scope => $3, attempt => $4) AS outcome',
    [key, response, scope, attempt]);
  return row.outcome;
}

// Takes an order to a state in a transaction that has other work to commit, whatever comes
// of it.  What is for good is an outcome.  The order in another transaction's hands is not:
// to commit that would be to forget the change.
async function tryTransition(client, change) {
  const order = await transitionOrder(client, { ...change, onConflict: 'report' });
  if (order.outcome === 'in_progress') throw new TryAgain(`order ${change.key} is in progress`);
  return order;
}

// Pays for an order by a provider outside of the database.  The claim is committed
// first, with a lease.  A worker that dies leaves it to the next one, which asks the
// provider under the same key, so that the customer is charged once.
//
// A claim whose answer was lost is in_progress for its own worker too, until its lease
// is over.  Where the order was cancelled meanwhile, order.outcome is illegal: refund.
export async function pay(pool, provider, { key, amount, lease }) {
  const work = { key, scope: 'payments' };
  const claim = await retry(pool, (client) => claimKey(client, { ...work, request: { amount }, lease }));
  if (claim.outcome !== 'claimed') return { claim };

  const charge = await provider.charge(key, amount);

  return retry(pool, (client) => transaction(client, async () => {
    const completed = await completeKey(client, { ...work, response: charge, attempt: claim.attempt });
    if (completed === 'stale') return { claim, completed }; // another worker's now
    const order = await tryTransition(client, { key, toState: 'paid', requestKey: charge.id });
    return { claim, completed, charge, order };
  }));
}

// Takes in a webhook: the inbox claim and its effect commit together.  An event that
// the order cannot follow is recorded as that; raising would have it sent for ever.  One
// that overtook its order raises, and is to be sent again.
export function receive(pool, delivery) {
  const inbox = { key: delivery.id, scope: 'webhooks' };

  return retry(pool, (client) => transaction(client, async () => {
    await client.query("SET LOCAL order_idempotency.in_flight_wait = '1s'");
    const claim = await claimKey(client, { ...inbox, request: delivery });
    if (claim.outcome !== 'claimed') return claim;

    const order = await tryTransition(client,
      { key: delivery.order, toState: delivery.state, requestKey: delivery.id });
    if (order.outcome === 'missing') throw new Error(`there is no order ${delivery.order}`);
    await completeKey(client, { ...inbox, response: { outcome: order.outcome } });
    return { ...claim, response: { outcome: order.outcome } };
  }));
}
