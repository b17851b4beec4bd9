/*-------------------------------------------------------------------------
 *
 * owner.c
 *		Acting for the owner of the extension's tables.
 *
 * Background processes are connected as a subscription's owner, who may have
 * no right to the tables, or as the bootstrap superuser, whose rights no
 * trigger of anybody's may have.  In their transactions they are the tables'
 * owner, with one of the server's two flags:
 *
 *	SECURITY_RESTRICTED_OPERATION	no user code is meant to run
 *	SECURITY_LOCAL_USERID_CHANGE	triggers of users run, as for a
 *									statement of the owner's
 *
 * An error in such a transaction ends it, and with it the owner's identity.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "utils/snapmgr.h"

#include "owner.h"

/*
 * Be the owner of a table.  The session's identity has to be resumed before
 * the transaction's end.
 */
void
oi_owner_assume(Oid relid, int flag, OiIdentity *was)
{
	GetUserIdAndSecContext(&was->userid, &was->sec_context);
	SetUserIdAndSecContext(oi_relation_owner(relid), was->sec_context | flag);
}

/*
 * Be who we were.
 */
void
oi_owner_resume(const OiIdentity *was)
{
	SetUserIdAndSecContext(was->userid, was->sec_context);
}

/*
 * Start a transaction as the owner of a table, with a snapshot and SPI.  False,
 * and no transaction: the extension is gone, or the table is not the one that
 * it was at first (relid is InvalidOid until then).
 */
bool
oi_owner_begin(OiRelation which, Oid relid, int flag, OiIdentity *was)
{
	Oid			now;

	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	now = oi_extension_present() ? oi_relation_oid_if_any(which) : InvalidOid;
	if (!OidIsValid(now) || (OidIsValid(relid) && now != relid))
	{
		PopActiveSnapshot();
		CommitTransactionCommand();
		return false;
	}

	oi_owner_assume(now, flag, was);
	SPI_connect();
	return true;
}

/*
 * Commit it.  What was found has been copied to a context of the caller's,
 * which is made current again.
 */
void
oi_owner_end(const OiIdentity *was, MemoryContext context)
{
	SPI_finish();
	oi_owner_resume(was);
	PopActiveSnapshot();
	CommitTransactionCommand();
	MemoryContextSwitchTo(context);
}
