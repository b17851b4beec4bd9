/*-------------------------------------------------------------------------
 *
 * databases.c
 *		Which databases the server has.
 *
 * For the launcher, which is connected to none of them.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/heapam.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/pg_database.h"
#include "databases.h"
#include "miscadmin.h"
#include "shmem.h"
#include "storage/lock.h"
#include "utils/snapmgr.h"

/* pg_database.datconnlimit of a database whose creation or drop was cut short */
#define INVALID_DATABASE (-2)

/*
 * The databases of this server, as a list of OIDs: all, or only those with
 * connections allowed that are no templates.
 */
List *
oi_databases(bool all, MemoryContext context)
{
	List	   *oids = NIL;
	Relation	rel;
	TableScanDesc scan;
	HeapTuple	tuple;

	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	rel = table_open(DatabaseRelationId, AccessShareLock);
	scan = table_beginscan_catalog(rel, 0, NULL);
	while (HeapTupleIsValid(tuple = heap_getnext(scan, ForwardScanDirection)))
	{
		Form_pg_database database = (Form_pg_database) GETSTRUCT(tuple);
		MemoryContext old;

		CHECK_FOR_INTERRUPTS();
		if (!all && (!database->datallowconn || database->datistemplate ||
					 database->datconnlimit == INVALID_DATABASE))
			continue;
		old = MemoryContextSwitchTo(context);
		oids = lappend_oid(oids, database->oid);
		MemoryContextSwitchTo(old);
	}
	table_endscan(scan);
	table_close(rel, AccessShareLock);
	PopActiveSnapshot();
	CommitTransactionCommand();

	return oids;
}

/*
 * Can a database be locked as a connection to it would?
 */
static bool
is_lockable(Oid dboid)
{
	LOCKTAG		tag;
	bool		result;

	SET_LOCKTAG_OBJECT(tag, InvalidOid, DatabaseRelationId, dboid, 0);
	StartTransactionCommand();
	result = LockAcquire(&tag, RowExclusiveLock, false, true) != LOCKACQUIRE_NOT_AVAIL;
	CommitTransactionCommand();

	return result;
}

/*
 * Can our processes connect to a database now?
 */
OiAccess
oi_database_access(Oid dboid)
{
	MemoryContext context = CurrentMemoryContext;
	bool		locked = !is_lockable(dboid);
	List	   *databases = oi_databases(false, context);
	bool		there = list_member_oid(databases, dboid);

	list_free(databases);
	MemoryContextSwitchTo(context);
	if (!there)
		return OI_ACCESS_NONE;
	return locked ? OI_ACCESS_LOCKED : OI_ACCESS_OPEN;
}

/*
 * The databases that shared memory knows of.
 */
static List *
known_databases(void)
{
	List	   *known = NIL;
	Oid			dboids[OI_MAX_DUES];
	int			n = oi_visit_known(dboids);

	for (int i = 0; i < n; i++)
		known = lappend_oid(known, dboids[i]);
	for (int i = 0; i < oi_shared->nslots; i++)
		if (OidIsValid(oi_shared->slots[i].dboid))
			known = list_append_unique_oid(known, oi_shared->slots[i].dboid);
	return known;
}

/*
 * Free what is kept for databases that are no more.  What is known is collected
 * first: a database that is created meanwhile must not be taken for one.
 */
void
oi_forget_dropped_databases(void)
{
	List	   *known = known_databases();
	List	   *databases = oi_databases(true, CurrentMemoryContext);
	ListCell   *lc;

	foreach(lc, known)
	{
		Oid			dboid = lfirst_oid(lc);

		if (list_member_oid(databases, dboid))
			continue;
		oi_shmem_sync_database(dboid, NULL, 0);
		oi_visit_forget(dboid, true);
	}
	list_free(databases);
	list_free(known);
}
