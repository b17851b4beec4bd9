/*-------------------------------------------------------------------------
 *
 * deadline.c
 *		Acting on payment deadlines.
 *
 * A look is one transaction: it reads what is due from the floor on, and acts
 * on it as the tables' owner.  See src/README, "Payment deadlines", for what
 * must hold, and why.
 *
 * An error ends the look, and the next one is smaller, so that what failed
 * comes to fail alone; then it is put off.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "clock.h"
#include "commands/trigger.h"
#include "deadline.h"
#include "deadline_failure.h"
#include "deadline_progress.h"
#include "deadline_row.h"
#include "lookup.h"
#include "miscadmin.h"
#include "order.h"
#include "owner.h"
#include "pgstat.h"
#include "rules.h"
#include "session.h"
#include "shmem.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timeout.h"
#include "utils/timestamp.h"

/* orders that one transaction acts upon, and ms that it may take for them */
#define BATCH_MOST 1000
#define BATCH_TIME 1000

/* ms that a user's trigger may take; and may wait for a lock, as a setting */
#define TRIGGER_TIME 3000
#define TRIGGER_LOCK_TIMEOUT "500"

/* ms until another look at what somebody else is changing */
#define BUSY_WAIT 1000

/*
 * ms between two looks from the beginning, so that each of the launcher's rounds
 * has one; or so many times what it takes, if that is more
 */
#define LOOK_BELOW_INTERVAL 50000
#define LOOK_BELOW_SHARE 100

/* one look: a transaction */
typedef struct Look
{
	TimestampTz began;
	int			limit;			/* rows to act upon, at most */
	OiTable		table;
	OiDueRows  *due;
	int			at;				/* the row in hand; due->n: they are done */
	int			cancelled;
	bool		stuck;			/* it failed, and nothing came of it so far */
	bool	   *gone;			/* which rows are deleted for good */
	TimestampTz left;			/* the earliest that was left where it is */
	TimestampTz next;			/* when the next look is to be */
	TimestampTz read;			/* when the rows had been read */
} Look;

/* where an order stands when its deadline is over */
typedef enum Standing
{
	STANDS_UNPAID,
	STANDS_SETTLED,				/* or is not there */
	STANDS_BUSY					/* somebody is changing it */
} Standing;

/*
 * Take the locks of tables that the look needs, without waiting: who waits
 * for a lock has others wait behind it.  False: somebody else has one.
 */
static bool
lock_tables(void)
{
	static const OiRelation needed[] = {
		OI_REL_PAYMENT_DEADLINES, OI_REL_DEADLINE_FAILURES, OI_REL_ORDERS,
		OI_REL_LEDGER, OI_REL_OUTBOX_0, OI_REL_OUTBOX_1, OI_REL_OUTBOX_2,
		OI_REL_OUTBOX_3
	};

	for (int i = 0; i < (int) lengthof(needed); i++)
		if (!ConditionalLockRelationOid(oi_relation_oid(needed[i]), RowExclusiveLock))
			return false;
	return true;
}

/*
 * Lock an order, if nobody else has it, and see where it stands.
 */
static Standing
lock_order(text *order_key)
{
	const char *initial = oi_lifecycle_find(oi_rules(), NULL, NULL)->to;
	Standing	standing = STANDS_SETTLED;
	OiTable		table;
	OiBusy		busy;
	OiWait		wait = {0};
	Datum		key = PointerGetDatum(order_key);
	int			which;

	initial = pstrdup(initial);
	oi_table_open(&table, OI_REL_ORDERS, RowExclusiveLock);
	switch (oi_lookup(&table, &key, 1, OI_LOOKUP_CONFIRM, &which, &busy))
	{
		case OI_PROBE_ABSENT:
			break;
		case OI_PROBE_BUSY:
			standing = STANDS_BUSY;
			break;
		case OI_PROBE_PRESENT:
			if (oi_lock(&table, &wait) != OI_LOCK_OK)
				standing = STANDS_BUSY;
			else
			{
				OiOrder		order;

				oi_order_read_slot(table.row, &order);
				if (!order.tombstone &&
					strcmp(text_to_cstring(order.state), initial) == 0)
					standing = STANDS_UNPAID;
			}
			break;
	}
	oi_table_close(&table);

	return standing;
}

/*
 * Cancel an order that is locked.  False: its lifecycle does not allow that.
 */
static bool
cancel(text *key)
{
	OiOrderCall call = {
		.verb = OI_VERB_CANCEL,.key = key,.report = true,
		.to_state = cstring_to_text("cancelled"),
		.reason = cstring_to_text("not paid in time")
	};
	OiOrderAnswer answer;

	oi_order_work(&call, &answer);
	if (answer.outcome == OI_REPLAYED)
	{
		/* it was cancelled before, and begun again: a request of its own */
		call.request_key = cstring_to_text("payment deadline");
		oi_order_work(&call, &answer);
	}
	return answer.outcome == OI_CANCELLED;
}

/*
 * A row was left where it is: it is somebody else's.
 */
static void
leave(Look *look, const OiDeadline *row)
{
	look->left = Min(look->left, row->due_at);
	look->next = Min(look->next, TimestampTzPlusMilliseconds(look->began, BUSY_WAIT));
}

/*
 * Act on a row that is due.
 */
static void
act(Look *look, const OiDeadline *row)
{
	Standing	standing = lock_order(row->key);
	TimestampTz later;

	if (standing == STANDS_BUSY)
	{
		later = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), BUSY_WAIT);
		if (oi_deadline_put_off(&look->table, row, later))
			look->next = Min(look->next, later);
		else
			leave(look, row);
	}
	else if (!oi_deadline_remove(&look->table, row))
		leave(look, row);
	else
	{
		look->gone[look->at] = true;
		if (standing == STANDS_UNPAID && cancel(row->key))
			look->cancelled++;
	}
}

/*
 * Act on the rows found, one by one, each with a snapshot and memory of its
 * own, until they are done or the time is over.
 */
static void
act_on_all(Look *look)
{
	MemoryContext outer = CurrentMemoryContext;
	MemoryContext context = AllocSetContextCreate(outer, "order_idempotency deadline",
												  ALLOCSET_DEFAULT_SIZES);

	for (; look->at < look->due->n; look->at++)
	{
		const OiDeadline *row = &look->due->rows[look->at];

		CHECK_FOR_INTERRUPTS();
		if (TimestampDifferenceExceeds(look->began, GetCurrentTimestamp(), BATCH_TIME))
		{
			look->next = look->began;
			look->left = Min(look->left, row->due_at);
			look->due->n = look->at;
			break;
		}
		MemoryContextSwitchTo(context);
		PushActiveSnapshot(GetTransactionSnapshot());
		act(look, row);
		PopActiveSnapshot();
		MemoryContextSwitchTo(outer);
		MemoryContextReset(context);
	}
	MemoryContextDelete(context);
}

/*
 * The time of users' triggers is over, or not needed any more.  A cancellation
 * that comes with it must not hit the commit.
 */
static void
end_trigger_time(void)
{
	disable_timeout(STATEMENT_TIMEOUT, false);
	QueryCancelPending = false;
}

/*
 * Act on the rows found, under the limits that users' triggers have, and undo
 * what they set.  Deferred ones fire here, as they would at the commit.
 */
static void
act_within_limits(Look *look)
{
	int			nest = NewGUCNestLevel();

	(void) set_config_option("lock_timeout", TRIGGER_LOCK_TIMEOUT, PGC_SUSET,
							 PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
	enable_timeout_after(STATEMENT_TIMEOUT, TRIGGER_TIME);
	act_on_all(look);
	oi_failures_clear(look->due, look->gone);
	AfterTriggerFireDeferred();
	end_trigger_time();
	AtEOXact_GUC(false, nest);
}

/*
 * Find what is due, and act on it.  The snapshot that shows the rows stays
 * until the end, so that no place of theirs is given to another row.
 */
static void
look_and_act(Look *look, TimestampTz from, MemoryContext context)
{
	MemoryContext old;

	oi_table_open(&look->table, OI_REL_PAYMENT_DEADLINES, NoLock);
	old = MemoryContextSwitchTo(context);
	look->due = oi_deadline_read(&look->table, from, look->began, look->limit);
	look->gone = palloc0(sizeof(bool) * Max(look->due->n, 1));
	MemoryContextSwitchTo(old);

	look->read = GetCurrentTimestamp();
	look->next = look->due->next;
	if (look->due->n > 0)
		act_within_limits(look);
	oi_table_close(&look->table);
}

/*
 * The transaction of a look.  The owner's identity stays until it has
 * committed.
 */
static void
run_look(Look *look, TimestampTz from, MemoryContext context)
{
	OiIdentity	was;

	SetCurrentStatementStartTimestamp();
	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	if (!oi_extension_present())
		look->next = OI_NEVER;
	else if (!lock_tables())
		look->next = TimestampTzPlusMilliseconds(look->began, BUSY_WAIT);
	else
	{
		oi_owner_assume(oi_relation_oid(OI_REL_PAYMENT_DEADLINES),
						SECURITY_LOCAL_USERID_CHANGE, &was);
		look_and_act(look, from, context);
		PopActiveSnapshot();
		CommitTransactionCommand();
		oi_owner_resume(&was);
		return;
	}
	PopActiveSnapshot();
	CommitTransactionCommand();
}

/*
 * The same.  Returns the error that it ended with, or NULL.
 */
static ErrorData *
try_look(Look *look, TimestampTz from, MemoryContext context)
{
	ErrorData  *volatile error = NULL;

	PG_TRY();
	{
		run_look(look, from, context);
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		FlushErrorState();
		end_trigger_time();
		AbortCurrentTransaction();
		if (look->due == NULL)
			ReThrowError(error);
	}
	PG_END_TRY();

	MemoryContextSwitchTo(context);
	return error;
}

/*
 * A look failed.  Make the next one smaller, or if the row that failed was the
 * first, or alone, put that off.
 */
static void
look_failed(Look *look, const ErrorData *error)
{
	int			failed = look->at;
	int			n = look->due->n;

	if (failed == 0 || n == 1)
	{
		oi_failure_note(&look->due->rows[0], error);
		look->limit = 1;
	}
	else
	{
		look->limit = failed < n ? failed : Max(n / 8, 1);
		look->stuck = true;
	}
	look->next = look->began;
}

/*
 * A look from the beginning was taken: when is the next to be?
 */
static TimestampTz
next_look_below(const Look *look)
{
	long		took = TimestampDifferenceMilliseconds(look->began, look->read);

	return TimestampTzPlusMilliseconds(look->read, Max(took * LOOK_BELOW_SHARE,
													   LOOK_BELOW_INTERVAL));
}

/*
 * A look is over: from where on is the next one to be?
 */
static void
raise_floor(OiDeadlines *deadlines, const Look *look)
{
	const OiDueRows *due = look->due;

	if (due == NULL)
		return;
	if (deadlines->floor == DT_NOBEGIN)
		deadlines->look_below = next_look_below(look);
	deadlines->floor = Min(look->began, look->left);
	if (due->n > 0 && due->next <= look->began)
		deadlines->floor = Min(deadlines->floor, due->rows[due->n - 1].due_at);
}

/*
 * One look, and what follows from it for the next.
 */
static void
look_once(OiDeadlines *deadlines, Look *look, MemoryContext context)
{
	ErrorData  *error;

	look->began = GetCurrentTimestamp();
	look->due = NULL;
	look->at = look->cancelled = 0;
	look->stuck = false;
	look->left = OI_NEVER;
	if (look->began >= deadlines->look_below)
		deadlines->floor = DT_NOBEGIN;

	error = try_look(look, deadlines->floor, context);
	if (error != NULL)
		look_failed(look, error);
	else
	{
		raise_floor(deadlines, look);
		look->limit = Min(look->limit * 2, BATCH_MOST);
	}
	if (error == NULL && look->due != NULL)
		oi_deadline_progress_add(look->due->n, look->cancelled);
	oi_deadline_progress_tell(look->next > look->began);
}

/*
 * Act on all that is due, until there is no more, or the time (oi_uptime) is over.  That
 * must not be while a look has failed, and nothing came of it: the next visit
 * would begin with the same.  Returns when the next look is to be.
 */
TimestampTz
oi_deadlines_run(OiDeadlines *deadlines, int64 until)
{
	MemoryContext context = AllocSetContextCreate(TopMemoryContext,
												  "order_idempotency deadlines",
												  ALLOCSET_DEFAULT_SIZES);
	Look		look = {.limit = BATCH_MOST};

	pgstat_report_activity(STATE_RUNNING, "acting on payment deadlines");
	do
	{
		(void) oi_session_interrupts();
		MemoryContextReset(context);
		look_once(deadlines, &look, context);
		pgstat_report_stat(false);
	} while (look.stuck ||
			 (look.next <= GetCurrentTimestamp() && oi_uptime() < until));

	MemoryContextSwitchTo(TopMemoryContext);
	MemoryContextDelete(context);
	return look.next;
}
