// The scenario of examples/clients.md.  DATABASE_URL says where the database is;
// POOLED=1, that PgBouncer in transaction mode is before it.

import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import * as orders from './orders.js';
import { Provider } from './provider.js';
import { retry, transaction } from './retry.js';

const prefix = `node-${randomUUID()}`; // each run has keys of its own
const pool = orders.openPool();

// The connection breaks, as the driver sees it.
function cutConnection(client) {
  client.connection.stream.destroy();
  return client.query('SELECT 1');
}

// The create commits, its answer is lost, and the same call gets it.
async function createWithRetry() {
  const request = { key: `${prefix}-create`, amount: 4990n, currency: 'EUR', account: 'alice' };
  const seen = [];

  const order = await retry(pool, async (client) => {
    const answer = await orders.createOrder(client, request);
    seen.push(answer);
    if (seen.length === 1) await cutConnection(client);
    return answer;
  });
  assert.deepEqual(seen.map((answer) => answer.outcome), ['created', 'replayed']);
  assert.equal(order.event_id, seen[0].event_id);
}

// A rival commits after the snapshot was taken; the transaction is run again.
async function retryOn40001() {
  const request = { key: `${prefix}-rival`, amount: 100n, currency: 'EUR' };
  const states = [];
  let rival;

  const order = await retry(pool, (client) => transaction(client, async () => {
    const before = await orders.getOrder(client, request.key);
    if (!rival) {
      assert.equal(before, undefined);
      rival = await retry(pool, (other) => orders.createOrder(other, request));
    }
    return orders.createOrder(client, request).catch((error) => {
      states.push(error.code);
      throw error;
    });
  }, 'REPEATABLE READ'));
  assert.deepEqual(states, ['40001']);
  assert.equal(order.outcome, 'replayed');
  assert.equal(order.event_id, rival.event_id);
}

// What cannot be done is an error with a SQLSTATE in code, or an outcome.
async function outcomeAndSqlstate() {
  const order = { key: `${prefix}-conflict`, amount: 4990n, currency: 'EUR' };
  const conflicts = [
    ['OI001', 'mismatch', /amount/, undefined, orders.createOrder, { ...order, amount: 9990n }],
    ['OI003', 'illegal', /"created"/, /"paid"/, orders.transitionOrder, { key: order.key, toState: 'completed' }],
    ['OI004', 'missing', undefined, undefined, orders.transitionOrder, { key: `${prefix}-none`, toState: 'paid' }],
  ];

  await retry(pool, async (client) => {
    await orders.createOrder(client, order);
    for (const [code, outcome, detail, hint, call, request] of conflicts) {
      await assert.rejects(call(client, request), (error) => {
        assert.equal(error.code, code);
        if (detail) assert.match(error.detail, detail);
        if (hint) assert.match(error.hint, hint);
        return true;
      });
      const reported = await call(client, { ...request, onConflict: 'report' });
      assert.equal(reported.outcome, outcome);
      if (detail) assert.match(reported.detail, detail);
    }
  });
}

// Pays with a worker whose process ends right after the charge.
async function payAndCrash(provider, payment) {
  const worker = orders.openPool();
  const crashing = {
    async charge(key, amount) {
      await provider.charge(key, amount);
      throw new Error('crash');
    },
  };

  await assert.rejects(orders.pay(worker, crashing, payment), /^Error: crash$/);
  await worker.end();
}

// Pays once the lease of whoever has the claim is over.
async function payAfterLease(provider, payment) {
  const seen = [];

  for (;;) {
    const result = await orders.pay(pool, provider, payment);
    seen.push(result.claim);
    if (result.claim.outcome !== 'in_progress') return { ...result, seen };
    await sleep(100);
  }
}

// A worker dies between charge and commit; the next one finishes, with one charge.
async function payWithALease() {
  const payment = { key: `${prefix}-pay`, amount: 2500, lease: '2 seconds' };
  const provider = new Provider();

  await retry(pool, (client) => orders.createOrder(client, { ...payment, currency: 'EUR', account: 'bob' }));
  await payAndCrash(provider, payment);
  const { claim, completed, order, seen } = await payAfterLease(provider, payment);
  assert.equal(claim.attempt, 2);
  for (const waiting of seen.slice(0, -1)) {
    assert.equal(waiting.attempt, 1);
    assert.ok(claim.claimed_at >= waiting.lease_until);
  }
  assert.deepEqual([completed, order.outcome, order.state], ['completed', 'applied', 'paid']);
  assert.equal(provider.charges.length, 1);

  const late = { key: payment.key, scope: 'payments', response: {}, attempt: 1 };
  assert.equal(await retry(pool, (client) => orders.completeKey(client, late)), 'stale');
  const again = await orders.pay(pool, provider, payment);
  assert.deepEqual(again.claim.response, provider.charges[0]);
}

// Every delivery comes twice; its effect and its answer are the first one's.  The first of
// all comes too early, and leaves nothing.
async function webhookInbox() {
  const key = `${prefix}-webhook`;
  const paid = { id: `${key}-1`, order: key, state: 'paid' };
  const outOfPlace = { id: `${key}-2`, order: key, state: 'cancelled' };

  await assert.rejects(orders.receive(pool, paid), /there is no order/);
  await retry(pool, (client) => orders.createOrder(client, { key, amount: 700n, currency: 'EUR', account: 'carol' }));
  for (const [delivery, outcome] of [[paid, 'applied'], [outOfPlace, 'illegal']]) {
    const first = await orders.receive(pool, delivery);
    const second = await orders.receive(pool, delivery);
    assert.deepEqual([first.outcome, first.response], ['claimed', { outcome }]);
    assert.deepEqual([second.outcome, second.response], ['replayed', { outcome }]);
  }
  const changed = await orders.receive(pool, { ...paid, state: 'completed' });
  assert.equal(changed.outcome, 'mismatch');
  const history = await retry(pool, (client) => orders.orderHistory(client, key));
  assert.deepEqual(history.map((step) => step.state), ['created', 'paid']);
}

// Values come as the driver's users know them.
async function readTheOrder() {
  const key = `${prefix}-read`;
  const payload = { sku: 'bø👟k', lines: [{ n: 1, price: 12.5 }, null] };
  const amount = 2n ** 53n + 1n; // which a number could not hold

  await retry(pool, async (client) => {
    const created = await orders.createOrder(client,
      { key, amount, currency: 'EUR', account: 'dave', payload, payWithin: '15 minutes' });
    const paid = await orders.transitionOrder(client, { key, toState: 'paid', requestKey: 'charge' });
    const order = await orders.getOrder(client, key);
    const history = await orders.orderHistory(client, key);

    assert.equal(order.amount, amount);
    assert.deepEqual(order.payload, payload);
    assert.deepEqual(order.allowed_transitions, ['completed']);
    assert.equal(order.tombstone, false);
    assert.ok(order.created_at instanceof Date && order.changed_at >= order.created_at);
    assert.deepEqual(history.map((step) => [step.version, step.state, step.event_id, step.request_key]),
      [[1, 'created', created.event_id, null], [2, 'paid', paid.event_id, 'charge']]);
    assert.deepEqual(history[1].at, order.changed_at);
    assert.equal(await orders.getOrder(client, `${key}-none`), undefined);
  });
}

// Runs one step and tells how it went.
async function run(name, step) {
  try {
    await step();
    console.log(`ok - ${name}`);
    return true;
  } catch (error) {
    console.log(`not ok - ${name}: ${String(error.message).replaceAll('\n', ' ')}`);
    console.error(error);
    return false;
  }
}

const steps = {
  'create with retry': createWithRetry,
  'retry on 40001': retryOn40001,
  'outcome and SQLSTATE': outcomeAndSqlstate,
  'pay with a lease': payWithALease,
  'webhook inbox': webhookInbox,
  'read the order': readTheOrder,
};
let good = true;
for (const [name, step] of Object.entries(steps)) good = (await run(name, step)) && good;
await pool.end();
console.log(`1..${Object.keys(steps).length}`);
process.exitCode = good ? 0 : 1;
