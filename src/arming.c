/*-------------------------------------------------------------------------
 *
 * arming.c
 *		Which subscriptions may publish from here.
 *
 * A copy of a database must not send the original's events.  So a subscription
 * is armed for one installation of the extension, one database and one
 * environment, and is left alone elsewhere until it is resumed there (see
 * src/README, "Copies of a database").
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/table.h"
#include "access/tableam.h"
#include "arming.h"
#include "guc.h"
#include "miscadmin.h"
#include "relation.h"
#include "subscription.h"
#include "utils/builtins.h"
#include "utils/snapmgr.h"
#include "utils/uuid.h"

/*
 * What a subscription has to be armed for to publish from this session's
 * database.  The SQL objects have table installation.
 */
void
oi_arming_here(OiArming *here)
{
	OiTable		table;
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	TableScanDesc scan;
	TupleTableSlot *slot;
	bool		isnull;

	oi_table_open(&table, OI_REL_INSTALLATION, AccessShareLock);
	slot = oi_table_slot(&table);
	scan = table_beginscan(table.rel, snapshot, 0, NULL);
	if (!table_scan_getnextslot(scan, ForwardScanDirection, slot))
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("table \"order_idempotency.installation\" has no row")));
	here->installation = *DatumGetUUIDP(slot_getattr(slot, 1, &isnull));
	here->database = MyDatabaseId;
	here->environment = pstrdup(oi_environment);

	table_endscan(scan);
	oi_table_close(&table);
	UnregisterSnapshot(snapshot);
}

/*
 * Does a subscription come from another installation, or from 1.0?
 */
bool
oi_is_foreign(TupleTableSlot *row, const OiArming *here)
{
	bool		isnull;
	Datum		value = slot_getattr(row, SUB_ARMED_FOR, &isnull);

	return isnull || memcmp(DatumGetUUIDP(value)->data, here->installation.data, UUID_LEN) != 0;
}

/*
 * May a subscription publish from here?
 */
bool
oi_is_armed(TupleTableSlot *row, const OiArming *here)
{
	bool		isnull;
	Datum		value;

	if (oi_is_foreign(row, here))
		return false;
	value = slot_getattr(row, SUB_ARMED_DATABASE, &isnull);
	if (isnull || DatumGetObjectId(value) != here->database)
		return false;
	value = slot_getattr(row, SUB_ENVIRONMENT, &isnull);
	return !isnull && strcmp(TextDatumGetCString(value), here->environment) == 0;
}

/*
 * Have a subscription's row say that it may.
 */
void
oi_arm(Datum *values, bool *nulls, const OiArming *here)
{
	values[SUB_ARMED_FOR - 1] = UUIDPGetDatum(&here->installation);
	values[SUB_ARMED_DATABASE - 1] = ObjectIdGetDatum(here->database);
	values[SUB_ENVIRONMENT - 1] = CStringGetTextDatum(here->environment);
	nulls[SUB_ARMED_FOR - 1] = false;
	nulls[SUB_ARMED_DATABASE - 1] = false;
	nulls[SUB_ENVIRONMENT - 1] = false;
}
