/*-------------------------------------------------------------------------
 *
 * rules.c
 *		The lifecycle in force, loaded from its table and cached.
 *
 * Each backend keeps the compiled lifecycle until table "lifecycle" says that
 * it changed: a statement-level trigger sends a relcache invalidation, which
 * other backends get when the change commits, and this one at once and again
 * if it aborts.  The table is checked as a whole at commit; a transaction that
 * uses a lifecycle of its own making before that gets the check's error there.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/pg_class.h"
#include "commands/trigger.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/inval.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "relation.h"
#include "rules.h"

/* the columns of table lifecycle */
enum
{
	COL_FROM_STATE,
	COL_TO_STATE,
	COL_EVENT_TYPE,
	COL_LEDGER_EFFECT,
	COL_COUNT
};

/* the compiled lifecycle, in a context of its own; NULL: load it */
static MemoryContext rules_context = NULL;
static OiLifecycle *rules = NULL;
static Oid	rules_relid = InvalidOid;

PG_FUNCTION_INFO_V1(oi_invalidate_caches);
PG_FUNCTION_INFO_V1(oi_lifecycle_check);
PG_FUNCTION_INFO_V1(oi_default_lifecycle);

/* Forgets the cached lifecycle when its table changes, or may have. */
static void
forget_rules(Datum arg, Oid relid)
{
	if (!OidIsValid(relid) || relid == rules_relid)
		rules = NULL;
}

/* Called once, when the library is loaded. */
void
oi_rules_init(void)
{
	CacheRegisterRelcacheCallback(forget_rules, (Datum) 0);
}

/* A column's text as a string, NULL for null. */
static char *
column_string(TupleTableSlot *slot, int column)
{
	bool		isnull;
	Datum		value = slot_getattr(slot, column + 1, &isnull);

	return isnull ? NULL : TextDatumGetCString(value);
}

/*
 * Reads the table as of now, own changes included.  Returns how many rows
 * there are.
 *
 * The snapshot is the one that the server reads its own catalogs with.  The
 * latest one is not to be had while a parallel query runs, and get_order, in
 * its leader, may be the first to ask.
 */
static int
read_transitions(OiTransition **transitions)
{
	OiTable		table;
	TupleTableSlot *slot;
	TableScanDesc scan;
	Snapshot	snapshot;
	int			n = 0,
				room = 16;

	*transitions = palloc(sizeof(OiTransition) * room);
	oi_table_open(&table, OI_REL_LIFECYCLE, AccessShareLock);
	snapshot = RegisterSnapshot(GetCatalogSnapshot(RelationGetRelid(table.rel)));
	slot = oi_table_slot(&table);
	scan = table_beginscan(table.rel, snapshot, 0, NULL);
	while (table_scan_getnextslot(scan, ForwardScanDirection, slot))
	{
		OiTransition *t;

		CHECK_FOR_INTERRUPTS();
		if (n == room)
			*transitions = repalloc(*transitions,
									sizeof(OiTransition) * (room *= 2));
		t = &(*transitions)[n++];
		t->from = column_string(slot, COL_FROM_STATE);
		t->to = column_string(slot, COL_TO_STATE);
		t->event_type = column_string(slot, COL_EVENT_TYPE);
		t->effect = oi_effect_parse(column_string(slot, COL_LEDGER_EFFECT));
	}
	table_endscan(scan);
	oi_table_close(&table);
	UnregisterSnapshot(snapshot);
	return n;
}

/* Loads the lifecycle in force, or raises an error that says what is wrong. */
static OiLifecycle *
load_rules(void)
{
	OiLifecycle *loaded = palloc0(sizeof(OiLifecycle));
	OiTransition *transitions;
	OiLifecycleError error;

	loaded->ntransitions = read_transitions(&transitions);
	loaded->transitions = transitions;
	if (loaded->ntransitions == 0)
	{
		loaded->transitions = oi_default_transitions;
		loaded->ntransitions = oi_default_ntransitions;
	}
	if (!oi_lifecycle_compile(loaded, &error))
		ereport(ERROR,
				(errcode(ERRCODE_CHECK_VIOLATION),
				 errmsg("%s", error.message),
				 error.detail ? errdetail("%s", error.detail) : 0,
				 errhint("View order_idempotency.current_lifecycle shows the lifecycle; see docs/reference.md for its rules.")));
	return loaded;
}

/* The lifecycle in force.  Valid until the next table access. */
const OiLifecycle *
oi_rules(void)
{
	MemoryContext old;
	OiLifecycle *loaded;

	if (rules)
		return rules;

	if (rules_context == NULL)
		rules_context = AllocSetContextCreate(TopMemoryContext,
											  "order_idempotency lifecycle",
											  ALLOCSET_SMALL_SIZES);
	MemoryContextReset(rules_context);
	rules_relid = oi_relation_oid(OI_REL_LIFECYCLE);
	old = MemoryContextSwitchTo(rules_context);
	loaded = load_rules();
	MemoryContextSwitchTo(old);
	rules = loaded;
	return rules;
}

/*
 * Trigger: tells all backends that a table which they cache has changed.
 */
Datum
oi_invalidate_caches(PG_FUNCTION_ARGS)
{
	if (!CALLED_AS_TRIGGER(fcinfo))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("function must be called as a trigger")));
	CacheInvalidateRelcache(((TriggerData *) fcinfo->context)->tg_relation);
	return PointerGetDatum(NULL);
}

/*
 * Checks take turns until the transaction's end, prepared or not: of two changes
 * that are each valid, and would not be together, the second one has to see the
 * first.  Nobody else takes this lock, so readers and writers of the table do
 * not notice.  With it comes word of what has been committed meanwhile, as with
 * any lock.
 */
static void
lock_check(void)
{
	LockDatabaseObject(RelationRelationId, oi_relation_oid(OI_REL_LIFECYCLE), 1,
					   ExclusiveLock);
}

/*
 * Constraint trigger: refuses a lifecycle that breaks the rules, with 23514.
 * Deferred, so that it sees the lifecycle as a whole; the work is done once,
 * as the later rows find it cached.
 */
Datum
oi_lifecycle_check(PG_FUNCTION_ARGS)
{
	if (!CALLED_AS_TRIGGER(fcinfo))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("function must be called as a trigger")));
	/* a single statement's rows and invalidation are not seen before this */
	CommandCounterIncrement();
	lock_check();
	(void) oi_rules();
	return PointerGetDatum(NULL);
}

/* SQL: the built-in lifecycle, a row a transition. */
Datum
oi_default_lifecycle(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;

	InitMaterializedSRF(fcinfo, 0);
	for (int i = 0; i < oi_default_ntransitions; i++)
	{
		const OiTransition *t = &oi_default_transitions[i];
		const char *effect = oi_effect_name(t->effect);
		Datum		values[COL_COUNT] = {0};
		bool		nulls[COL_COUNT] = {0};

		nulls[COL_FROM_STATE] = t->from == NULL;
		if (t->from)
			values[COL_FROM_STATE] = CStringGetTextDatum(t->from);
		values[COL_TO_STATE] = CStringGetTextDatum(t->to);
		values[COL_EVENT_TYPE] = CStringGetTextDatum(t->event_type);
		nulls[COL_LEDGER_EFFECT] = effect == NULL;
		if (effect)
			values[COL_LEDGER_EFFECT] = CStringGetTextDatum(effect);
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
	return (Datum) 0;
}
