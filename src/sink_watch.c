/*-------------------------------------------------------------------------
 *
 * sink_watch.c
 *		Ending a sink's callback that does not end by itself.
 *
 * While a callback runs, a timer ticks each second.
 *
 * A callback that goes on behind its deadline is canceled, as a query would be:
 * an ERROR at its next CHECK_FOR_INTERRUPTS().  If it takes no notice of that
 * either, the process is terminated there.  So it is, by the third tick, where
 * somebody else sent the cancel, because he waits for the delivery to end
 * (sublock.c), and the callback went on as if nothing had happened.
 *
 * One that does not come to any CHECK_FOR_INTERRUPTS(), although somebody waits
 * for this process, would hold up the shutdown of the server, or CREATE and
 * DROP DATABASE everywhere in it.  To kill it would restart the server.  So the
 * third tick jumps out of it, and the process ends without another look at the
 * sink's library: neither its shutdown callback nor what it left to exit() is
 * called.  A jump out of a signal handler is no way to go on, since
 * whatever was interrupted stays half done, and it is none where the server's own
 * code is at work: it is not done while interrupts are held off, as they are
 * wherever a lock is.  It is a way to end, where the other one would be a crash.
 *
 * In a process that is ending already, interrupts are not taken any more, and a
 * shutdown callback has the time of these ticks at most.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <unistd.h>

#include "libpq/pqsignal.h"
#include "miscadmin.h"
#include "shmem.h"
#include "sink_watch.h"
#include "storage/ipc.h"
#include "storage/procsignal.h"
#include "utils/timeout.h"
#include "utils/timestamp.h"

/* ms between ticks */
#define TICK 1000

/* ticks that a request may go unheard */
#define UNHEARD_TICKS 3

/* ms that a callback may go on behind its deadline before it is canceled */
#define GRACE 3000

sigjmp_buf	oi_watch_escape;

static TimeoutId ticker = MAX_TIMEOUTS;
static TimestampTz end;
static uint32 holdoff;
static volatile sig_atomic_t unheard;
static volatile sig_atomic_t unheeded;
static volatile sig_atomic_t overdue;

/*
 * Does anybody wait for this process to look at interrupts, or to end?
 */
static bool
is_waited_for(void)
{
	return proc_exit_inprogress || ProcDiePending || QueryCancelPending ||
		ProcSignalBarrierPending;
}

/*
 * The timer's handler, which holds interrupts off once itself.
 */
static void
tick(void)
{
	TimestampTz now = GetCurrentTimestamp();

	unheard = is_waited_for() ? unheard + 1 : 0;
	unheeded = oi_slot_cancel_stands() ? unheeded + 1 : 0;
	if (unheeded >= UNHEARD_TICKS)
		ProcDiePending = InterruptPending = true;
	if (now >= end)
	{
		overdue = true;
		QueryCancelPending = true;
		ProcDiePending |= now >= TimestampTzPlusMilliseconds(end, GRACE);
		InterruptPending = true;
	}
	if (unheard >= UNHEARD_TICKS && InterruptHoldoffCount == holdoff + 1 &&
		CritSectionCount == 0)
		siglongjmp(oi_watch_escape, 1);
}

/*
 * Before a callback that has to be back by a deadline.  oi_watch_escape has been
 * set.
 */
void
oi_watch_start(TimestampTz deadline)
{
	if (ticker == MAX_TIMEOUTS)
		ticker = RegisterTimeout(USER_TIMEOUT, tick);
	end = TimestampTzPlusMilliseconds(deadline, GRACE);
	holdoff = InterruptHoldoffCount;
	unheard = unheeded = 0;
	overdue = false;
	enable_timeout_every(ticker, TimestampTzPlusMilliseconds(GetCurrentTimestamp(), TICK), TICK);
}

/*
 * After it, however it ended, or without any.  True: it was canceled for its
 * deadline.
 */
bool
oi_watch_stop(void)
{
	bool		was_overdue;

	if (ticker == MAX_TIMEOUTS)
		return false;
	disable_timeout(ticker, false);
	was_overdue = overdue;
	overdue = false;

	/* what it did not take notice of must not hit anything else */
	if (was_overdue)
		QueryCancelPending = false;

	return was_overdue;
}

/*
 * on_proc_exit callback, the first to be called: all that matters to the server
 * is done.
 */
static void
end_now(int code, Datum arg)
{
	_exit(code);
}

/*
 * Bring the process into order after a jump out of a callback, as far as is
 * needed to end it.
 */
static void
make_ready_to_end(void)
{
	InterruptHoldoffCount = holdoff;
	error_context_stack = NULL;
	sigprocmask(SIG_SETMASK, &UnBlockSig, NULL);
	disable_timeout(ticker, false);
	on_proc_exit(end_now, (Datum) 0);
}

/*
 * End the process after a jump out of a callback.
 */
void
oi_watch_abandon(const char *library)
{
	make_ready_to_end();
	ereport(FATAL,
			(errcode(ERRCODE_FDW_ERROR),
			 errmsg("sink library \"%s\" does not return", library),
			 errdetail("Its worker ends, and another one is started.")));
	pg_unreachable();
}

/*
 * The same in a process that is ending already: let it go on with that.
 */
void
oi_watch_abandon_exiting(const char *library)
{
	make_ready_to_end();
	ereport(WARNING,
			(errcode(ERRCODE_FDW_ERROR),
			 errmsg("sink library \"%s\" did not shut down in time", library)));
}
