// Work on the database that is done again until there is an answer.
//
// A call that carries an idempotency key may be made again when nobody knows what
// became of it: the repeat gets the first one's answer.  So one rule does for lost
// connections, serialization failures and deadlocks alike: once more, a little later.

import pg from 'pg';
import { setTimeout as sleep } from 'node:timers/promises';

const FIRST_PAUSE = 20; // milliseconds, doubled each time up to the longest
const LONGEST_PAUSE = 1000;

// Connection trouble, serialization failure, deadlock, too many connections,
// lock_timeout, server going down or coming up, key held by another transaction.
const AGAIN = /^(08...|40001|40P01|53300|55P03|57P0[123]|OI002)$/;

// What work throws that wants to be done again.
export class TryAgain extends Error {}

// The connection broke, or could not be made; what the driver said is the cause.
export class ConnectionLost extends TryAgain {}

// Is the error one that another try may cure?
export function mayRetry(error) {
  return error instanceof TryAgain || (error instanceof pg.DatabaseError && AGAIN.test(error.code));
}

// Calls work(client) with a connection of the pool until it returns.  It may be
// called several times, so whatever it does outside of the database must bear that.
export async function retry(pool, work, tries = 10) {
  for (let tried = 1; ; tried++) {
    try {
      return await withConnection(pool, work);
    } catch (error) {
      if (!mayRetry(error) || tried === tries) throw error;
    }
    await sleep(pause(tried));
  }
}

// Calls work(client) in a transaction; what it throws rolls that back.
export async function transaction(client, work, isolation = 'READ COMMITTED') {
  await client.query(`BEGIN ISOLATION LEVEL ${isolation}`);
  try {
    const result = await work(client);
    await client.query('COMMIT');
    return result;
  } catch (error) {
    await client.query('ROLLBACK').catch(() => {}); // a lost connection did that
    throw error;
  }
}

// Calls work(client) with a connection that goes back to the pool only if it is whole.
async function withConnection(pool, work) {
  const client = await connect(pool);
  let lost;
  const onError = (error) => (lost = error);

  client.on('error', onError); // without a listener a lost connection ends the process
  try {
    return await work(client);
  } catch (error) {
    throw lost ? new ConnectionLost('the connection was lost', { cause: error }) : error;
  } finally {
    client.off('error', onError);
    client.release(lost);
  }
}

// A connection of the pool.  What the server answered, such as a wrong password, stays.
async function connect(pool) {
  try {
    return await pool.connect();
  } catch (error) {
    if (error instanceof pg.DatabaseError) throw error;
    throw new ConnectionLost('could not connect', { cause: error });
  }
}

// How long to wait after so many tries: at random, so that rivals part.
function pause(tried) {
  return Math.random() * Math.min(FIRST_PAUSE * 2 ** tried, LONGEST_PAUSE);
}
