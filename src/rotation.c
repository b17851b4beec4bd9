/*-------------------------------------------------------------------------
 *
 * rotation.c
 *		Generations of claims and of the log come and go.
 *
 * A generation begins, ends, expires, and its table is emptied; src/README,
 * "Rotation" and "The log's generations", says what each step needs and why.
 * Each is a transaction of its own, and a crash between two leaves what the
 * next run goes on from.  What the two stores do not have in common is in
 * rotation_claims.c and rotation_outbox.c.
 *
 * No step waits for a lock with claims behind it.  What cannot be done now is
 * done when the next run comes, and a later generation may come first.
 *
 * The table is written by SQL, as its owner, in a security-restricted
 * operation; nothing in the statements can be of a user's making.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/table.h"
#include "access/xact.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "storage/bufmgr.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/rel.h"
#include "utils/timestamp.h"

#include "generation.h"
#include "incarnation.h"
#include "order.h"
#include "rotation.h"

/* ms until a step that could not be done is tried again: the first, the most */
#define RETRY_FIRST 100
#define RETRY_MOST 10000

/* the list of generations, as a step finds it */
typedef struct Listing
{
	int			n;
	OiGeneration rows[OI_SLOTS];
} Listing;

/* what a step does about a slot; true: something has changed */
typedef bool (*Work) (OiRotation *rotation, int slot);

/* a step, with its arguments and result */
typedef struct Step
{
	OiRotation *rotation;
	Work		work;
	int			slot;
	bool		changed;
} Step;

/* Is the time of something that is due a while after "since" come? */
bool
oi_rotation_is_due(OiRotation *rotation, TimestampTz since, int64 while_us)
{
	TimestampTz at = since + while_us;

	if (at <= GetCurrentTimestamp())
		return true;
	rotation->next = Min(rotation->next, at);
	return false;
}

/*
 * Is a time that was noted when it was now still to come?  Then the clock was set
 * back since.
 */
static bool
is_ahead(TimestampTz noted)
{
	return noted > GetCurrentTimestamp();
}

/* A step that cannot be done now: the longer rows are kept, the less hurry. */
void
oi_rotation_retry(OiRotation *rotation)
{
	int64		ms = Min(Max(rotation->retention / 10000, RETRY_FIRST), RETRY_MOST);

	rotation->next = Min(rotation->next,
						 TimestampTzPlusMilliseconds(GetCurrentTimestamp(), ms));
}

/* Reads the list. */
static void
read_list(const OiRotation *rotation, Listing *list)
{
	list->n = oi_generation_list(rotation->store->store, list->rows);
}

/* The table of a slot. */
static Oid
slot_relid(const OiRotation *rotation, int slot)
{
	return oi_relation_oid(rotation->store->first + slot);
}

/* Where in the list a slot is, or -1. */
static int
find_slot(const Listing *list, int slot)
{
	for (int i = 0; i < list->n; i++)
		if (list->rows[i].slot == slot)
			return i;
	return -1;
}

/* Runs one statement: $1 is the store, $2 a slot, $3 a generation. */
static void
execute(const OiRotation *rotation, const char *query, int slot, int64 generation)
{
	Oid			types[] = {TEXTOID, INT4OID, INT8OID};
	Datum		values[] = {
		CStringGetTextDatum(rotation->store->name),
		Int32GetDatum(slot), Int64GetDatum(generation)
	};
	int			result;

	result = SPI_execute_with_args(query, lengthof(types), types, values, NULL,
								   false, 0);
	if (result < 0)
		ereport(ERROR,
				(errcode(ERRCODE_INTERNAL_ERROR),
				 errmsg("could not execute a query: %s",
						SPI_result_code_string(result))));
}

/*
 * Has no transaction a row in this table?  A moment's lock says so.  Of a
 * generation that is not current this stays true, but for changes of rows.
 */
static bool
nobody_writes(Oid relid)
{
	if (!ConditionalLockRelationOid(relid, ShareLock))
		return false;
	UnlockRelationOid(relid, ShareLock);
	return true;
}

/* Has a table, which is locked, not one block? */
bool
oi_rotation_is_empty(Oid relid)
{
	Relation	rel = table_open(relid, NoLock);
	BlockNumber blocks = RelationGetNumberOfBlocks(rel);

	table_close(rel, NoLock);
	return blocks == 0;
}

/*
 * Locks a table with its indexes and TOAST table, so that TRUNCATE has nothing
 * to wait for.
 */
static bool
lock_whole(Oid relid)
{
	Relation	rel;
	List	   *indexes;
	ListCell   *lc;
	Oid			toast;

	if (!ConditionalLockRelationOid(relid, AccessExclusiveLock))
		return false;
	rel = table_open(relid, NoLock);
	indexes = RelationGetIndexList(rel);
	toast = rel->rd_rel->reltoastrelid;
	table_close(rel, NoLock);

	foreach(lc, indexes)
		if (!ConditionalLockRelationOid(lfirst_oid(lc), AccessExclusiveLock))
		return false;
	return !OidIsValid(toast) || lock_whole(toast);
}

/* Empties a table, which is locked as a whole. */
static void
truncate_slot(const OiRotation *rotation, int slot)
{
	oi_guard_permit_truncate(slot_relid(rotation, slot));
	PG_TRY();
	{
		execute(rotation, psprintf("TRUNCATE ONLY order_idempotency.%s_%d",
								   rotation->store->name, slot), 0, 0);
	}
	PG_FINALLY();
	{
		oi_guard_permit_truncate(InvalidOid);
	}
	PG_END_TRY();
}

/* Empties a slot that is not on the list, if it has anything. */
static bool
empty(OiRotation *rotation, int slot)
{
	Oid			relid = slot_relid(rotation, slot);
	Listing		list;
	bool		nothing = false;

	if (ConditionalLockRelationOid(relid, AccessShareLock))
	{
		nothing = oi_rotation_is_empty(relid);
		UnlockRelationOid(relid, AccessShareLock);
	}
	if (nothing)
		return false;
	if (!lock_whole(relid))
	{
		oi_rotation_retry(rotation);
		return false;
	}
	/* with the lock held nobody can begin a generation here any more */
	read_list(rotation, &list);
	if (list.n == 0 || find_slot(&list, slot) >= 0 ||
		!rotation->store->may_empty(rotation, slot))
		return false;

	truncate_slot(rotation, slot);
	rotation->emptied++;
	return true;
}

/*
 * Ends a generation that is not current: its rows are kept from now on, the
 * last transaction that made some having ended.  One that ended while the clock
 * was ahead is ended once more: how long ago that was nobody knows, and it must not be
 * kept until that time comes again.  The list is locked first, so
 * that a beginning of the next one which is just committing has told everybody
 * before we look for writers.
 */
static bool
end(OiRotation *rotation, const OiGeneration *row)
{
	if (!ConditionalLockRelationOid(oi_relation_oid(OI_REL_GENERATIONS),
									RowExclusiveLock) ||
		!nobody_writes(slot_relid(rotation, row->slot)))
	{
		oi_rotation_retry(rotation);
		return false;
	}
	execute(rotation,
			"UPDATE order_idempotency.generations"
			" SET ended_at = pg_catalog.clock_timestamp()"
			" WHERE store OPERATOR(pg_catalog.=) $1"
			" AND slot OPERATOR(pg_catalog.=) $2"
			" AND generation OPERATOR(pg_catalog.=) $3"
			" AND (ended_at IS NULL OR ended_at OPERATOR(pg_catalog.>) pg_catalog.clock_timestamp())",
			row->slot, row->number);
	return true;
}

/* Takes a generation whose time is over off the list. */
static bool
expire(OiRotation *rotation, const OiGeneration *row)
{
	Oid			relid = slot_relid(rotation, row->slot);
	Listing		list;
	int			i;

	if (!rotation->store->may_expire(rotation, row))
		return false;
	if (!nobody_writes(relid))
	{
		oi_rotation_retry(rotation);
		return false;
	}
	if (!rotation->store->shut(rotation))
		return false;
	read_list(rotation, &list);
	i = find_slot(&list, row->slot);
	if (i < 0 || i == list.n - 1 || list.rows[i].number != row->number)
		return false;
	if (!ConditionalLockRelationOid(relid, ShareLock))
	{
		oi_rotation_retry(rotation);
		return false;
	}
	execute(rotation,
			"DELETE FROM order_idempotency.generations"
			" WHERE store OPERATOR(pg_catalog.=) $1"
			" AND slot OPERATOR(pg_catalog.=) $2"
			" AND generation OPERATOR(pg_catalog.=) $3",
			row->slot, row->number);
	oi_generation_changed();
	return true;
}

/* Ends the generation in a slot, if it is waiting for that. */
static bool
end_slot(OiRotation *rotation, int slot)
{
	Listing		list;
	int			i;

	read_list(rotation, &list);
	i = find_slot(&list, slot);
	return i >= 0 && i < list.n - 1 && list.rows[i].ended_at == 0 &&
		end(rotation, &list.rows[i]);
}

/* Does what is next for a slot that is not current. */
static bool
tend_slot(OiRotation *rotation, int slot)
{
	Listing		list;
	int			i;

	read_list(rotation, &list);
	i = find_slot(&list, slot);
	if (list.n == 0 || i == list.n - 1)
		return false;
	if (i < 0)
		return empty(rotation, slot);
	return list.rows[i].ended_at == 0 || is_ahead(list.rows[i].ended_at) ?
		end(rotation, &list.rows[i]) : expire(rotation, &list.rows[i]);
}

/* Has the time begin to count, where the list has no row yet. */
static bool
start_list(OiRotation *rotation, int slot)
{
	Listing		list;

	read_list(rotation, &list);
	if (list.n > 0 ||
		!ConditionalLockRelationOid(oi_relation_oid(OI_REL_GENERATIONS),
									RowExclusiveLock))
		return false;
	execute(rotation,
			"INSERT INTO order_idempotency.generations"
			" (store, slot, generation, started_at)"
			" VALUES ($1, $2, $3, pg_catalog.clock_timestamp())"
			" ON CONFLICT DO NOTHING", slot, 1);
	return true;
}

/* A free slot, locked against writing, or -1. */
static int
take_free_slot(const OiRotation *rotation, const Listing *list)
{
	for (int slot = 0; slot < OI_SLOTS; slot++)
	{
		Oid			relid = slot_relid(rotation, slot);

		if (find_slot(list, slot) >= 0 ||
			!ConditionalLockRelationOid(relid, ShareLock))
			continue;
		if (oi_rotation_is_empty(relid))
			return slot;
		UnlockRelationOid(relid, ShareLock);
	}
	return -1;
}

/*
 * Begins a generation, if the current one is old enough.  Of one that began while the
 * clock was ahead nobody knows how old it is.
 */
static bool
begin(OiRotation *rotation, int slot)
{
	Listing		list;
	OiGeneration current;

	read_list(rotation, &list);
	if (list.n == 0)
		return false;
	current = list.rows[list.n - 1];
	if (is_ahead(current.started_at))
		current.started_at = DT_NOBEGIN;
	if (!rotation->store->may_begin(rotation, &current))
		return false;
	slot = take_free_slot(rotation, &list);
	if (slot < 0)
	{
		oi_rotation_retry(rotation);
		return false;
	}
	if (!rotation->store->shut(rotation))
		return false;
	read_list(rotation, &list);
	if (list.n == 0 || list.rows[list.n - 1].number != current.number ||
		find_slot(&list, slot) >= 0)
		return false;

	execute(rotation,
			"INSERT INTO order_idempotency.generations"
			" (store, slot, generation, started_at)"
			" VALUES ($1, $2, $3, pg_catalog.clock_timestamp())",
			slot, current.number + 1);
	oi_generation_changed();
	rotation->began = current.number + 1;
	return true;
}

/* Is there anything to rotate? */
static bool
look(OiRotation *rotation, int slot)
{
	rotation->in_use = oi_in_use();
	return false;
}

/*
 * The inside of a step's transaction.  Nobody waits for its commit to be
 * durable: who relies on it writes WAL after it.
 */
static void
do_step(void *arg)
{
	Step	   *step = arg;

	(void) set_config_option("synchronous_commit", "off", PGC_USERSET,
							 PGC_S_SESSION, GUC_ACTION_LOCAL, true, 0, false);
	step->changed = step->work(step->rotation, step->slot);
}

/* Does one step.  True: something has changed. */
static bool
run_step(OiRotation *rotation, Work work, int slot)
{
	Step		step = {.rotation = rotation,.work = work,.slot = slot};

	rotation->runner(do_step, &step);
	return step.changed;
}

/*
 * Does all that can be done now.  A generation that is ended here is not looked
 * at again: with no retention at all it still lives until the next call.
 */
void
oi_rotation_go(OiRotation *rotation)
{
	rotation->began = 0;
	rotation->emptied = 0;
	rotation->shut_out = false;
	rotation->next = DT_NOEND;

	(void) run_step(rotation, look, 0);
	if (!rotation->in_use)
		return;
	(void) run_step(rotation, start_list, 0);
	for (int slot = 0; slot < OI_SLOTS; slot++)
		while (run_step(rotation, tend_slot, slot))
			CHECK_FOR_INTERRUPTS();
	if (run_step(rotation, begin, 0))
		for (int slot = 0; slot < OI_SLOTS; slot++)
			(void) run_step(rotation, end_slot, slot);
}
