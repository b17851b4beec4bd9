/*-------------------------------------------------------------------------
 *
 * rotation.c
 *		Generations of claims come and go.
 *
 * A generation begins, ends, expires, and its table is emptied; src/README,
 * "Rotation", says what each step needs and why.  Each is a transaction of
 * its own, and a crash between two leaves what the next run goes on from.
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
#include "utils/guc.h"
#include "utils/rel.h"
#include "utils/timestamp.h"

#include "backoff.h"
#include "claim_store.h"
#include "generation.h"
#include "guc.h"
#include "incarnation.h"
#include "lease.h"
#include "owner.h"
#include "rotation.h"

/* ms until a step that could not be done is tried again: the first, the most */
#define RETRY_FIRST 100
#define RETRY_MOST 10000

/* ms between two looks whether a restored database has come into use */
#define IN_USE_INTERVAL 60000

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

/* how many runs in a row found somebody in the gate who did not leave */
static int	times_shut_out = 0;

/* Is the time of something that is due a while after "since" come? */
static bool
is_due(OiRotation *rotation, TimestampTz since, int64 while_us)
{
	TimestampTz at = since + while_us;

	if (at <= GetCurrentTimestamp())
		return true;
	rotation->next = Min(rotation->next, at);
	return false;
}

/* A step that cannot be done now: the longer claims are kept, the less hurry. */
static void
retry_later(OiRotation *rotation)
{
	int64		ms = Min(Max(rotation->retention / 10000, RETRY_FIRST), RETRY_MOST);

	rotation->next = Min(rotation->next,
						 TimestampTzPlusMilliseconds(GetCurrentTimestamp(), ms));
}

/* Reads the list. */
static void
read_list(Listing *list)
{
	list->n = oi_generation_list(OI_STORE_CLAIMS, list->rows);
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

/* Runs one statement: $1 is a slot, $2 a generation. */
static void
execute(const char *query, int slot, int64 generation)
{
	Oid			types[] = {INT4OID, INT8OID};
	Datum		values[] = {Int32GetDatum(slot), Int64GetDatum(generation)};
	int			result;

	result = SPI_execute_with_args(query, lengthof(types), types, values, NULL,
								   false, 0);
	if (result < 0)
		ereport(ERROR,
				(errcode(ERRCODE_INTERNAL_ERROR),
				 errmsg("could not execute a query: %s",
						SPI_result_code_string(result))));
}

/* Shuts the gate, if everybody leaves it soon. */
static bool
shut_gate(OiRotation *rotation)
{
	int			wait;

	if (oi_generation_shut())
	{
		times_shut_out = 0;
		return true;
	}
	wait = oi_backoff(++times_shut_out, RETRY_FIRST, RETRY_MOST, 0);
	rotation->shut_out = true;
	rotation->next = Min(rotation->next,
						 TimestampTzPlusMilliseconds(GetCurrentTimestamp(), wait));
	return false;
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
static bool
is_empty(Oid relid)
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

/* Empties a slot that is not on the list, if it has anything. */
static bool
empty(OiRotation *rotation, int slot)
{
	Oid			relid = oi_relation_oid(OI_REL_CLAIMS_0 + slot);
	Listing		list;
	bool		nothing = false;

	if (ConditionalLockRelationOid(relid, AccessShareLock))
	{
		nothing = is_empty(relid);
		UnlockRelationOid(relid, AccessShareLock);
	}
	if (nothing)
		return false;
	if (!lock_whole(relid))
	{
		retry_later(rotation);
		return false;
	}
	/* with the lock held nobody can begin a generation here any more */
	read_list(&list);
	if (list.n == 0 || find_slot(&list, slot) >= 0)
		return false;

	execute(psprintf("TRUNCATE ONLY order_idempotency.claims_%d", slot), 0, 0);
	rotation->emptied++;
	return true;
}

/*
 * Ends a generation that is not current: claims are kept from now on, the
 * last transaction that made some having ended.
 */
static bool
end(OiRotation *rotation, const OiGeneration *row)
{
	if (!nobody_writes(oi_relation_oid(OI_REL_CLAIMS_0 + row->slot)) ||
		!ConditionalLockRelationOid(oi_relation_oid(OI_REL_GENERATIONS),
									RowExclusiveLock))
	{
		retry_later(rotation);
		return false;
	}
	execute("UPDATE order_idempotency.generations"
			" SET ended_at = pg_catalog.clock_timestamp()"
			" WHERE store OPERATOR(pg_catalog.=) 'claims'"
			" AND slot OPERATOR(pg_catalog.=) $1"
			" AND generation OPERATOR(pg_catalog.=) $2 AND ended_at IS NULL",
			row->slot, row->number);
	return true;
}

/* Is no lease of a generation that has ended running any more? */
static bool
leases_are_over(OiRotation *rotation, const OiGeneration *row)
{
	int64		longest = oi_lease_longest();

	if (longest >= 0 && row->ended_at + longest <= GetCurrentTimestamp())
		return true;
	return is_due(rotation, oi_claim_last_lease(row->slot), 0);
}

/* Takes a generation whose time is over off the list. */
static bool
expire(OiRotation *rotation, const OiGeneration *row)
{
	Oid			relid = oi_relation_oid(OI_REL_CLAIMS_0 + row->slot);
	Listing		list;
	int			i;

	if (!is_due(rotation, row->ended_at, rotation->retention) ||
		!leases_are_over(rotation, row))
		return false;
	if (!nobody_writes(relid))
	{
		retry_later(rotation);
		return false;
	}
	if (!shut_gate(rotation))
		return false;
	read_list(&list);
	i = find_slot(&list, row->slot);
	if (i < 0 || i == list.n - 1 || list.rows[i].number != row->number)
		return false;
	if (!ConditionalLockRelationOid(relid, ShareLock))
	{
		retry_later(rotation);
		return false;
	}
	execute("DELETE FROM order_idempotency.generations"
			" WHERE store OPERATOR(pg_catalog.=) 'claims'"
			" AND slot OPERATOR(pg_catalog.=) $1"
			" AND generation OPERATOR(pg_catalog.=) $2",
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

	read_list(&list);
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

	read_list(&list);
	i = find_slot(&list, slot);
	if (list.n == 0 || i == list.n - 1)
		return false;
	if (i < 0)
		return empty(rotation, slot);
	return list.rows[i].ended_at == 0 ?
		end(rotation, &list.rows[i]) : expire(rotation, &list.rows[i]);
}

/* Has the time begin to count, where the list has no row yet. */
static bool
start_list(OiRotation *rotation, int slot)
{
	Listing		list;

	read_list(&list);
	if (list.n > 0 ||
		!ConditionalLockRelationOid(oi_relation_oid(OI_REL_GENERATIONS),
									RowExclusiveLock))
		return false;
	execute("INSERT INTO order_idempotency.generations"
			" (store, slot, generation, started_at)"
			" VALUES ('claims', $1, $2, pg_catalog.clock_timestamp())"
			" ON CONFLICT DO NOTHING", slot, 1);
	return true;
}

/* A free slot, locked against writing, or -1. */
static int
take_free_slot(const Listing *list)
{
	for (int slot = 0; slot < OI_SLOTS; slot++)
	{
		Oid			relid = oi_relation_oid(OI_REL_CLAIMS_0 + slot);

		if (find_slot(list, slot) >= 0 ||
			!ConditionalLockRelationOid(relid, ShareLock))
			continue;
		if (is_empty(relid))
			return slot;
		UnlockRelationOid(relid, ShareLock);
	}
	return -1;
}

/* Begins a generation, if the current one is old enough. */
static bool
begin(OiRotation *rotation, int slot)
{
	Listing		list;
	OiGeneration current;

	read_list(&list);
	if (list.n == 0)
		return false;
	current = list.rows[list.n - 1];
	if (!is_due(rotation, current.started_at, rotation->retention))
		return false;
	slot = take_free_slot(&list);
	if (slot < 0)
	{
		retry_later(rotation);
		return false;
	}
	if (!shut_gate(rotation))
		return false;
	read_list(&list);
	if (list.n == 0 || list.rows[list.n - 1].number != current.number ||
		find_slot(&list, slot) >= 0)
		return false;

	execute("INSERT INTO order_idempotency.generations"
			" (store, slot, generation, started_at)"
			" VALUES ('claims', $1, $2, pg_catalog.clock_timestamp())",
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

/* Runs a step in a process that is in no transaction. */
static void
run_in_background(OiRotationStep step, void *arg)
{
	MemoryContext context = CurrentMemoryContext;
	OiIdentity	was;

	if (oi_owner_begin(OI_REL_GENERATIONS, InvalidOid,
					   SECURITY_RESTRICTED_OPERATION, &was))
	{
		step(arg);
		oi_owner_end(&was, context);
	}
	MemoryContextSwitchTo(context);
}

/*
 * For the maintenance process, outside of a transaction: does what is due, and
 * returns when there may be more.
 */
TimestampTz
oi_rotation_run(void)
{
	OiRotation	rotation = {
		.runner = run_in_background,
		.retention = oi_key_retention * USECS_PER_SEC
	};
	TimestampTz now;

	oi_rotation_go(&rotation);
	now = GetCurrentTimestamp();
	if (!rotation.in_use)
		return TimestampTzPlusMilliseconds(now, IN_USE_INTERVAL);

	/*
	 * what has just been begun or ended is due when claims were kept long
	 * enough
	 */
	return Min(rotation.next, now + rotation.retention);
}
