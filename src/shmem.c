/*-------------------------------------------------------------------------
 *
 * shmem.c
 *		What the launcher, the workers and the sessions share.
 *
 * An array of slots, one for each subscription of any database, under one
 * LWLock.  Visits fill slots from the tables (see maintenance.c), the launcher
 * starts a worker for each, and the worker attaches itself to its slot; a
 * process that ends detaches in before_shmem_exit.  A slot goes free when its
 * subscription or its database is found to be gone.
 *
 * Sessions touch three things only: at the commit of events they wake the
 * workers of their database that sleep, at the commit of a change of the
 * subscriptions they ask for a visit to their database, and at the commit of
 * a payment deadline they lower the time when one is due (visit.c).
 *
 * No wake-up is lost: a worker sets "sleeping" before it takes the snapshot
 * that shows it no work, and a session looks at the flag after its
 * transaction has become visible; both sides have a full barrier in between.
 * A crash of any process attached makes the server start all over, so
 * nothing here has to survive one: the slots are filled again from the tables.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <signal.h>

#include "compat.h"
#include "guc.h"
#include "miscadmin.h"
#include "shmem.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/proc.h"
#include "storage/shmem.h"

OiShared   *oi_shared = NULL;

static shmem_request_hook_type prev_shmem_request_hook = NULL;
static shmem_startup_hook_type prev_shmem_startup_hook = NULL;

/*
 * The size of the shared structure.
 */
static Size
shared_size(void)
{
	return add_size(offsetof(OiShared, slots),
					mul_size(sizeof(OiSlot), oi_max_subscriptions));
}

/*
 * Hook: ask for the memory and the lock.
 */
static void
shmem_request(void)
{
	if (prev_shmem_request_hook)
		prev_shmem_request_hook();

	RequestAddinShmemSpace(shared_size());
	RequestNamedLWLockTranche("order_idempotency", 1);
}

/*
 * Hook: find or initialise the structure.
 */
static void
shmem_startup(void)
{
	bool		found;

	if (prev_shmem_startup_hook)
		prev_shmem_startup_hook();

	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	oi_shared = ShmemInitStruct("order_idempotency", shared_size(), &found);
	if (!found)
	{
		memset(oi_shared, 0, shared_size());
		oi_shared->lock = &GetNamedLWLockTranche("order_idempotency")->lock;
		oi_shared->launcher = -1;
		oi_shared->scan_all = true;
		oi_visit_init();
		oi_shared->nslots = oi_max_subscriptions;
		pg_atomic_init_u32(&oi_shared->sleepers, 0);
		for (int i = 0; i < oi_shared->nslots; i++)
		{
			pg_atomic_init_u32(&oi_shared->slots[i].sleeping, 0);
			pg_atomic_init_u32(&oi_shared->slots[i].recheck, 0);
			pg_atomic_init_u32(&oi_shared->slots[i].canceled, 0);
		}
	}
	LWLockRelease(AddinShmemInitLock);
}

/*
 * Called when the library is loaded.  Without preloading there is no shared
 * memory, and there are no workers.
 */
void
oi_shmem_init(void)
{
	if (!process_shared_preload_libraries_in_progress)
		return;

	prev_shmem_request_hook = shmem_request_hook;
	shmem_request_hook = shmem_request;
	prev_shmem_startup_hook = shmem_startup_hook;
	shmem_startup_hook = shmem_startup;
}

/*
 * Set the latch of a slot's worker.  The lock is held.
 */
static void
wake_slot(OiSlot *slot)
{
	if (slot->pid != 0)
		SetLatch(&ProcGlobal->allProcs[slot->pgprocno].procLatch);
}

/*
 * A transaction of the database committed events: wake whoever sleeps.
 * Called at every such commit, after it has become visible.
 */
void
oi_shmem_wake_database(Oid dboid)
{
	if (oi_shared == NULL)
		return;

	pg_memory_barrier();
	if (pg_atomic_read_u32(&oi_shared->sleepers) == 0)
		return;

	for (int i = 0; i < oi_shared->nslots; i++)
	{
		OiSlot	   *slot = &oi_shared->slots[i];

		if (slot->dboid != dboid ||
			pg_atomic_read_u32(&slot->sleeping) == 0 ||
			pg_atomic_exchange_u32(&slot->sleeping, 0) == 0)
			continue;

		pg_atomic_fetch_sub_u32(&oi_shared->sleepers, 1);
		LWLockAcquire(oi_shared->lock, LW_SHARED);
		wake_slot(slot);
		LWLockRelease(oi_shared->lock);
	}
}

/*
 * The subscriptions of a database changed: let its workers look.
 */
void
oi_shmem_recheck_database(Oid dboid)
{
	if (oi_shared == NULL)
		return;

	LWLockAcquire(oi_shared->lock, LW_SHARED);
	for (int i = 0; i < oi_shared->nslots; i++)
	{
		OiSlot	   *slot = &oi_shared->slots[i];

		if (slot->dboid == dboid)
		{
			pg_atomic_write_u32(&slot->recheck, 1);
			wake_slot(slot);
		}
	}
	LWLockRelease(oi_shared->lock);
}

/*
 * End the workers and the visit of a database that somebody wants for himself.
 * It is no fault of theirs: others are started as soon as they can connect.
 */
void
oi_shmem_end_workers(Oid dboid)
{
	if (oi_shared == NULL)
		return;

	LWLockAcquire(oi_shared->lock, LW_EXCLUSIVE);
	for (int i = 0; i < oi_shared->nslots; i++)
	{
		OiSlot	   *slot = &oi_shared->slots[i];

		if (slot->dboid != dboid)
			continue;
		slot->failures = 0;
		slot->start_after = 0;
		if (slot->pid != 0)
		{
			slot->made_room = true;
			kill(slot->pid, SIGTERM);
		}
	}
	oi_visit_make_room(dboid);
	LWLockRelease(oi_shared->lock);
}

/*
 * Have a subscription's worker give up the delivery that is under way.  It
 * listens to this in a delivery only.
 */
void
oi_shmem_cancel_worker(Oid dboid, int32 subscription)
{
	if (oi_shared == NULL)
		return;

	LWLockAcquire(oi_shared->lock, LW_SHARED);
	for (int i = 0; i < oi_shared->nslots; i++)
	{
		OiSlot	   *slot = &oi_shared->slots[i];

		if (slot->dboid == dboid && slot->subscription == subscription &&
			slot->pid != 0)
		{
			pg_atomic_write_u32(&slot->canceled, 1);
			kill(slot->pid, SIGINT);
		}
	}
	LWLockRelease(oi_shared->lock);
}

/*
 * Is a database in the list of those to be visited?  The lock is held.
 */
static bool
scan_is_requested(Oid dboid)
{
	for (int i = 0; i < oi_shared->nscans; i++)
		if (oi_shared->scans[i] == dboid)
			return true;
	return false;
}

/*
 * Ask for a visit to a database: the visit that is going on there, or else the
 * launcher.
 */
void
oi_shmem_request_scan(Oid dboid)
{
	if (oi_shared == NULL || oi_visit_request(dboid))
		return;

	LWLockAcquire(oi_shared->lock, LW_EXCLUSIVE);
	if (oi_shared->nscans == OI_MAX_SCANS)
		oi_shared->scan_all = true;
	else if (!scan_is_requested(dboid))
		oi_shared->scans[oi_shared->nscans++] = dboid;
	LWLockRelease(oi_shared->lock);

	oi_shmem_wake_launcher();
}

/*
 * Take the next database that asked for a visit.  "all" says that all of them
 * are to have one, which empties the list.
 */
bool
oi_shmem_next_scan(Oid *dboid, bool *all)
{
	bool		any;

	LWLockAcquire(oi_shared->lock, LW_EXCLUSIVE);
	*all = oi_shared->scan_all;
	any = *all || oi_shared->nscans > 0;
	if (*all)
		oi_shared->nscans = 0;
	else if (any)
		*dboid = oi_shared->scans[--oi_shared->nscans];
	oi_shared->scan_all = false;
	LWLockRelease(oi_shared->lock);

	return any;
}

/*
 * before_shmem_exit callback of the launcher.
 */
static void
detach_launcher(int code, Datum arg)
{
	LWLockAcquire(oi_shared->lock, LW_EXCLUSIVE);
	oi_shared->launcher = -1;
	LWLockRelease(oi_shared->lock);
}

/*
 * This process is the launcher.
 */
void
oi_shmem_attach_launcher(void)
{
	before_shmem_exit(detach_launcher, (Datum) 0);

	LWLockAcquire(oi_shared->lock, LW_EXCLUSIVE);
	oi_shared->launcher = oi_compat_proc_number();
	oi_shared->scan_all = true;
	LWLockRelease(oi_shared->lock);
}

/*
 * Set the launcher's latch, where there is a launcher.
 */
void
oi_shmem_wake_launcher(void)
{
	LWLockAcquire(oi_shared->lock, LW_SHARED);
	if (oi_shared->launcher >= 0)
		SetLatch(&ProcGlobal->allProcs[oi_shared->launcher].procLatch);
	LWLockRelease(oi_shared->lock);
}
