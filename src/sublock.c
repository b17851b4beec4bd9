/*-------------------------------------------------------------------------
 *
 * sublock.c
 *		The lock on a subscription.
 *
 * An object lock on the row of table subscriptions.  Its worker holds it
 * shared, as a session's lock, from before it looks what to do until it has
 * recorded what it did.  Whoever changes anything of the subscription takes it
 * exclusively until the end of his transaction.  So when such a function
 * returns no delivery is under way, and none begins before the transaction has
 * ended; then the worker looks at everything anew.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "compat.h"
#include "miscadmin.h"
#include "shmem.h"
#include "storage/ipc.h"
#include "storage/lock.h"
#include "storage/proc.h"
#include "sublock.h"
#include "wait.h"

/* ms that a delivery under way has to come to its end */
#define PATIENCE 1000

/* what this worker holds */
static LOCKTAG held;
static bool is_held = false;

/*
 * The name of the lock.
 */
static void
set_tag(LOCKTAG *tag, Oid relid, int32 subscription)
{
	SET_LOCKTAG_OBJECT(*tag, MyDatabaseId, relid, subscription, 0);
}

/*
 * before_shmem_exit callback.  The server gives back what sessions hold of this
 * kind at the end of a transaction that failed, not at the end of a process.
 */
static void
let_go_at_exit(int code, Datum arg)
{
	oi_sublock_let_go();
}

/*
 * For the worker, as it starts, before it registers the end of what is to be under the
 * lock: callbacks are called in the opposite order.
 */
void
oi_sublock_prepare(void)
{
	before_shmem_exit(let_go_at_exit, (Datum) 0);
}

/*
 * For the worker: wait until nobody changes the subscription, and see to it
 * that nobody does.  It waits in a transaction that has no snapshot.
 */
void
oi_sublock_hold(Oid relid, int32 subscription)
{
	MemoryContext context = CurrentMemoryContext;

	if (is_held && oi_compat_holds_lock(&held, ShareLock))
		return;
	set_tag(&held, relid, subscription);
	if (LockAcquire(&held, ShareLock, true, true) == LOCKACQUIRE_NOT_AVAIL)
	{
		StartTransactionCommand();
		(void) LockAcquire(&held, ShareLock, true, false);
		CommitTransactionCommand();
		MemoryContextSwitchTo(context);
	}
	is_held = true;
}

/*
 * For the worker: nothing is under way.  The lock may have gone with a
 * transaction that failed.
 */
void
oi_sublock_let_go(void)
{
	if (is_held && oi_compat_lock_held(&held, ShareLock))
		LockRelease(&held, ShareLock, true);
	is_held = false;
}

/*
 * Wait for the lock.
 */
static void
acquire(void *arg)
{
	(void) LockAcquire(arg, ExclusiveLock, false, false);
}

/*
 * Keep the worker of a subscription out until this transaction ends, if it is
 * not at work, and nobody else changes it.
 */
bool
oi_sublock_try(Oid relid, int32 subscription)
{
	LOCKTAG		tag;

	set_tag(&tag, relid, subscription);
	return LockAcquire(&tag, ExclusiveLock, false, true) != LOCKACQUIRE_NOT_AVAIL;
}

/*
 * For who changes a subscription: keep its worker out until this transaction
 * ends.  A delivery that does not end in a second is broken off.
 */
void
oi_sublock_exclude_worker(Oid relid, int32 subscription)
{
	LOCKTAG		tag;

	set_tag(&tag, relid, subscription);
	if (LockAcquire(&tag, ExclusiveLock, false, true) != LOCKACQUIRE_NOT_AVAIL)
		return;
	if (LockTimeout > 0 && LockTimeout <= PATIENCE)
	{
		acquire(&tag);
		return;
	}
	if (oi_run_with_lock_timeout(acquire, &tag, PATIENCE))
		return;
	oi_shmem_cancel_worker(MyDatabaseId, subscription);
	acquire(&tag);
}
