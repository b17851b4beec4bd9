/*-------------------------------------------------------------------------
 *
 * generation.c
 *		Which of a store's tables are in use.
 *
 * Claims and the outbox each live in a fixed set of tables used in turn: new
 * rows go into the current one, and a whole old one is emptied by TRUNCATE,
 * which leaves no dead row behind.  Table "generations" says which is which.
 * Backends cache it until it changes.
 *
 * The table's lock is also the gate of the claims' one-winner protocol; see
 * src/README.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/table.h"
#include "access/tableam.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/inval.h"
#include "utils/snapmgr.h"

#include "generation.h"
#include "time_order.h"
#include "wait.h"

/* the columns of table generations that are read here */
#define ATT_STORE		1
#define ATT_SLOT		2
#define ATT_GENERATION	3
#define ATT_STARTED_AT	4
#define ATT_ENDED_AT	5

/* ms that claims may have to wait behind one who waits to shut the gate */
#define SHUT_TIMEOUT 20

static const char *const store_names[OI_STORE_COUNT] = {
	[OI_STORE_CLAIMS] = "claims",
	[OI_STORE_OUTBOX] = "outbox",
};

/* the lists, each as it was after so many changes */
static OiGenerations cache[OI_STORE_COUNT];
static uint64 cached_at[OI_STORE_COUNT] = {0};
static uint64 changes = 1;
static Oid	generations_relid = InvalidOid;

/* Forgets what is cached when the table changes, or may have. */
static void
forget_generations(Datum arg, Oid relid)
{
	if (!OidIsValid(relid) || relid == generations_relid)
		changes++;
}

/* Called once, when the library is loaded. */
void
oi_generation_init(void)
{
	CacheRegisterRelcacheCallback(forget_generations, (Datum) 0);
}

/* Puts a row among those of its store, by generation. */
static void
sort_in(OiGeneration *rows, int *n, OiGeneration row)
{
	int			i;

	if (*n >= OI_SLOTS || row.slot < 0 || row.slot >= OI_SLOTS)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("table \"order_idempotency.generations\" has more rows than there are slots")));
	for (i = *n; i > 0 && rows[i - 1].number > row.number; i--)
		rows[i] = rows[i - 1];
	rows[i] = row;
	(*n)++;
}

/* Takes a row apart. */
static OiGeneration
read_row(TupleTableSlot *slot)
{
	OiGeneration row;
	bool		isnull;

	row.slot = DatumGetInt32(slot_getattr(slot, ATT_SLOT, &isnull));
	row.number = DatumGetInt64(slot_getattr(slot, ATT_GENERATION, &isnull));
	row.started_at = DatumGetTimestampTz(slot_getattr(slot, ATT_STARTED_AT, &isnull));
	row.ended_at = DatumGetTimestampTz(slot_getattr(slot, ATT_ENDED_AT, &isnull));
	if (isnull)
		row.ended_at = 0;
	return row;
}

/* Reads the rows of all stores as of now. */
static void
read_rows(OiGeneration rows[OI_STORE_COUNT][OI_SLOTS], int *n)
{
	OiTable		table;
	Snapshot	snapshot;
	TableScanDesc scan;
	TupleTableSlot *slot;

	oi_table_open(&table, OI_REL_GENERATIONS, AccessShareLock);
	snapshot = RegisterSnapshot(GetLatestSnapshot());
	slot = oi_table_slot(&table);
	scan = table_beginscan(table.rel, snapshot, 0, NULL);
	while (table_scan_getnextslot(scan, ForwardScanDirection, slot))
	{
		bool		isnull;
		char	   *store;

		CHECK_FOR_INTERRUPTS();
		store = TextDatumGetCString(slot_getattr(slot, ATT_STORE, &isnull));
		for (int i = 0; i < OI_STORE_COUNT; i++)
			if (strcmp(store, store_names[i]) == 0)
				sort_in(rows[i], &n[i], read_row(slot));
		pfree(store);
	}
	table_endscan(scan);
	oi_table_close(&table);
	UnregisterSnapshot(snapshot);
}

/*
 * Loads the list of a store.  One without rows has only its slot 0, current,
 * generation 1.  What changes while the table is read is read again when it is
 * next asked for.
 */
static void
load_generations(OiStore store)
{
	OiGeneration rows[OI_STORE_COUNT][OI_SLOTS];
	OiGeneration first = {.slot = 0,.number = 1};
	int			n[OI_STORE_COUNT] = {0};
	OiGenerations *list = &cache[store];
	uint64		as_of;

	generations_relid = oi_relation_oid(OI_REL_GENERATIONS);
	as_of = changes;
	read_rows(rows, n);
	if (n[store] == 0)
		sort_in(rows[store], &n[store], first);
	memset(list, 0, sizeof(OiGenerations));
	list->nlive = n[store];
	for (int i = 0; i < n[store]; i++)
		list->live[i] = rows[store][i].slot;
	if (store == OI_STORE_CLAIMS)
	{
		int64		from = oi_time_ordered_from(list->live, list->nlive,
												rows[store][n[store] - 1].number);

		for (int i = 0; i < n[store]; i++)
			list->time_ordered[i] = rows[store][i].number >= from;
	}
	cached_at[store] = as_of;
}

/* The generations of a store, as of the last lock that was taken. */
OiGenerations
oi_generations(OiStore store)
{
	if (cached_at[store] != changes)
		load_generations(store);
	return cache[store];
}

/* The slot that new rows go to. */
int
oi_generation_current(const OiGenerations *generations)
{
	return generations->live[generations->nlive - 1];
}

/*
 * Enters the gate: until oi_generation_ungate, no generation begins or ends.
 * Taking the lock also takes in the invalidations of a rotation before it.
 */
void
oi_generation_gate(void)
{
	LockRelationOid(oi_relation_oid(OI_REL_GENERATIONS), RowExclusiveLock);
}

/* Leaves the gate. */
void
oi_generation_ungate(void)
{
	UnlockRelationOid(oi_relation_oid(OI_REL_GENERATIONS), RowExclusiveLock);
}

/* Waits for the gate. */
static void
wait_for_gate(void *arg)
{
	LockRelationOid(*(Oid *) arg, ShareRowExclusiveLock);
}

/*
 * Shuts the gate until the transaction's end, also for others who would.
 * False: somebody is in it who does not leave.
 */
bool
oi_generation_shut(void)
{
	Oid			relid = oi_relation_oid(OI_REL_GENERATIONS);

	return ConditionalLockRelationOid(relid, ShareRowExclusiveLock) ||
		oi_run_with_lock_timeout(wait_for_gate, &relid, SHUT_TIMEOUT);
}

/* The rows of a store as of now, oldest first.  Returns how many there are. */
int
oi_generation_list(OiStore store, OiGeneration *list)
{
	OiGeneration rows[OI_STORE_COUNT][OI_SLOTS];
	int			n[OI_STORE_COUNT] = {0};

	read_rows(rows, n);
	memcpy(list, rows[store], n[store] * sizeof(OiGeneration));
	return n[store];
}

/*
 * Tells all backends, when the transaction commits, to read the table again.
 * Its trigger does so as well, where it is not disabled.
 */
void
oi_generation_changed(void)
{
	CacheInvalidateRelcacheByRelid(oi_relation_oid(OI_REL_GENERATIONS));
}
