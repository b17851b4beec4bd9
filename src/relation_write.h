/*-------------------------------------------------------------------------
 *
 * relation_write.h
 *		What inserting, updating and deleting rows have in common.
 *
 * Private to relation*.c.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OI_RELATION_WRITE_H
#define OI_RELATION_WRITE_H

#include "commands/trigger.h"
#include "relation.h"

/* relation_write.c */
extern void oi_prepare_executor(OiTable *table);
extern int	oi_next_foreign_check(const TupleConstr *constr, int i);
extern bool oi_has_triggers(OiTable *table, CmdType command);
extern TransitionCaptureState *oi_begin_statement(OiTable *table,
												  CmdType command);
extern void oi_end_statement(OiTable *table, CmdType command,
							 TransitionCaptureState *transitions);
extern void oi_report_suppressed(OiTable *table);
extern void oi_open_indexes(OiTable *table);
extern void oi_lend_indexes(OiTable *table);

#endif							/* OI_RELATION_WRITE_H */
