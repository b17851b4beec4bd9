/*-------------------------------------------------------------------------
 *
 * xact.c
 *		What the extension adds to a transaction that writes through it.
 *
 * Before the commit: synchronous_commit is raised to "on" if it is less, as
 * late as possible, so that nothing the session says after our function (SET
 * LOCAL synchronous_commit = off) undoes it.  Only the transaction is
 * affected.  PREPARE and COMMIT PREPARED are always flushed, but wait for the
 * standbys only if the session says so: it is raised for them as well.  Of what a
 * prepared transaction wrote nothing is known any more, so that is for each one
 * in a database that has the extension, in sessions that have the library: all of
 * them only where it is preloaded.
 *
 * A transaction that wrote nothing answered by what others have committed, and
 * a commit whose wait for the synchronous standbys was broken off, by a crash or by
 * termination, is visible all the same.  So it waits for them, too: what a client
 * was told must outlive a failover, also where it was a repeat.
 *
 * After the commit: the subscriptions' workers in this database are woken if
 * an event was written, and maintenance hears of a payment deadline that is
 * earlier than what it knows.  COMMIT PREPARED comes without that call, as would
 * a crash right here; the workers' poll and the launcher's round are the net.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "miscadmin.h"
#include "replication/syncrep.h"
#include "tcop/utility.h"
#include "utils/guc.h"

#include "durable.h"
#include "incarnation.h"
#include "relation.h"
#include "shmem.h"
#include "xact.h"

/* has this transaction asked us?  written through us?  an event?  a deadline, and when? */
static bool asked = false;
static bool wrote = false;
static bool wrote_event = false;
static TimestampTz earliest_deadline = OI_NEVER;

static ProcessUtility_hook_type prev_process_utility_hook = NULL;

/* Sees to it that the commit record will be flushed, here and on standbys. */
static void
raise_synchronous_commit(void)
{
	if (synchronous_commit < SYNCHRONOUS_COMMIT_ON)
		(void) set_config_option("synchronous_commit", "on",
								 PGC_USERSET, PGC_S_SESSION,
								 GUC_ACTION_LOCAL, true, 0, false);
}

/*
 * Waits until the synchronous standbys have all that this transaction can have seen,
 * where its own commit does not: without a transaction id that waits for nothing, and
 * with one of the user's only as long as the session's setting says.
 *
 * A commit is flushed before it is visible.  Where there are no such standbys, or these
 * have everything, this costs nothing; cancel ends it with a warning, as it ends the wait of
 * a commit.
 */
static void
wait_for_what_was_seen(void)
{
	XLogRecPtr	lsn;

	if (!asked || RecoveryInProgress() ||
		(wrote && TransactionIdIsValid(GetTopTransactionIdIfAny())))
		return;

	lsn = oi_place_to_wait_for();
	if (XLogRecPtrIsInvalid(lsn))
		return;

	raise_synchronous_commit();
	HOLD_INTERRUPTS();
	SyncRepWaitForLSN(lsn, false);
	RESUME_INTERRUPTS();
}

/*
 * Says, once a session, that what is about to be prepared may be committed
 * without a wait for synchronous standbys: a session that only sends COMMIT PREPARED has
 * our hook only where the library is loaded in advance.
 */
static void
warn_unless_preloaded(void)
{
	static bool warned = false;

	if (warned || oi_shared != NULL || SyncRepStandbyNames == NULL ||
		SyncRepStandbyNames[0] == '\0')
		return;
	warned = true;
	ereport(WARNING,
			(errcode(ERRCODE_WARNING),
			 errmsg("COMMIT PREPARED may not wait for synchronous standbys"),
			 errdetail("It waits as synchronous_commit says in the session that sends it; the extension raises that only where its library is loaded."),
			 errhint("Add order_idempotency to shared_preload_libraries and restart the server.")));
}

/* Forgets what the transaction has asked and written. */
static void
forget(void)
{
	asked = wrote = wrote_event = false;
	earliest_deadline = OI_NEVER;
}

/* The server calls this at each step of every transaction's end. */
static void
xact_callback(XactEvent event, void *arg)
{
	bool		wake = wrote_event;
	TimestampTz due = earliest_deadline;

	switch (event)
	{
		case XACT_EVENT_PRE_COMMIT:
			if (wrote)
				raise_synchronous_commit();
			wait_for_what_was_seen();
			break;
		case XACT_EVENT_PRE_PREPARE:
			if (wrote)
			{
				raise_synchronous_commit();
				warn_unless_preloaded();
			}
			wait_for_what_was_seen();
			break;
		case XACT_EVENT_COMMIT:
			forget();
			if (wake)
				oi_shmem_wake_database(MyDatabaseId);
			if (due != OI_NEVER)
				oi_visit_note_due(due);
			break;
		case XACT_EVENT_ABORT:
		case XACT_EVENT_PREPARE:
			forget();
			break;
		default:
			break;
	}
}

/* Is it a COMMIT PREPARED? */
static bool
commits_prepared(Node *statement)
{
	return IsA(statement, TransactionStmt) &&
		((TransactionStmt *) statement)->kind == TRANS_STMT_COMMIT_PREPARED;
}

/* Hook: a utility command is about to run. */
static void
raise_for_prepared(PlannedStmt *pstmt, const char *queryString, bool readOnlyTree,
				   ProcessUtilityContext context, ParamListInfo params,
				   QueryEnvironment *queryEnv, DestReceiver *dest, QueryCompletion *qc)
{
	if (commits_prepared(pstmt->utilityStmt) && !RecoveryInProgress() && oi_extension_present())
		raise_synchronous_commit();

	if (prev_process_utility_hook)
		prev_process_utility_hook(pstmt, queryString, readOnlyTree, context, params,
								  queryEnv, dest, qc);
	else
		standard_ProcessUtility(pstmt, queryString, readOnlyTree, context, params,
								queryEnv, dest, qc);
}

/* Called once, when the library is loaded. */
void
oi_xact_init(void)
{
	RegisterXactCallback(xact_callback, NULL);
	prev_process_utility_hook = ProcessUtility_hook;
	ProcessUtility_hook = raise_for_prepared;
}

/*
 * Where a call begins that may write: refuses to go on where the server would refuse a
 * write, and makes the installation one that is in use.
 */
void
oi_xact_check_writable(const char *command)
{
	PreventCommandIfReadOnly(command);
	PreventCommandIfParallelMode(command);
	PreventCommandDuringRecovery(command);
	oi_incarnation_adopt();
	asked = true;
}

/* Called before each write to one of our tables. */
void
oi_xact_note_write(void)
{
	wrote = true;
}

/* Called when an event was written. */
void
oi_xact_note_event(void)
{
	wrote_event = true;
}

/* Called when a payment deadline was written. */
void
oi_xact_note_deadline(TimestampTz due)
{
	earliest_deadline = Min(earliest_deadline, due);
}
