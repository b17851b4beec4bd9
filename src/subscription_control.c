/*-------------------------------------------------------------------------
 *
 * subscription_control.c
 *		Pausing, resuming, altering and moving subscriptions.
 *
 * All of it is in effect when it returns: the worker is kept out from then on
 * until the end of the transaction (sublock.c), and then finds another version
 * of its cursor's row, so that it loads everything anew.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "arming.h"
#include "catalog/pg_type.h"
#include "cursor.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "incarnation.h"
#include "intent.h"
#include "log_hold.h"
#include "miscadmin.h"
#include "owner.h"
#include "relation.h"
#include "subscription.h"
#include "topic.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"
#include "utils/xid8.h"
#include "xact.h"

PG_FUNCTION_INFO_V1(oi_alter_subscription);
PG_FUNCTION_INFO_V1(oi_pause_subscription);
PG_FUNCTION_INFO_V1(oi_resume_subscription);
PG_FUNCTION_INFO_V1(oi_seek_to_position);
PG_FUNCTION_INFO_V1(oi_seek_to_time);

/*
 * A copy of table->row, to be changed and handed to store().
 */
static TupleTableSlot *
copy_row(OiTable *table, int columns)
{
	TupleTableSlot *slot = oi_table_slot(table);

	slot_getallattrs(table->row);
	memcpy(slot->tts_values, table->row->tts_values, columns * sizeof(Datum));
	memcpy(slot->tts_isnull, table->row->tts_isnull, columns * sizeof(bool));
	return slot;
}

/*
 * Store it in the place of table->row.
 */
static void
store(OiTable *table, TupleTableSlot *slot)
{
	ExecStoreVirtualTuple(slot);
	PushActiveSnapshot(GetLatestSnapshot());
	oi_update(table, slot, NULL);
	PopActiveSnapshot();
}

/*
 * Set one column.
 */
static void
set_column(TupleTableSlot *slot, int column, Datum value)
{
	slot->tts_values[column - 1] = value;
	slot->tts_isnull[column - 1] = false;
}

/*
 * Of the events that were read and not delivered, keep those that were handed to the
 * sink, what became of which is still to be found out, or all, and none of them was.
 */
static void
change_open(TupleTableSlot *slot, bool handed_over)
{
	OiOpen		open = {0};
	Datum		value;

	if (slot->tts_isnull[CURSOR_OPEN_LOG - 1])
		return;
	oi_open_from_datum(&open, PointerGetDatum(PG_DETOAST_DATUM(slot->tts_values[CURSOR_OPEN_LOG - 1])),
					   CurrentMemoryContext);
	if (!handed_over)
		oi_open_withdraw(&open);
	value = oi_open_to_datum(&open, handed_over);
	if (value != 0)
		set_column(slot, CURSOR_OPEN_LOG, value);
	else
		slot->tts_isnull[CURSOR_OPEN_LOG - 1] = true;
}

/*
 * Have "behind" be another moment, whoever wrote what lies above its position.
 */
static void
set_behind(TupleTableSlot *slot, const OiMoment *to)
{
	set_column(slot, CURSOR_BEHIND, oi_snapshot_to_datum(to->snapshot));
	set_column(slot, CURSOR_BEHIND_POSITION, Int64GetDatum(to->position));
	set_column(slot, CURSOR_BEHIND_NEXT_XID,
			   FullTransactionIdGetDatum(FullTransactionIdFromU64(to->next_xid)));
	set_column(slot, CURSOR_BEHIND_ALL_ABOVE, BoolGetDatum(true));
	slot->tts_isnull[CURSOR_BATCH - 1] = true;
	slot->tts_isnull[CURSOR_BATCH_POSITION - 1] = true;
	slot->tts_isnull[CURSOR_BATCH_NEXT_XID - 1] = true;
	set_column(slot, CURSOR_PROGRESS, Int64GetDatum(0));
	change_open(slot, true);	/* others are read again, or passed over */
}

/*
 * Another installation has another identity, of which the receiver has nothing yet.
 */
static void
forget_settled(TupleTableSlot *slot)
{
	set_column(slot, CURSOR_SETTLED, Int64GetDatum(0));
}

/*
 * Another receiver knows nothing of what the one before was sent.  It gets what is open.
 */
static void
forget_deliveries(TupleTableSlot *slot)
{
	forget_settled(slot);
	set_column(slot, CURSOR_TOKEN, Int64GetDatum(0));
	slot->tts_isnull[CURSOR_OPEN_FAILED - 1] = true;
	change_open(slot, false);
}

/*
 * Make another version of a cursor's row, which the worker takes notice of;
 * with another "behind" if one is given, and without what is to be forgotten.
 */
static void
touch(int32 id, const OiMoment *to, void (*forget) (TupleTableSlot *))
{
	OiTable		table;

	oi_table_open(&table, OI_REL_SUBSCRIPTION_CURSORS, RowExclusiveLock);
	PushActiveSnapshot(GetLatestSnapshot());
	if (oi_find(&table, Int32GetDatum(id), GetActiveSnapshot()))
	{
		TupleTableSlot *slot = copy_row(&table, CURSOR_COLUMNS);

		if (to != NULL)
			set_behind(slot, to);
		if (forget != NULL)
			forget(slot);
		store(&table, slot);
	}
	PopActiveSnapshot();
	oi_table_close(&table);
	oi_subscription_note_change();
}

/*
 * Have the worker load everything anew.
 */
void
oi_subscription_touch(int32 id)
{
	touch(id, NULL, NULL);
}

/*
 * The cursor of another installation's subscription has to be in an incarnation
 * of the log that ended when this installation was first written to.
 */
static void
check_foreign_cursor(const char *name, int32 id)
{
	OiTable		table;
	bool		isnull;
	int64		position = 0;

	oi_table_open(&table, OI_REL_SUBSCRIPTION_CURSORS, AccessShareLock);
	PushActiveSnapshot(GetLatestSnapshot());
	if (oi_find(&table, Int32GetDatum(id), GetActiveSnapshot()))
		position = DatumGetInt64(slot_getattr(table.row, CURSOR_BEHIND_POSITION, &isnull));
	PopActiveSnapshot();
	oi_table_close(&table);

	if (OI_INCARNATION(position) >= OI_INCARNATION(oi_log_position()))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("subscription \"%s\" was restored into a database that was in use", name),
				 errdetail("What it has delivered of the log cannot be told."),
				 errhint("Drop it and create it again.")));
}

/*
 * pause_subscription(name text)
 */
Datum
oi_pause_subscription(PG_FUNCTION_ARGS)
{
	char	   *name = oi_required_text(fcinfo, 0, "subscription name");
	OiTable		table;
	int32		id;

	oi_xact_check_writable("pause_subscription()");
	id = oi_subscription_open(&table, name);
	if (slot_attisnull(table.row, SUB_PAUSED_AT))
	{
		TupleTableSlot *slot = copy_row(&table, SUB_COLUMNS);

		set_column(slot, SUB_PAUSED_AT, TimestampTzGetDatum(GetCurrentTimestamp()));
		store(&table, slot);
	}
	oi_table_close(&table);
	oi_subscription_touch(id);

	PG_RETURN_VOID();
}

/*
 * resume_subscription(name text).  Where the owner was dropped, which leaves
 * superusers, the caller becomes the owner.
 */
Datum
oi_resume_subscription(PG_FUNCTION_ARGS)
{
	char	   *name = oi_required_text(fcinfo, 0, "subscription name");
	OiTable		table;
	OiArming	here;
	bool		orphan;
	bool		armed;
	int32		id;

	oi_xact_check_writable("resume_subscription()");
	id = oi_subscription_open(&table, name);
	oi_arming_here(&here);
	if (oi_is_foreign(table.row, &here))
		check_foreign_cursor(name, id);
	orphan = oi_subscription_is_orphan(table.row);
	armed = oi_is_armed(table.row, &here);
	if (!slot_attisnull(table.row, SUB_INVALIDATED_AT))
		oi_log_keep();			/* it needs the log again */
	if (orphan || !armed ||
		!slot_attisnull(table.row, SUB_PAUSED_AT) ||
		!slot_attisnull(table.row, SUB_INVALIDATED_AT))
	{
		TupleTableSlot *slot = copy_row(&table, SUB_COLUMNS);

		if (orphan)
			set_column(slot, SUB_OWNER, ObjectIdGetDatum(GetUserId()));
		oi_arm(slot->tts_values, slot->tts_isnull, &here);
		slot->tts_isnull[SUB_PAUSED_AT - 1] = true;
		slot->tts_isnull[SUB_INVALIDATED_AT - 1] = true;
		store(&table, slot);
	}
	oi_table_close(&table);
	touch(id, NULL, armed ? NULL : forget_settled);

	PG_RETURN_VOID();
}

/*
 * What the options of a subscription become: those given in place of those that
 * there are, nulls for the default.
 */
static Datum
merge_options(TupleTableSlot *row, Jsonb *given)
{
	bool		isnull;
	bool		from_start;
	Datum		have = slot_getattr(row, SUB_OPTIONS, &isnull);
	Datum		merged = JsonbPGetDatum(given);
	JsonbValue	from;

	if (!JB_ROOT_IS_OBJECT(given))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("subscription options must be a JSON object")));
	if (getKeyJsonValueFromContainer(&given->root, "from", strlen("from"), &from) != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("subscription option \"from\" cannot be altered"),
				 errhint("Use seek_to_position() or seek_to_time().")));
	if (!isnull)
		merged = DirectFunctionCall2(jsonb_concat, have, merged);
	merged = DirectFunctionCall1(jsonb_strip_nulls, merged);
	oi_check_options(DatumGetJsonbP(merged), &from_start);

	return merged;
}

/*
 * Where a subscription delivers to from now on, if anything of that is given.  Its
 * owner has to have the right to the server.
 */
static void
alter_target(FunctionCallInfo fcinfo, TupleTableSlot *slot, Oid owner)
{
	ForeignServer *server;
	const char *sink;

	if (PG_ARGISNULL(1) && PG_ARGISNULL(3))
		return;
	if (!PG_ARGISNULL(1))
		set_column(slot, SUB_SERVER, PG_GETARG_DATUM(1));
	if (!PG_ARGISNULL(3))
		set_column(slot, SUB_TOPIC, PG_GETARG_DATUM(3));
	server = GetForeignServerByName(TextDatumGetCString(slot->tts_values[SUB_SERVER - 1]), false);
	sink = oi_check_server(server, GetForeignDataWrapper(server->fdwid), owner);
	oi_check_topic(sink, TextDatumGetCString(slot->tts_values[SUB_TOPIC - 1]));
}

/*
 * alter_subscription(name text, server text, event_types text[], topic text,
 * options jsonb)
 */
Datum
oi_alter_subscription(PG_FUNCTION_ARGS)
{
	char	   *name = oi_required_text(fcinfo, 0, "subscription name");
	OiTable		table;
	TupleTableSlot *slot;
	bool		isnull;
	int32		id;

	oi_xact_check_writable("alter_subscription()");
	id = oi_subscription_open(&table, name);
	slot = copy_row(&table, SUB_COLUMNS);
	alter_target(fcinfo, slot, DatumGetObjectId(slot_getattr(table.row, SUB_OWNER, &isnull)));
	if (!PG_ARGISNULL(2) && ArrayGetNItems(ARR_NDIM(PG_GETARG_ARRAYTYPE_P(2)),
										   ARR_DIMS(PG_GETARG_ARRAYTYPE_P(2))) == 0)
		slot->tts_isnull[SUB_EVENT_TYPES - 1] = true;
	else if (!PG_ARGISNULL(2))
	{
		oi_check_event_types(PG_GETARG_ARRAYTYPE_P(2));
		set_column(slot, SUB_EVENT_TYPES, PG_GETARG_DATUM(2));
	}
	if (!PG_ARGISNULL(4))
		set_column(slot, SUB_OPTIONS, merge_options(table.row, PG_GETARG_JSONB_P(4)));
	store(&table, slot);
	oi_table_close(&table);
	touch(id, NULL, PG_ARGISNULL(1) ? NULL : forget_deliveries);

	PG_RETURN_VOID();
}

/*
 * Open a subscription that is to be taken to another place.  Where it comes from
 * another installation, its cursor says so by being in an older incarnation of
 * the log, so it must not be moved into this one before it is resumed.  From here
 * on until the end of the transaction nothing of the log is emptied.
 */
static int32
open_to_seek(const char *name)
{
	OiTable		table;
	OiArming	here;
	int32		id = oi_subscription_open(&table, name);

	oi_arming_here(&here);
	if (oi_is_foreign(table.row, &here))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("subscription \"%s\" came with a dump of another database", name),
				 errhint("Call resume_subscription() first, in the same transaction if nothing is to be delivered before.")));
	oi_table_close(&table);
	oi_log_keep();

	return id;
}

/*
 * Take a subscription to a position: what lies above is delivered, or delivered
 * again.  What lies at or below it is not, but for what commits from now on.
 * In an incarnation of the log that has ended everything has committed.
 */
static int64
seek(int32 id, OiMoment *now, int64 position)
{
	OiMoment	to;

	position = Min(position, now->position);
	if (OI_INCARNATION(position) < OI_INCARNATION(now->position))
		oi_moment_end(&to, OI_INCARNATION(position));
	else
		to = *now;
	to.position = position;
	touch(id, &to, NULL);

	return position;
}

/*
 * seek_to_position(name text, position bigint)
 */
Datum
oi_seek_to_position(PG_FUNCTION_ARGS)
{
	char	   *name = oi_required_text(fcinfo, 0, "subscription name");
	OiMoment	now;
	int32		id;

	oi_xact_check_writable("seek_to_position()");
	if (PG_ARGISNULL(1))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("position must not be null")));
	if (PG_GETARG_INT64(1) < 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("position must not be negative")));
	id = open_to_seek(name);
	oi_moment_now(&now);

	PG_RETURN_INT64(seek(id, &now, PG_GETARG_INT64(1)));
}

/*
 * The position before the first event that was made at a time or later, of those
 * that can be seen now; that of the log's end if there is none.
 */
static int64
position_before(TimestampTz time, int64 end)
{
	Oid			types[] = {TIMESTAMPTZOID};
	Datum		values[] = {TimestampTzGetDatum(time)};
	OiIdentity	was;
	SPIPlanPtr	plan;
	bool		isnull = true;
	int64		position = end;
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());

	oi_owner_assume(oi_relation_oid(OI_REL_SUBSCRIPTIONS), SECURITY_RESTRICTED_OPERATION, &was);
	SPI_connect();
	plan = SPI_prepare("SELECT pg_catalog.min(o.position) FROM order_idempotency.outbox o"
					   " WHERE o.created_at OPERATOR(pg_catalog.>=) $1", 1, types);
	if (plan == NULL ||
		SPI_execute_snapshot(plan, values, NULL, snapshot, InvalidSnapshot,
							 true, false, 0) != SPI_OK_SELECT)
		ereport(ERROR,
				(errcode(ERRCODE_INTERNAL_ERROR),
				 errmsg("could not read the log")));
	values[0] = SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull);
	if (!isnull)
		position = DatumGetInt64(values[0]) - 1;
	SPI_finish();
	oi_owner_resume(&was);
	UnregisterSnapshot(snapshot);

	return position;
}

/*
 * seek_to_time(name text, at timestamptz).  The moment is taken first: what it
 * does not see is late, and is delivered; what it sees the query sees too.
 */
Datum
oi_seek_to_time(PG_FUNCTION_ARGS)
{
	char	   *name = oi_required_text(fcinfo, 0, "subscription name");
	OiMoment	now;
	int32		id;

	oi_xact_check_writable("seek_to_time()");
	if (PG_ARGISNULL(1))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("time must not be null")));
	id = open_to_seek(name);
	oi_moment_now(&now);

	PG_RETURN_INT64(seek(id, &now, position_before(PG_GETARG_TIMESTAMPTZ(1), now.position)));
}
