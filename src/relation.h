/*-------------------------------------------------------------------------
 *
 * relation.h
 *		Access to the extension's tables without SPI.
 *
 * A caller opens a table, finds or builds a row in a slot, and inserts,
 * locks, updates or deletes it.  Triggers, constraints and indexes of the
 * table are honoured as the executor would; see src/README for what is not.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OI_RELATION_H
#define OI_RELATION_H

#include "compat.h"
#include "executor/tuptable.h"
#include "nodes/execnodes.h"
#include "nodes/lockoptions.h"
#include "storage/lockdefs.h"
#include "utils/relcache.h"
#include "utils/snapshot.h"

#include "wait.h"

/* every relation of the extension that C code touches */
typedef enum OiRelation
{
	OI_REL_GENERATIONS,
	OI_REL_CLAIMS_0,
	OI_REL_CLAIMS_1,
	OI_REL_CLAIMS_2,
	OI_REL_CLAIMS_3,
	OI_REL_LIFECYCLE,
	OI_REL_ORDERS,
	OI_REL_PAYMENT_DEADLINES,
	OI_REL_DEADLINE_FAILURES,
	OI_REL_LEDGER,
	OI_REL_OUTBOX_POSITION,
	OI_REL_OUTBOX_0,
	OI_REL_OUTBOX_1,
	OI_REL_OUTBOX_2,
	OI_REL_OUTBOX_3,
	OI_REL_SUBSCRIPTION_ID,
	OI_REL_SUBSCRIPTIONS,
	OI_REL_SUBSCRIPTION_CURSORS,
	OI_REL_FAILED_EVENTS,
	OI_REL_INSTALLATION,
	OI_REL_IN_USE,
	OI_REL_LONGEST_LEASE,
	OI_REL_TIME_ORDERED_FROM,
	OI_REL_COUNT
} OiRelation;

/* how many tables a store of generations has */
#define OI_SLOTS 4

/* An open table.  Its lock is kept until the transaction ends. */
typedef struct OiTable
{
	Relation	rel;
	LOCKMODE	lockmode;
	List	   *slots;			/* TupleTableSlots to drop at close */
	TupleTableSlot *row;		/* what look-ups find; made by the first */
	Relation	key_index;		/* the primary key's, opened by the first */
	Relation   *indexes;		/* opened by the first write; NULL: not yet */
	IndexInfo **index_infos;
	int			nindexes;
	EState	   *estate;			/* made by the first write that needs it */
	ResultRelInfo *rri;			/* likewise */
} OiTable;

/* what is to be done when a row is stored, before AFTER triggers fire */
typedef struct OiThen
{
	void		(*call) (void *arg);
	void	   *arg;
} OiThen;

/* what a probe for a key says */
typedef enum OiProbe
{
	OI_PROBE_ABSENT,
	OI_PROBE_PRESENT,			/* table->row holds the row */
	OI_PROBE_BUSY				/* another transaction is at it */
} OiProbe;

/* what became of an attempt to lock a row */
typedef enum OiLockResult
{
	OI_LOCK_OK,					/* table->row is the newest version */
	OI_LOCK_TIMEOUT,			/* somebody else still has it */
	OI_LOCK_GONE				/* the row was deleted: look again */
} OiLockResult;

/* relation.c */
extern void oi_relation_init(void);
extern Oid	oi_relation_oid(OiRelation which);
extern Oid	oi_relation_oid_if_any(OiRelation which);
extern Oid	oi_relation_owner(Oid relid);
extern int	oi_relation_columns(OiRelation which);
extern void oi_relation_check(Relation rel, OiRelation which);
extern bool oi_extension_present(void);

extern void oi_table_open(OiTable *table, OiRelation which, LOCKMODE lockmode);
extern void oi_table_close(OiTable *table);
extern TupleTableSlot *oi_table_slot(OiTable *table);
extern TupleTableSlot *oi_table_new_row(OiTable *table);

extern OiProbe oi_probe_dirty(OiTable *table, Datum key, bool mind_updaters,
							  OiBusy *busy);
extern bool oi_find(OiTable *table, Datum key, Snapshot snapshot);
extern OiLockResult oi_lock(OiTable *table, OiWait *wait);
OI_NORETURN extern void oi_serialization_failure(const char *what);

/* relation_insert.c */
extern bool oi_insert(OiTable *table, TupleTableSlot *slot, bool speculative,
					  const OiThen *then);
extern void oi_insert_values(OiRelation which, const Datum *values,
							 const bool *nulls);

/* relation_write.c */
extern void oi_write_end(OiTable *table);
extern void oi_update(OiTable *table, TupleTableSlot *newslot,
					  Bitmapset *changed);
extern void oi_delete(OiTable *table);
extern void oi_remove(OiTable *table);

#endif							/* OI_RELATION_H */
