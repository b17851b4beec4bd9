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

/* can our processes connect to a database? */
typedef enum OiAccess
{
	OI_ACCESS_NONE,				/* it is gone, a template, or allows none */
	OI_ACCESS_LOCKED,			/* a command has it for itself */
	OI_ACCESS_OPEN
} OiAccess;

extern OiAccess oi_database_access(Oid dboid);
extern List *oi_databases(bool all, MemoryContext context);
extern void oi_forget_dropped_databases(void);

#endif							/* OI_DATABASES_H */
