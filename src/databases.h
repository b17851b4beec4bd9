/*-------------------------------------------------------------------------
 *
 * databases.h
 *		Which databases the server has.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OI_DATABASES_H
#define OI_DATABASES_H

#include "nodes/pg_list.h"

extern List *oi_databases(bool all, MemoryContext context);
extern void oi_forget_dropped_databases(void);

#endif							/* OI_DATABASES_H */
