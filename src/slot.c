/*-------------------------------------------------------------------------
 *
 * slot.c
 *		The slots of shared memory: filled by visits, held by workers.
 *
 * See shmem.c for what a slot is and who may touch it.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "compat.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "shmem.h"
#include "storage/ipc.h"
#include "storage/proc.h"
#include "utils/timestamp.h"

/* the slot that this process is attached to */
static OiSlot *my_slot = NULL;

/*
 * Take back the request for a wake-up, if one stands.
 */
static void
clear_sleeping(OiSlot *slot)
{
	if (pg_atomic_exchange_u32(&slot->sleeping, 0) != 0)
		pg_atomic_fetch_sub_u32(&oi_shared->sleepers, 1);
}

/*
 * Make a slot free.  The lock is held.
 */
static void
free_slot(OiSlot *slot)
{
	clear_sleeping(slot);
	slot->dboid = InvalidOid;
	slot->pid = 0;
}

/*
 * before_shmem_exit callback of a worker: the slot stays, without a process.
 */
static void
detach_worker(int code, Datum arg)
{
	if (my_slot == NULL)
		return;

	LWLockAcquire(oi_shared->lock, LW_EXCLUSIVE);
	clear_sleeping(my_slot);
	my_slot->pid = 0;
	my_slot->state = OI_WORKER_STOPPED;
	LWLockRelease(oi_shared->lock);
	my_slot = NULL;
}

/*
 * Attach this worker to the slot that the launcher started it for.  False:
 * the slot has become another's, or has a worker.
 */
bool
oi_slot_attach(int index, Oid dboid, int32 subscription, Oid *owner)
{
	OiSlot	   *slot = &oi_shared->slots[index];
	bool		ok;

	before_shmem_exit(detach_worker, (Datum) 0);

	LWLockAcquire(oi_shared->lock, LW_EXCLUSIVE);
	ok = slot->dboid == dboid && slot->subscription == subscription &&
		slot->pid == 0;
	if (ok)
	{
		slot->pid = MyProcPid;
		slot->pgprocno = oi_compat_proc_number();
		slot->state = OI_WORKER_STARTING;
		slot->in_flight = 0;
		slot->made_room = false;
		slot->started_at = GetCurrentTimestamp();
		pg_atomic_write_u32(&slot->canceled, 0);	/* one before was told so */
		*owner = slot->owner;
		my_slot = slot;
	}
	LWLockRelease(oi_shared->lock);

	return ok;
}

/*
 * The subscription of this worker is gone.
 */
void
oi_slot_free(void)
{
	LWLockAcquire(oi_shared->lock, LW_EXCLUSIVE);
	free_slot(my_slot);
	LWLockRelease(oi_shared->lock);
	my_slot = NULL;
}

/*
 * Say what this worker is doing.
 */
void
oi_slot_set_state(OiWorkerState state)
{
	if (my_slot->state == state)
		return;

	LWLockAcquire(oi_shared->lock, LW_EXCLUSIVE);
	my_slot->state = state;
	LWLockRelease(oi_shared->lock);
}

/*
 * Keep the message of an error, cut at a character's end.
 */
static void
store_error(OiSlot *slot, const char *message)
{
	int			len = pg_mbcliplen(message, strlen(message), OI_ERROR_LEN - 1);

	LWLockAcquire(oi_shared->lock, LW_EXCLUSIVE);
	memcpy(slot->error, message, len);
	slot->error[len] = '\0';
	slot->error_at = GetCurrentTimestamp();
	LWLockRelease(oi_shared->lock);
}

/*
 * The launcher has something to say about a slot.
 */
void
oi_slot_set_error(int index, const char *message)
{
	store_error(&oi_shared->slots[index], message);
}

/*
 * This worker has.
 */
void
oi_slot_note_error(const char *message)
{
	if (my_slot != NULL)
		store_error(my_slot, message);
}

/*
 * Ask to be woken at the next commit of events, or no longer.  Who asks must
 * look for work once more before going to sleep.
 */
void
oi_slot_sleep(bool sleeping)
{
	if (!sleeping)
		clear_sleeping(my_slot);
	else if (pg_atomic_exchange_u32(&my_slot->sleeping, 1) == 0)
		pg_atomic_fetch_add_u32(&oi_shared->sleepers, 1);
	pg_memory_barrier();
}

/*
 * Does the request for a wake-up still stand?  To be asked right before going
 * to sleep: the latch alone may have been set and reset in a wait for
 * something else.
 */
bool
oi_slot_sleeps(void)
{
	return pg_atomic_read_u32(&my_slot->sleeping) != 0;
}

/*
 * Did the subscriptions of the database change since the last call?
 */
bool
oi_slot_take_recheck(void)
{
	return pg_atomic_exchange_u32(&my_slot->recheck, 0) != 0;
}

/*
 * Was this worker told to give up its delivery?
 */
bool
oi_slot_take_cancel(void)
{
	return pg_atomic_exchange_u32(&my_slot->canceled, 0) != 0;
}

/*
 * Was it, and has it not come to its end since?  May be asked in a signal
 * handler.
 */
bool
oi_slot_cancel_stands(void)
{
	return my_slot != NULL && pg_atomic_read_u32(&my_slot->canceled) != 0;
}

/*
 * Show how many events the sink has.
 */
void
oi_slot_set_in_flight(int n)
{
	my_slot->in_flight = n;
}

/*
 * The slot of a subscription, or a free one, or NULL.  The lock is held.
 */
static OiSlot *
slot_for(Oid dboid, int32 subscription)
{
	OiSlot	   *spare = NULL;

	for (int i = 0; i < oi_shared->nslots; i++)
	{
		OiSlot	   *slot = &oi_shared->slots[i];

		if (slot->dboid == dboid && slot->subscription == subscription)
			return slot;
		if (spare == NULL && !OidIsValid(slot->dboid))
			spare = slot;
	}
	return spare;
}

/*
 * Fill a free slot.  The lock is held.
 */
static void
fill_slot(OiSlot *slot, Oid dboid, const OiFound *found)
{
	slot->dboid = dboid;
	slot->subscription = found->subscription;
	slot->pid = 0;
	slot->state = OI_WORKER_STOPPED;
	slot->failures = 0;
	slot->made_room = false;
	slot->start_after = 0;
	slot->error_at = 0;
	slot->error[0] = '\0';
	pg_atomic_write_u32(&slot->recheck, 0);
}

/*
 * Is the slot's subscription among those found?
 */
static bool
is_found(const OiSlot *slot, const OiFound *found, int n)
{
	for (int i = 0; i < n; i++)
		if (found[i].subscription == slot->subscription)
			return true;
	return false;
}

/*
 * A visit found these subscriptions in a database: give each its slot, and
 * free slots of others, but for those with a worker, which will see for
 * itself.  n = 0 also serves for databases that are gone.
 */
void
oi_shmem_sync_database(Oid dboid, const OiFound *found, int n)
{
	int			left_out = 0;

	LWLockAcquire(oi_shared->lock, LW_EXCLUSIVE);
	for (int i = 0; i < oi_shared->nslots; i++)
	{
		OiSlot	   *slot = &oi_shared->slots[i];

		if (slot->dboid == dboid && slot->pid == 0 && !is_found(slot, found, n))
			free_slot(slot);
	}
	for (int i = 0; i < n; i++)
	{
		OiSlot	   *slot = slot_for(dboid, found[i].subscription);

		if (slot == NULL)
			left_out++;
		else
		{
			if (!OidIsValid(slot->dboid))
				fill_slot(slot, dboid, &found[i]);
			slot->owner = found[i].owner;
		}
	}
	LWLockRelease(oi_shared->lock);

	if (left_out > 0)
		ereport(WARNING,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg("%d subscriptions of database %u have no worker",
						left_out, dboid),
				 errhint("Raise order_idempotency.max_subscriptions.")));
}

/*
 * Copy what is known of the workers of a database.
 */
OiSlotInfo *
oi_shmem_report(Oid dboid, int *n)
{
	OiSlotInfo *info;

	*n = 0;
	if (oi_shared == NULL)
		return NULL;

	info = palloc(sizeof(OiSlotInfo) * oi_shared->nslots);
	LWLockAcquire(oi_shared->lock, LW_SHARED);
	for (int i = 0; i < oi_shared->nslots; i++)
	{
		const OiSlot *slot = &oi_shared->slots[i];

		if (slot->dboid != dboid)
			continue;
		info[*n].subscription = slot->subscription;
		info[*n].pid = slot->pid;
		info[*n].state = slot->state;
		info[*n].error_at = slot->error_at;
		strlcpy(info[*n].error, slot->error, OI_ERROR_LEN);
		info[*n].in_flight = slot->pid == 0 ? 0 : slot->in_flight;
		(*n)++;
	}
	LWLockRelease(oi_shared->lock);

	return info;
}
