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

#include "executor/executor.h"

#if PG_VERSION_NUM < 150000 || PG_VERSION_NUM >= 160000
#error "order_idempotency 1.1 is for PostgreSQL 15"
#endif

/* UNIQUE NULLS NOT DISTINCT, used by table lifecycle, came with 15. */

/* Prepares an executor state for a single relation. */
static inline void
oi_compat_init_range_table(EState *estate, RangeTblEntry *rte)
{
	ExecInitRangeTable(estate, list_make1(rte));
}

/* Notes which columns an UPDATE is about to change. */
static inline void
oi_compat_set_updated_columns(RangeTblEntry *rte, EState *estate,
							  Bitmapset *columns)
{
	(void) estate;
	rte->updatedCols = columns;
}

/* Sets the prepared CHECK constraints of a table; NULL in it is true. */
static inline void
oi_compat_set_checks(ResultRelInfo *rri, ExprState **checks)
{
	rri->ri_ConstraintExprs = checks;
}

#endif							/* OI_COMPAT_H */
