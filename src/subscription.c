/*-------------------------------------------------------------------------
 *
 * subscription.c
 *		Creating, dropping and finding subscriptions.
 *
 * Whoever changes one takes a lock that keeps out all others who do, and
 * then looks with the latest snapshot, so that a name is found taken at
 * every isolation level.  Workers read beside it.
 *
 * Shared memory hears of a change when it commits, never before: the
 * launcher is then asked to look at this database, and its workers to look
 * at their subscriptions.  A prepared transaction's change is found by the
 * launcher's next round.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "arming.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_type.h"
#include "commands/sequence.h"
#include "cursor.h"
#include "fmgr.h"
#include "funcapi.h"
#include "guc.h"
#include "incarnation.h"
#include "log_hold.h"
#include "miscadmin.h"
#include "relation.h"
#include "sublock.h"
#include "subscription.h"
#include "topic.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"
#include "utils/xid8.h"
#include "xact.h"

PG_FUNCTION_INFO_V1(oi_create_subscription);
PG_FUNCTION_INFO_V1(oi_drop_subscription);

/* did this transaction change the subscriptions? */
static bool changed = false;

/*
 * The server calls this at each step of every transaction's end.
 */
static void
tell_workers(XactEvent event, void *arg)
{
	if (event == XACT_EVENT_COMMIT && changed)
	{
		changed = false;
		oi_shmem_recheck_database(MyDatabaseId);
		oi_shmem_request_scan(MyDatabaseId);
	}
	if (event == XACT_EVENT_ABORT || event == XACT_EVENT_PREPARE)
		changed = false;
}

/*
 * See to it that the workers hear of a change when it commits.
 */
void
oi_subscription_note_change(void)
{
	static bool registered = false;

	if (!registered)
		RegisterXactCallback(tell_workers, NULL);
	registered = true;
	changed = true;
}

/*
 * A text argument that must not be null.
 */
char *
oi_required_text(FunctionCallInfo fcinfo, int number, const char *what)
{
	if (PG_ARGISNULL(number))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("%s must not be null", what)));
	return text_to_cstring(PG_GETARG_TEXT_PP(number));
}

/*
 * Find the subscription of a name, as of now, into the table's row.
 */
static bool
find_by_name(OiTable *table, const char *name)
{
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	TableScanDesc scan = table_beginscan(table->rel, snapshot, 0, NULL);
	bool		found = false;

	table->row = oi_table_slot(table);
	while (!found && table_scan_getnextslot(scan, ForwardScanDirection, table->row))
	{
		bool		isnull;
		Datum		value = slot_getattr(table->row, SUB_NAME, &isnull);

		found = strcmp(TextDatumGetCString(value), name) == 0;
		if (found)
			ExecMaterializeSlot(table->row);
	}
	table_endscan(scan);
	UnregisterSnapshot(snapshot);

	return found;
}

/*
 * Was the owner of a subscription dropped?
 */
bool
oi_subscription_is_orphan(TupleTableSlot *row)
{
	bool		isnull;

	return !SearchSysCacheExists1(AUTHOID, slot_getattr(row, SUB_OWNER, &isnull));
}

/*
 * The subscriptions of this database that are armed, not paused and valid, and have an
 * owner, for those who start their workers.  With the SQL objects of 1.0 all are
 * armed.
 */
OiFound *
oi_subscriptions_found(int *n)
{
	Relation	rel = table_open(oi_relation_oid(OI_REL_SUBSCRIPTIONS), AccessShareLock);
	TupleTableSlot *slot = table_slot_create(rel, NULL);
	TableScanDesc scan = table_beginscan(rel, GetActiveSnapshot(), 0, NULL);
	bool		old = RelationGetDescr(rel)->natts < SUB_COLUMNS;
	int			size = 16;
	OiFound    *found = palloc(sizeof(OiFound) * size);
	OiArming	here;

	*n = 0;
	if (!old)
		oi_arming_here(&here);
	while (table_scan_getnextslot(scan, ForwardScanDirection, slot))
	{
		bool		isnull;

		if (!old && (!slot_attisnull(slot, SUB_PAUSED_AT) ||
					 !slot_attisnull(slot, SUB_INVALIDATED_AT) || !oi_is_armed(slot, &here)))
			continue;
		if (oi_subscription_is_orphan(slot))
			continue;
		if (*n == size)
			found = repalloc(found, sizeof(OiFound) * (size *= 2));
		found[*n].subscription = DatumGetInt32(slot_getattr(slot, SUB_ID, &isnull));
		found[*n].owner = DatumGetObjectId(slot_getattr(slot, SUB_OWNER, &isnull));
		(*n)++;
	}
	table_endscan(scan);
	ExecDropSingleTupleTableSlot(slot);
	table_close(rel, NoLock);

	return found;
}

/*
 * What does not keep a subscription from being created, but from working.
 */
static void
warn_of_obstacles(const char *name)
{
	HeapTuple	tuple = SearchSysCache1(AUTHOID, ObjectIdGetDatum(GetUserId()));
	bool		can_login = HeapTupleIsValid(tuple) &&
	((Form_pg_authid) GETSTRUCT(tuple))->rolcanlogin;

	if (HeapTupleIsValid(tuple))
		ReleaseSysCache(tuple);

	if (oi_shared == NULL)
		ereport(WARNING,
				(errcode(ERRCODE_WARNING),
				 errmsg("subscription \"%s\" has no worker", name),
				 errhint("Add order_idempotency to shared_preload_libraries and restart the server.")));
	if (!can_login)
		ereport(WARNING,
				(errcode(ERRCODE_WARNING),
				 errmsg("worker of subscription \"%s\" cannot connect", name),
				 errdetail("It connects as the subscription's owner, role \"%s\", who is not permitted to log in.",
						   GetUserNameFromId(GetUserId(), false)),
				 errhint("Use ALTER ROLE ... LOGIN.")));
	if (oi_environment[0] == '\0')
		ereport(NOTICE,
				(errmsg("order_idempotency.environment is empty"),
				 errdetail("A copy of this server's files would publish the events of subscription \"%s\" as well.",
						   name),
				 errhint("Set it outside of the data directory, to another value in each environment.")));
}

/*
 * Refuse a name that is taken, with all others who would take it kept out
 * until this transaction ends.
 */
static void
reserve_name(const char *name)
{
	OiTable		table;

	oi_table_open(&table, OI_REL_SUBSCRIPTIONS, ShareRowExclusiveLock);
	if (find_by_name(&table, name))
		ereport(ERROR,
				(errcode(ERRCODE_DUPLICATE_OBJECT),
				 errmsg("subscription \"%s\" already exists", name)));
	oi_table_close(&table);
}

/*
 * Insert the cursor of a new subscription.  Its own transaction counts as
 * open at that moment, so that the events of it, before this call and
 * after it, are delivered.
 */
static void
insert_cursor(int32 id, bool from_start)
{
	Datum		values[CURSOR_COLUMNS] = {0};
	bool		nulls[CURSOR_COLUMNS] = {0};
	OiMoment	behind;

	/* who rotates does not see this subscription before it is committed */
	oi_log_keep();
	if (from_start)
		oi_moment_start(&behind, 0);
	else
		oi_moment_now(&behind);

	values[CURSOR_SUBSCRIPTION - 1] = Int32GetDatum(id);
	values[CURSOR_BEHIND - 1] = oi_snapshot_to_datum(behind.snapshot);
	values[CURSOR_BEHIND_POSITION - 1] = Int64GetDatum(behind.position);
	values[CURSOR_BEHIND_NEXT_XID - 1] =
		FullTransactionIdGetDatum(FullTransactionIdFromU64(behind.next_xid));
	nulls[CURSOR_BATCH - 1] = true;
	nulls[CURSOR_BATCH_POSITION - 1] = true;
	nulls[CURSOR_BATCH_NEXT_XID - 1] = true;
	values[CURSOR_PROGRESS - 1] = Int64GetDatum(0);
	values[CURSOR_DELIVERED - 1] = Int64GetDatum(0);
	nulls[CURSOR_DELIVERED_AT - 1] = true;
	values[CURSOR_RETRIED - 1] = Int64GetDatum(0);
	values[CURSOR_BEHIND_ALL_ABOVE - 1] = BoolGetDatum(false);
	values[CURSOR_TURN - 1] = Int64GetDatum(0);
	values[CURSOR_TOKEN - 1] = Int64GetDatum(0);
	values[CURSOR_TOKEN_TIMELINE - 1] = Int32GetDatum(0);
	nulls[CURSOR_OPEN_LOG - 1] = true;
	nulls[CURSOR_OPEN_UPTO - 1] = true;
	nulls[CURSOR_OPEN_FAILED - 1] = true;
	oi_insert_values(OI_REL_SUBSCRIPTION_CURSORS, values, nulls);
}

/*
 * create_subscription(name text, server text, event_types text[], topic text,
 * options jsonb)
 */
Datum
oi_create_subscription(PG_FUNCTION_ARGS)
{
	char	   *name = oi_required_text(fcinfo, 0, "subscription name");
	char	   *server_name = oi_required_text(fcinfo, 1, "server");
	ForeignServer *server;
	const char *sink;
	const char *topic;
	bool		from_start = false;
	int32		id;
	Datum		values[SUB_COLUMNS] = {0};
	bool		nulls[SUB_COLUMNS] = {0};
	OiArming	here;

	oi_xact_check_writable("create_subscription()");
	oi_check_subscription_name(name);
	if (!PG_ARGISNULL(2))
		oi_check_event_types(PG_GETARG_ARRAYTYPE_P(2));
	if (!PG_ARGISNULL(4))
		oi_check_options(PG_GETARG_JSONB_P(4), &from_start);
	server = GetForeignServerByName(server_name, false);
	sink = oi_check_server(server, GetForeignDataWrapper(server->fdwid), GetUserId());
	topic = !PG_ARGISNULL(3) ? text_to_cstring(PG_GETARG_TEXT_PP(3)) :
		strcmp(sink, "file") == 0 ? psprintf("%s.jsonl", name) : name;
	oi_check_topic(sink, topic);

	reserve_name(name);
	id = (int32) nextval_internal(oi_relation_oid(OI_REL_SUBSCRIPTION_ID), false);
	values[SUB_ID - 1] = Int32GetDatum(id);
	values[SUB_NAME - 1] = CStringGetTextDatum(name);
	values[SUB_SERVER - 1] = CStringGetTextDatum(server_name);
	values[SUB_OWNER - 1] = ObjectIdGetDatum(GetUserId());
	values[SUB_EVENT_TYPES - 1] = PG_GETARG_DATUM(2);
	nulls[SUB_EVENT_TYPES - 1] = PG_ARGISNULL(2);
	values[SUB_TOPIC - 1] = CStringGetTextDatum(topic);
	values[SUB_OPTIONS - 1] = PG_GETARG_DATUM(4);
	nulls[SUB_OPTIONS - 1] = PG_ARGISNULL(4);
	values[SUB_CREATED_AT - 1] = TimestampTzGetDatum(GetCurrentTransactionStartTimestamp());
	nulls[SUB_PAUSED_AT - 1] = true;
	nulls[SUB_INVALIDATED_AT - 1] = true;
	oi_arming_here(&here);
	oi_arm(values, nulls, &here);
	oi_insert_values(OI_REL_SUBSCRIPTIONS, values, nulls);
	insert_cursor(id, from_start);

	oi_subscription_note_change();
	warn_of_obstacles(name);
	PG_RETURN_VOID();
}

/*
 * Delete the cursor of a subscription.  Its worker may be updating it.
 */
static void
delete_cursor(int32 id)
{
	OiTable		table;
	OiWait		wait = {0};

	oi_table_open(&table, OI_REL_SUBSCRIPTION_CURSORS, RowExclusiveLock);
	PushActiveSnapshot(GetLatestSnapshot());
	if (oi_find(&table, Int32GetDatum(id), GetActiveSnapshot()))
	{
		if (oi_lock(&table, &wait) == OI_LOCK_TIMEOUT)
			ereport(ERROR,
					(errcode(ERRCODE_LOCK_NOT_AVAILABLE),
					 errmsg("could not lock the cursor of subscription %d", id)));
		oi_delete(&table);
	}
	PopActiveSnapshot();
	oi_table_close(&table);
}

/*
 * Open table subscriptions with a subscription of the caller's in its row, and
 * its worker and all others who would change it kept out until this
 * transaction ends.  Returns its id.
 */
int32
oi_subscription_open(OiTable *table, const char *name)
{
	int32		id = 0;
	int32		locked = 0;

	oi_table_open(table, OI_REL_SUBSCRIPTIONS, RowExclusiveLock);
	do
	{
		bool		isnull;

		if (!find_by_name(table, name))
			ereport(ERROR,
					(errcode(ERRCODE_UNDEFINED_OBJECT),
					 errmsg("subscription \"%s\" does not exist", name)));
		if (!has_privs_of_role(GetUserId(),
							   DatumGetObjectId(slot_getattr(table->row, SUB_OWNER, &isnull))))
			ereport(ERROR,
					(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
					 errmsg("must be owner of subscription \"%s\"", name)));

		/* whoever had the lock before may have changed the row, or dropped it */
		locked = id;
		id = DatumGetInt32(slot_getattr(table->row, SUB_ID, &isnull));
		if (id != locked)
			oi_sublock_exclude_worker(RelationGetRelid(table->rel), id);
	} while (id != locked);

	return id;
}

/*
 * drop_subscription(name text)
 */
Datum
oi_drop_subscription(PG_FUNCTION_ARGS)
{
	char	   *name = oi_required_text(fcinfo, 0, "subscription name");
	OiTable		table;
	int32		id;

	oi_xact_check_writable("drop_subscription()");
	id = oi_subscription_open(&table, name);
	PushActiveSnapshot(GetLatestSnapshot());
	oi_delete(&table);
	PopActiveSnapshot();
	oi_table_close(&table);
	delete_cursor(id);
	(void) oi_failed_discard_all(id);

	oi_subscription_note_change();
	PG_RETURN_VOID();
}
