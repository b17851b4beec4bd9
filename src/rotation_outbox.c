/*-------------------------------------------------------------------------
 *
 * rotation_outbox.c
 *		What the rotation of the log has of its own: subscriptions hold it.
 *
 * Readers read all four tables whatever the list says, so only the emptying
 * of a table can lose anything.  It asks who needs it under the lock that
 * keeps writers, readers and those away who would move a subscription back;
 * see src/README, "The log's generations".
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "storage/lmgr.h"

#include "log_hold.h"
#include "log_limit.h"
#include "rotation.h"

/*
 * Is the current generation half as old as events are kept?  Then it takes
 * three of the four tables to keep them.  Or does it have a quarter of what
 * may be kept?  One without a row may go on.
 */
static bool
may_begin(OiRotation *rotation, const OiGeneration *current)
{
	Oid			relid = oi_relation_oid(OI_REL_OUTBOX_0 + current->slot);
	bool		has_rows;

	if (!oi_rotation_is_due(rotation, current->started_at, rotation->retention / 2) &&
		!oi_log_slot_is_large(current->slot))
		return false;
	if (!ConditionalLockRelationOid(relid, AccessShareLock))
	{
		oi_rotation_retry(rotation);
		return false;
	}
	has_rows = !oi_rotation_is_empty(relid);
	UnlockRelationOid(relid, AccessShareLock);
	return has_rows;
}

/*
 * Were the events of a generation that has ended kept for long enough, or is there
 * too much, and has every subscription all of them behind it?  The last is asked once more when it
 * counts; here it keeps what is needed on the list.  Nobody tells us when a
 * subscription gets on: the round of a minute finds it.
 */
static bool
may_expire(OiRotation *rotation, const OiGeneration *row)
{
	if ((!oi_rotation_is_due(rotation, row->ended_at, rotation->retention) &&
		 !oi_log_is_over_limit()) ||
		oi_log_holders(row->slot, OI_HOLDS) != NIL)
		return false;
	oi_log_report_losses(row->slot);
	return true;
}

/*
 * Has every subscription all behind it that is in a table, which nobody else
 * can look at?  The subscriptions are read without waiting for a lock, since
 * others may wait for ours.
 */
static bool
may_empty(OiRotation *rotation, int slot)
{
	if (ConditionalLockRelationOid(oi_relation_oid(OI_REL_SUBSCRIPTIONS), AccessShareLock) &&
		ConditionalLockRelationOid(oi_relation_oid(OI_REL_SUBSCRIPTION_CURSORS), AccessShareLock))
		return oi_log_holders(slot, OI_HOLDS) == NIL;
	oi_rotation_retry(rotation);
	return false;
}

/*
 * Keeps others from changing the list, not claims from passing the gate: where
 * writers write is decided by the lock on the table.
 */
static bool
shut(OiRotation *rotation)
{
	if (ConditionalLockRelationOid(oi_relation_oid(OI_REL_GENERATIONS),
								   ShareUpdateExclusiveLock))
		return true;
	rotation->shut_out = true;
	oi_rotation_retry(rotation);
	return false;
}

const OiRotationStore oi_rotation_outbox = {
	.store = OI_STORE_OUTBOX,
	.name = "outbox",
	.first = OI_REL_OUTBOX_0,
	.may_begin = may_begin,
	.may_expire = may_expire,
	.may_empty = may_empty,
	.shut = shut,
};
