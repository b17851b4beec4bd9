/*-------------------------------------------------------------------------
 *
 * cycle.c
 *		What a worker does over and over.
 *
 * A cycle is, under the subscription's lock (sublock.c): read events (drain.c),
 * hand them to the sink (sink_loader.c), judge what it said (judge.c), record
 * what became of them and where the cursor is, in one transaction.  That commits
 * asynchronously, and is durable before the worker rests and, but for the first 10 ms,
 * before anything else goes out.  So what a crash leaves that is not recorded is
 * one delivery, or those of 10 ms, of OI_SINK_MAX_EVENTS events altogether: they are
 * made again under the same event ids, unless the sink finds those at the receiver.
 *
 * An error of the sink is the sink's: see breaker.c for what is done about it.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xlog.h"
#include "clock.h"
#include "common/pg_prng.h"
#include "cycle.h"
#include "durable.h"
#include "fault.h"
#include "guc.h"
#include "handover.h"
#include "intent.h"
#include "miscadmin.h"
#include "pace.h"
#include "pgstat.h"
#include "postmaster/interrupt.h"
#include "sublock.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

/* ms that the worker stays away when a delivery was broken off for somebody */
#define YIELD 200

/* the log's time for each of events that failed before */
#define LOG_SHARE 4

/*
 * A cursor that only passed over rows is recorded when it passed over so
 * many, or when so many ms went by.
 */
#define PASSED_MOST 100000
#define RECORD_INTERVAL 60000

/*
 * Have the cursor know what is open of the batch of the log: what became of events behind
 * an open one must not be forgotten with the batch.  And of a numbered sink's events, of
 * another batch that is about to be recorded.
 */
static void
note_open(const OiBatch *batch)
{
	OiCursor   *cursor = &oi_worker.cursor;
	const OiBatch *log = oi_worker.sub->parks ? oi_worker.batch : NULL;
	const OiBatch *failed = cursor->numbered && batch != NULL && batch->failed ? batch : NULL;

	oi_open_note(&cursor->open_log, log, cursor->context);
	cursor->open_upto = log != NULL ? log->upto : 0;
	oi_open_note(&cursor->open_failed, failed, cursor->context);
}

/*
 * Record the cursor, and what became of the events of a batch.  Everything is
 * loaded anew if somebody else changed the cursor; only he who has broken
 * into the subscription's lock can have.
 */
static void
record(const OiTally *tally, OiBatch *batch)
{
	OI_FAULT_POINT("drain:record");
	note_open(batch);
	if (!oi_drain_record(oi_worker.sub, &oi_worker.cursor, tally, batch, &oi_worker.held))
		oi_worker_load();
	OI_FAULT_POINT("drain:recorded");
	pgstat_report_stat(false);
}

/*
 * Move past rows that the subscription does not want, without a write for
 * each time.
 */
static void
pass_over(const OiBatch *batch)
{
	const OiTally none = {0};
	OiCursor   *cursor = &oi_worker.cursor;

	oi_drain_advance(cursor, batch);
	if (cursor->passed > PASSED_MOST ||
		(cursor->passed > 0 &&
		 oi_uptime() - cursor->recorded_at >= RECORD_INTERVAL * 1000))
		record(&none, NULL);
}

/*
 * Read the next batch, or the next part of it.  False: there is nothing to
 * do, as of a moment that came after the request for a wake-up; so whoever
 * commits events after it will set our latch.
 */
static bool
fetch_batch(void)
{
	bool		opens = oi_worker.cursor.batch.snapshot == NULL;
	int64		before = oi_worker.read_at;
	bool		old;
	OiBatch    *batch;

	MemoryContextReset(oi_worker.batch_context);
	MemoryContextSwitchTo(oi_worker.batch_context);
	pgstat_report_activity(STATE_RUNNING, "reading the log");

	/* before the snapshot is taken, or a commit after it would be missed */
	oi_slot_sleep(true);
	oi_worker.read_at = oi_uptime();
	batch = oi_drain_read(oi_worker.sub, &oi_worker.cursor);
	if (batch == NULL)
	{
		oi_worker_load();
		return true;
	}

	oi_worker.busy = batch->exhausted && batch->n > 1 &&
		oi_worker.read_at - before < batch->n * 1000;

	/* the end of an older incarnation of the log is not that of the log */
	old = oi_moment_is_end(&oi_worker.cursor.batch);
	if (batch->n == 0)
	{
		bool		exhausted = batch->exhausted;

		pass_over(batch);
		return old || !opens || !exhausted || !oi_slot_sleeps();
	}
	oi_slot_sleep(false);
	oi_worker.batch = batch;
	OI_FAULT_POINT("drain:read");
	return true;
}

/*
 * Read again what is open of a batch of the log, from before the worker started or
 * somebody changed something.
 */
static bool
fetch_open(void)
{
	MemoryContextReset(oi_worker.batch_context);
	MemoryContextSwitchTo(oi_worker.batch_context);
	oi_worker.batch = oi_drain_read_open(oi_worker.sub, &oi_worker.cursor, false);
	if (oi_worker.batch == NULL)
		oi_worker_load();
	return true;
}

/*
 * A delivery failed: show it, and log it once for each error.
 */
static void
note_failure(const char *error, bool log)
{
	oi_slot_note_error(error);
	if (!log || strncmp(oi_worker.error, error, OI_ERROR_LEN - 1) == 0)
		return;
	strlcpy(oi_worker.error, error, OI_ERROR_LEN);
	ereport(WARNING,
			(errcode(ERRCODE_FDW_ERROR),
			 errmsg("could not deliver events of subscription \"%s\": %s",
					oi_worker.sub->name, error),
			 errhint("Delivery is tried again until it succeeds.")));
}

/*
 * The receiver is taken for down: wait before the next probe.
 */
static void
back_off(const char *error, int retry_after)
{
	int			wait = oi_breaker_wait(&oi_worker.breaker,
									   pg_prng_double(&pg_global_prng_state));

	oi_breaker_failure(&oi_worker.breaker, oi_now(), Max(wait, retry_after));
	note_failure(error, true);
}

/*
 * Choose what to hand over.  What a numbered sink is given is recorded first; NULL
 * if it is now, since that has to be durable.
 */
static OiDelivery *
choose(OiBatch *batch)
{
	const OiTally none = {0};
	OiDelivery *delivery;

	if (oi_worker.receiver == OI_RECEIVER_AHEAD || !oi_worker.cursor.numbered)
		oi_intent_withdraw(batch);
	if (oi_intent_has(batch))
		return oi_intent_choose(batch);

	oi_worker.receiver = OI_RECEIVER_SILENT;
	delivery = oi_judge_choose(batch, oi_worker.breaker.open ? 1 : oi_worker.breaker.limit);
	if (!oi_worker.cursor.numbered || delivery->n == 0)
		return delivery;
	oi_intent_make(&oi_worker.cursor, batch, delivery);
	record(&none, batch);
	OI_FAULT_POINT("intent:recorded");
	return NULL;
}

/*
 * Events failed, and nothing was delivered, or there is no room: should they be
 * left where they are?  Unfit ones say nothing of the receiver.
 */
static bool
keeps_in_batch(const OiVerdict *verdict, const OiBatch *batch, bool unfit)
{
	if (batch->failed || verdict->keys == 0)
		return false;
	if (!unfit && verdict->delivered == 0 && oi_breaker_trips(&oi_worker.breaker, verdict->keys))
		return true;
	return oi_held_count(&oi_worker.held) + verdict->new_keys > oi_worker.sub->max_parked_keys;
}

/*
 * Judge a delivery and record it.
 */
static void
settle(OiBatch *batch, const OiDelivery *delivery)
{
	bool		probe = oi_worker.breaker.open && !delivery->unfit;
	OiVerdict	verdict = oi_judge(oi_worker.sub, batch, delivery, &oi_worker.held,
								   probe, oi_now());
	OiTally		tally = {.delivered = verdict.delivered,.retried = verdict.parked};

	if (verdict.delivered > 0)
	{
		oi_breaker_success(&oi_worker.breaker, oi_worker.sub->batch_size);
		oi_worker.error[0] = '\0';
	}
	if (keeps_in_batch(&verdict, batch, delivery->unfit))
	{
		oi_judge_reopen(batch, delivery);
		tally.retried = 0;
		verdict.dead = 0;
		back_off(verdict.reason, verdict.retry_after);
	}
	else if (verdict.keys == 0 && verdict.delivered == 0 && delivery->n > 0)
		back_off("receiver did not say what became of the events", 0);
	else if (verdict.keys > 0 && verdict.delivered == 0 && probe)
		back_off(verdict.reason, verdict.retry_after);
	else if (verdict.keys > 0)
		note_failure(verdict.reason, verdict.delivered == 0);

	if (delivery->n > 0 && !delivery->unfit)
		oi_intent_note_settled(&oi_worker.cursor, batch);
	oi_judge_report_dead(oi_worker.sub, &verdict);
	if (!batch->failed)
		oi_drain_advance(&oi_worker.cursor, batch);
	record(&tally, batch);
}

/*
 * Deliver what is open of a batch, or as much of it as the breaker allows.
 */
static void
deliver(OiBatch *batch)
{
	OiDelivery *delivery = NULL;
	char	   *error = NULL;
	OiHandover	how = OI_HANDOVER_ANSWERED;

	MemoryContextSwitchTo(oi_worker.cycle_context);
	oi_judge_set_aside(batch, &oi_worker.held);
	delivery = oi_judge_choose_unfit(batch);
	if (delivery != NULL)
	{
		settle(batch, delivery);
		return;
	}
	if (oi_judge_has_open(batch))
		how = oi_handover(NULL, &error);
	if (how == OI_HANDOVER_ANSWERED)
	{
		delivery = choose(batch);
		if (delivery == NULL)
			return;
		oi_handover_set_timeout(delivery, batch);
		if (delivery->n > 0 && !oi_handover_was_received(delivery))
		{
			oi_worker.cursor.unflushed += delivery->n;
			how = oi_handover(delivery, &error);
		}
	}

	if (how != OI_HANDOVER_ANSWERED && oi_slot_take_cancel())
	{
		/* what became of it is not known; let him in who waits */
		oi_breaker_failure(&oi_worker.breaker, oi_now(), YIELD);
		return;
	}
	if (how == OI_HANDOVER_NOT_STARTED)
		back_off(error, 0);
	else if (how == OI_HANDOVER_FAILED && oi_worker.cursor.numbered)
		back_off(error, 0);
	else if (how == OI_HANDOVER_FAILED && delivery->n > 1)
	{
		oi_breaker_narrow(&oi_worker.breaker, delivery->n, oi_now());
		note_failure(error, true);
	}
	else
	{
		if (how == OI_HANDOVER_FAILED)
			oi_judge_failure(delivery, error);
		settle(batch, delivery);
	}
}

/*
 * Is it time for what failed before?  It takes turns with the log, so that
 * neither keeps the other waiting.  The record of what went out last has to be
 * durable.
 */
static bool
is_turn_of_failed(void)
{
	if (oi_worker.held.next_due > oi_now() || oi_worker.log_next ||
		(oi_uptime() < oi_worker.log_until && !oi_worker.breaker.open) ||
		!oi_pace_flush(oi_worker.cursor.lsn))
	{
		oi_worker.log_next = false;
		return false;
	}
	oi_worker.log_next = true;
	return true;
}

/*
 * Deliver what was read.  It has to be durable, and so has the record of what went
 * out before.
 */
static void
deliver_batch(void)
{
	OI_FAULT_POINT("drain:durable");
	deliver(oi_worker.batch);
	if (oi_worker.batch != NULL && oi_worker.batch->n == 0)
		oi_worker.batch = NULL;
}

/*
 * Events that failed before were at their turn since then: how long is it the log's,
 * as long as it has something?
 */
static int64
log_time(int64 began)
{
	int64		now = oi_uptime();

	return now + LOG_SHARE * (now - began);
}

/*
 * Do the next thing, if there is one.  What was read is delivered at once, unless
 * standbys do not have it yet: then the lock must be let go of meanwhile.
 */
static bool
work(void)
{
	OiBatch    *batch;
	OiCursor   *cursor = &oi_worker.cursor;
	bool		redo = cursor->open_failed.n > 0;
	int64		began = oi_uptime();

	if (oi_worker.batch == NULL && cursor->open_log.n > 0)
		return fetch_open();
	if (redo || ((oi_worker.batch == NULL || !oi_intent_has(oi_worker.batch)) &&
				 is_turn_of_failed()))
	{
		MemoryContextSwitchTo(oi_worker.cycle_context);
		batch = redo ? oi_drain_read_open(oi_worker.sub, cursor, true) :
			oi_drain_read_failed(oi_worker.sub, cursor, &oi_worker.held, oi_now());
		if (batch == NULL)
			oi_worker_load();
		else if (redo || batch->n > 0)
		{
			deliver(batch);
			oi_worker.log_until = log_time(began);
		}
		return true;
	}
	if (oi_worker.batch == NULL)
	{
		if (!fetch_batch())
		{
			oi_worker.log_until = 0;
			return oi_worker.held.next_due <= oi_now();
		}
		if (oi_worker.batch != NULL && oi_pace_flush(oi_pace_lsn()))
			deliver_batch();
	}
	else if (!oi_drain_current(oi_worker.sub, &oi_worker.cursor))
		oi_worker_load();
	else
		deliver_batch();
	return true;
}

/*
 * Is the receiver given time?
 */
static bool
is_backing_off(void)
{
	return oi_worker.breaker.open && oi_now() < oi_worker.breaker.probe_at;
}

/*
 * Sleep until something is to be done, for all that the worker knows.  What it
 * has recorded is durable by then.
 */
static void
sleep_until_due(void)
{
	TimestampTz until = oi_worker.held.next_due;
	int64		left = oi_poll_interval;

	XLogFlush(oi_worker.cursor.lsn);
	oi_pace_note_durable(oi_worker.cursor.lsn);
	if (oi_worker.batch != NULL || oi_worker.cursor.open_failed.n > 0)
		until = oi_worker.breaker.probe_at;
	else if (oi_worker.breaker.open)
		until = Max(until, oi_worker.breaker.probe_at);
	if (until != OI_UNDUE)
		left = Min(left, (until - oi_now() + 999) / 1000);
	oi_worker_rest(oi_worker.breaker.open || oi_worker.breaker.in_a_row > 0 ?
				   OI_WORKER_RETRYING : OI_WORKER_IDLE, (long) Max(1, left));
}

/*
 * One turn of the worker, under the subscription's lock.  What was read is made
 * durable before that is taken, since a standby may take its time.  Settings that are
 * to be read again after either wait come first: they may disarm the subscription.
 * The next turn begins with them, and finds in "reloaded" that all is to be looked at.
 */
void
oi_cycle(void)
{
	bool		reloaded = oi_worker.reloaded;
	bool		changed = oi_slot_take_recheck() || reloaded;
	bool		busy = true;
	XLogRecPtr	lsn;

	oi_worker.went_back |= oi_clock_went_back();
	changed |= oi_worker.went_back;
	MemoryContextReset(oi_worker.cycle_context);
	if (is_backing_off() && !changed)
	{
		sleep_until_due();
		return;
	}
	if (!changed && oi_pace_pause())
		return;
	if (oi_worker.batch != NULL || oi_worker.held.next_due <= oi_now() ||
		oi_worker.cursor.open_failed.n > 0)
	{
		oi_slot_set_state(OI_WORKER_DELIVERING);
		lsn = oi_pace_lsn();
		if (!oi_make_durable(lsn))
			return;
		oi_pace_note_durable(lsn);
	}

	oi_sublock_hold(oi_worker.sub->relid, oi_worker.id);
	if (ConfigReloadPending)
	{
		oi_sublock_let_go();
		return;
	}
	if (reloaded)
		oi_worker.reloaded = false;
	if (oi_worker.went_back || (reloaded && !oi_drain_armed(oi_worker.sub)) ||
		(changed && !oi_drain_current(oi_worker.sub, &oi_worker.cursor)))
		oi_worker_load();
	oi_worker.went_back = false;
	if (!is_backing_off())
		busy = work();
	oi_sublock_let_go();
	if (!busy)
		sleep_until_due();
}
