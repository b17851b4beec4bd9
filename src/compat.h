/*-------------------------------------------------------------------------
 *
 * compat.h
 *		Every test of the server's version.
 *
 * Code elsewhere calls the oi_compat_* functions where releases differ.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OI_COMPAT_H
#define OI_COMPAT_H

#include "access/genam.h"
#include "access/tableam.h"
#include "access/tupdesc.h"
#include "catalog/pg_database.h"
#include "catalog/pg_foreign_server.h"
#include "commands/trigger.h"
#include "common/jsonapi.h"
#include "executor/executor.h"
#include "mb/pg_wchar.h"
#include "parser/parse_relation.h"
#include "storage/lmgr.h"
#include "storage/lock.h"
#include "storage/proc.h"
#include "utils/acl.h"
#include "utils/relcache.h"
#include "utils/wait_event.h"

/* UNIQUE NULLS NOT DISTINCT, used by table lifecycle, came with 15. */
#if PG_VERSION_NUM < 150000 || PG_VERSION_NUM >= 190000
#error "order_idempotency 1.1 is for PostgreSQL 15 to 18"
#endif

/* what a file of ours is of no use to another release of the server by */
#define OI_SERVER_VERSION ((uint32) PG_VERSION_NUM)

/*
 * The first minor release in which serializable transactions that look for a
 * key in a table without rows find every conflict; see src/README, "Isolation".
 */
#if PG_VERSION_NUM < 160000
#define OI_SERIALIZABLE_SINCE 150004
#else
#define OI_SERIALIZABLE_SINCE 160000
#endif

/* Once in a library: since 18 pg_get_loaded_modules() shows what it says. */
#if PG_VERSION_NUM >= 180000
#define OI_MODULE_MAGIC(NAME, VERSION) \
	PG_MODULE_MAGIC_EXT(.name = NAME, .version = VERSION)
#else
#define OI_MODULE_MAGIC(NAME, VERSION) PG_MODULE_MAGIC
#endif

/* settings that a background process needs, which came after 15 */
#if PG_VERSION_NUM >= 170000
#define OI_COMPAT_SAFE_SETTINGS {"transaction_timeout", "0"},
#else
#define OI_COMPAT_SAFE_SETTINGS
#endif

/* Stands before the declaration of a function that does not return. */
#if PG_VERSION_NUM >= 180000
#define OI_NORETURN pg_noreturn
#else
#define OI_NORETURN pg_attribute_noreturn()
#endif

/*
 * What pg_stat_activity shows of a wait: since 17 a name of ours, which is asked
 * for once and kept in *event.
 */
static inline uint32
oi_compat_wait_event(uint32 *event, const char *name)
{
#if PG_VERSION_NUM >= 170000
	if (*event == 0)
		*event = WaitEventExtensionNew(name);
	return *event;
#else
	(void) event;
	(void) name;
	return PG_WAIT_EXTENSION;
#endif
}

/* The local transaction id of this session. */
static inline LocalTransactionId
oi_compat_lxid(void)
{
#if PG_VERSION_NUM >= 170000
	return MyProc->vxid.lxid;
#else
	return MyProc->lxid;
#endif
}

/* This process's place in ProcGlobal->allProcs. */
static inline int
oi_compat_proc_number(void)
{
#if PG_VERSION_NUM >= 170000
	return MyProcNumber;
#else
	return MyProc->pgprocno;
#endif
}

/* Does this session hold a lock in this very mode? */
static inline bool
oi_compat_lock_held(const LOCKTAG *tag, LOCKMODE mode)
{
#if PG_VERSION_NUM >= 170000
	return LockHeldByMe(tag, mode, false);
#else
	return LockHeldByMe(tag, mode);
#endif
}

/* Has the role this privilege on a foreign server? */
static inline AclResult
oi_compat_server_aclcheck(Oid server, Oid role, AclMode mode)
{
#if PG_VERSION_NUM >= 160000
	return object_aclcheck(ForeignServerRelationId, server, role, mode);
#else
	return pg_foreign_server_aclcheck(server, role, mode);
#endif
}

/* May a role connect to a database? */
static inline bool
oi_compat_may_connect(Oid dboid, Oid role)
{
#if PG_VERSION_NUM >= 160000
	return object_aclcheck(DatabaseRelationId, dboid, role, ACL_CONNECT) == ACLCHECK_OK;
#else
	return pg_database_aclcheck(dboid, role, ACL_CONNECT) == ACLCHECK_OK;
#endif
}

/* Does a database belong to a role? */
static inline bool
oi_compat_owns_database(Oid dboid, Oid role)
{
#if PG_VERSION_NUM >= 160000
	return object_ownercheck(DatabaseRelationId, dboid, role);
#else
	return pg_database_ownercheck(dboid, role);
#endif
}

/* What the callbacks of a JSON parser return, and how they do. */
#if PG_VERSION_NUM >= 160000
typedef JsonParseErrorType OiJsonResult;
#define OI_JSON_GO_ON() return JSON_SUCCESS
#else
typedef void OiJsonResult;
#define OI_JSON_GO_ON() return
#endif

/* Prepares to parse a string in the database's encoding as JSON. */
static inline JsonLexContext *
oi_compat_json_lexer(const char *json)
{
#if PG_VERSION_NUM >= 170000
	return makeJsonLexContextCstringLen(NULL, json, strlen(json),
										GetDatabaseEncoding(), true);
#else
	return makeJsonLexContextCstringLen(unconstify(char *, json), strlen(json),
										GetDatabaseEncoding(), true);
#endif
}

/* Waits for a transaction if that takes no time; true if it has ended. */
static inline bool
oi_compat_xact_has_ended(TransactionId xid)
{
#if PG_VERSION_NUM >= 180000
	return ConditionalXactLockTableWait(xid, false);
#else
	return ConditionalXactLockTableWait(xid);
#endif
}

/* The index of a table's primary key. */
static inline Oid
oi_compat_primary_key(Relation rel)
{
#if PG_VERSION_NUM >= 180000
	return RelationGetPrimaryKeyIndex(rel, false);
#else
	return RelationGetPrimaryKeyIndex(rel);
#endif
}

/* Begins a scan of an index by its first column. */
static inline IndexScanDesc
oi_compat_index_scan(Relation rel, Relation index, Snapshot snapshot)
{
#if PG_VERSION_NUM >= 180000
	return index_beginscan(rel, index, snapshot, NULL, 1, 0);
#else
	return index_beginscan(rel, index, snapshot, 1, 0);
#endif
}

/* Prepares an executor state for a single relation. */
static inline void
oi_compat_init_range_table(EState *estate, RangeTblEntry *rte)
{
#if PG_VERSION_NUM >= 160000
	List	   *permissions = NIL;

	addRTEPermissionInfo(&permissions, rte);
#endif

#if PG_VERSION_NUM >= 180000
	ExecInitRangeTable(estate, list_make1(rte), permissions,
					   bms_make_singleton(1));
#elif PG_VERSION_NUM >= 160000
	ExecInitRangeTable(estate, list_make1(rte), permissions);
#else
	ExecInitRangeTable(estate, list_make1(rte));
#endif
}

/* Notes which columns an UPDATE is about to change. */
static inline void
oi_compat_set_updated_columns(RangeTblEntry *rte, EState *estate,
							  Bitmapset *columns)
{
#if PG_VERSION_NUM >= 160000
	getRTEPermissionInfo(estate->es_rteperminfos, rte)->updatedCols = columns;
#else
	(void) estate;
	rte->updatedCols = columns;
#endif
}

/* Is a CHECK constraint enforced? */
static inline bool
oi_compat_is_enforced(const ConstrCheck *check)
{
#if PG_VERSION_NUM >= 180000
	return check->ccenforced;
#else
	(void) check;
	return true;
#endif
}

/* Sets the prepared CHECK constraints of a table; NULL in it is true. */
static inline void
oi_compat_set_checks(ResultRelInfo *rri, ExprState **checks)
{
#if PG_VERSION_NUM >= 180000
	rri->ri_CheckConstraintExprs = checks;
#else
	rri->ri_ConstraintExprs = checks;
#endif
}

/* Prepares what BEFORE UPDATE triggers use if they have to wait for a row. */
static inline void
oi_compat_init_epq(EPQState *epq, EState *estate)
{
#if PG_VERSION_NUM >= 160000
	EvalPlanQualInit(epq, estate, NULL, NIL, -1, NIL);
#else
	EvalPlanQualInit(epq, estate, NULL, NIL, -1);
#endif
}

/* Fires BEFORE UPDATE triggers of a row; false if one suppressed the change. */
static inline bool
oi_compat_before_update(EState *estate, EPQState *epq, ResultRelInfo *rri,
						ItemPointer tid, TupleTableSlot *slot)
{
#if PG_VERSION_NUM >= 180000
	return ExecBRUpdateTriggers(estate, epq, rri, tid, NULL, slot, NULL, NULL,
								false);
#elif PG_VERSION_NUM >= 160000
	return ExecBRUpdateTriggers(estate, epq, rri, tid, NULL, slot, NULL, NULL);
#else
	return ExecBRUpdateTriggers(estate, epq, rri, tid, NULL, slot, NULL);
#endif
}

/* Fires BEFORE DELETE triggers of a row; false if one suppressed the change. */
static inline bool
oi_compat_before_delete(EState *estate, EPQState *epq, ResultRelInfo *rri,
						ItemPointer tid)
{
#if PG_VERSION_NUM >= 180000
	return ExecBRDeleteTriggers(estate, epq, rri, tid, NULL, NULL, NULL, NULL,
								false);
#elif PG_VERSION_NUM >= 160000
	return ExecBRDeleteTriggers(estate, epq, rri, tid, NULL, NULL, NULL, NULL);
#else
	return ExecBRDeleteTriggers(estate, epq, rri, tid, NULL, NULL);
#endif
}

/* Makes index entries for a new row; for conflict and arbiters see there. */
static inline List *
oi_compat_index_new(ResultRelInfo *rri, TupleTableSlot *slot, EState *estate,
					bool *conflict, List *arbiters)
{
#if PG_VERSION_NUM >= 160000
	return ExecInsertIndexTuples(rri, slot, estate, false, conflict != NULL,
								 conflict, arbiters, false);
#else
	return ExecInsertIndexTuples(rri, slot, estate, false, conflict != NULL,
								 conflict, arbiters);
#endif
}

/* Lets an index's access method end what it kept from one row to the next. */
static inline void
oi_compat_index_done(Relation index, IndexInfo *info)
{
#if PG_VERSION_NUM >= 170000
	index_insert_cleanup(index, info);
#else
	(void) index;
	(void) info;
#endif
}

/* Which index entries an update needs, as table_tuple_update() says. */
#if PG_VERSION_NUM >= 160000
typedef TU_UpdateIndexes OiUpdateIndexes;
#else
typedef bool OiUpdateIndexes;
#endif

/* Makes the index entries that a row needs after an update. */
static inline List *
oi_compat_index_updated(ResultRelInfo *rri, TupleTableSlot *slot,
						EState *estate, OiUpdateIndexes which)
{
	if (rri->ri_NumIndices == 0)
		return NIL;
#if PG_VERSION_NUM >= 160000
	if (which == TU_None)
		return NIL;
	return ExecInsertIndexTuples(rri, slot, estate, true, false, NULL, NIL,
								 which == TU_Summarizing);
#else
	if (!which)
		return NIL;
	return ExecInsertIndexTuples(rri, slot, estate, true, false, NULL, NIL);
#endif
}

/* Does this process hold the lock? */
static inline bool
oi_compat_holds_lock(const LOCKTAG *tag, LOCKMODE mode)
{
#if PG_VERSION_NUM >= 170000
	return LockHeldByMe(tag, mode, false);
#else
	return LockHeldByMe(tag, mode);
#endif
}

#endif							/* OI_COMPAT_H */
