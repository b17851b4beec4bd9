/*-------------------------------------------------------------------------
 *
 * generation.c
 *		Which of a store's tables are in use.
 *
 * Claims and the outbox each live in a fixed set of tables used in turn: new
 * rows go into the current one, and a whole old one is emptied by TRUNCATE,
 * which leaves no dead row behind.  Table "generations" says which is which.
 * Backends cache it; a trigger there invalidates the caches.
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

/* the columns of table generations that are read here */
#define ATT_STORE		1
#define ATT_SLOT		2
#define ATT_GENERATION	3

/* one row */
typedef struct Row
{
	int			slot;
	int64		generation;
} Row;

static const char *const store_names[OI_STORE_COUNT] = {
	[OI_STORE_CLAIMS] = "claims",
	[OI_STORE_OUTBOX] = "outbox",
};

static bool cache_valid = false;
static OiGenerations cache[OI_STORE_COUNT];
static Oid	generations_relid = InvalidOid;

/* Forgets what is cached when the table changes, or may have. */
static void
forget_generations(Datum arg, Oid relid)
{
	if (!OidIsValid(relid) || relid == generations_relid)
		cache_valid = false;
}

/* Called once, when the library is loaded. */
void
oi_generation_init(void)
{
	CacheRegisterRelcacheCallback(forget_generations, (Datum) 0);
}

/* Puts a row among those of its store, by generation. */
static void
sort_in(Row *rows, int *n, Row row)
{
	int			i;

	if (*n >= OI_SLOTS || row.slot < 0 || row.slot >= OI_SLOTS)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("table \"order_idempotency.generations\" has more rows than there are slots")));
	for (i = *n; i > 0 && rows[i - 1].generation > row.generation; i--)
		rows[i] = rows[i - 1];
	rows[i] = row;
	(*n)++;
}

/* Reads the rows of all stores as of now. */
static void
read_rows(Row rows[OI_STORE_COUNT][OI_SLOTS], int *n)
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
		Row			row;

		CHECK_FOR_INTERRUPTS();
		store = TextDatumGetCString(slot_getattr(slot, ATT_STORE, &isnull));
		row.slot = DatumGetInt32(slot_getattr(slot, ATT_SLOT, &isnull));
		row.generation = DatumGetInt64(slot_getattr(slot, ATT_GENERATION, &isnull));
		for (int i = 0; i < OI_STORE_COUNT; i++)
			if (strcmp(store, store_names[i]) == 0)
				sort_in(rows[i], &n[i], row);
		pfree(store);
	}
	table_endscan(scan);
	oi_table_close(&table);
	UnregisterSnapshot(snapshot);
}

/* Loads the cache.  A store without rows has only its slot 0, current. */
static void
load_generations(void)
{
	Row			rows[OI_STORE_COUNT][OI_SLOTS];
	int			n[OI_STORE_COUNT] = {0};

	generations_relid = oi_relation_oid(OI_REL_GENERATIONS);
	read_rows(rows, n);
	for (int i = 0; i < OI_STORE_COUNT; i++)
	{
		cache[i].nlive = Max(n[i], 1);
		cache[i].live[0] = 0;
		for (int j = 0; j < n[i]; j++)
			cache[i].live[j] = rows[i][j].slot;
	}
	cache_valid = true;
}

/* The generations of a store, as of the last lock that was taken. */
OiGenerations
oi_generations(OiStore store)
{
	if (!cache_valid)
		load_generations();
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
