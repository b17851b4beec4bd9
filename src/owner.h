/*-------------------------------------------------------------------------
 *
 * owner.h
 *		Acting for the owner of the extension's tables.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OI_OWNER_H
#define OI_OWNER_H

#include "relation.h"

/* who a process was before it acted for the owner */
typedef struct OiIdentity
{
	Oid			userid;
	int			sec_context;
} OiIdentity;

extern void oi_owner_assume(Oid relid, int flag, OiIdentity *was);
extern void oi_owner_resume(const OiIdentity *was);
extern bool oi_owner_begin(OiRelation which, Oid relid, int flag,
						   OiIdentity *was);
extern void oi_owner_end(const OiIdentity *was, MemoryContext context);

#endif							/* OI_OWNER_H */
