/*-------------------------------------------------------------------------
 *
 * misbehave.c
 *		What a sink must not do.
 *
 *		transaction		leaves a transaction open
 *		broken			leaves one open that has failed
 *		lwlock			leaves a lightweight lock held
 *		lock			leaves a lock held
 *		hold			leaves interrupts held off
 *		critical		leaves a critical section
 *		context			leaves CurrentMemoryContext where there is none any more
 *		owner			leaves no CurrentResourceOwner
 *		user			leaves another user set
 *		stack			leaves PG_exception_stack and error_context_stack in a frame
 *						that is gone
 *		block			leaves all signals blocked
 *		ignore			leaves signals ignored, or deadly
 *		wait			leaves a wait event and a condition variable
 *		mangle			overwrites what the events are
 *		leak:MB			leaks memory into its own context
 *		spill:MB		leaks memory elsewhere
 *		exit:N			calls exit()
 *		overrun			does not return, but looks at interrupts
 *		deaf			nor that, nor looks at interrupts
 *		busy			the same, computing
 *		swallow			does not return, and takes no ERROR for an answer
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <signal.h>
#include <unistd.h>

#include "access/xact.h"
#include "catalog/pg_authid.h"
#include "libpq/pqsignal.h"
#include "misbehave.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "storage/condition_variable.h"
#include "storage/latch.h"
#include "storage/lock.h"
#include "storage/lwlock.h"
#include "utils/memutils.h"
#include "utils/resowner.h"
#include "utils/timestamp.h"
#include "utils/wait_event.h"

#define MB (1024 * 1024)

/* one word, and what it does */
typedef struct Deed
{
	const char *word;
	void		(*act) (int number);
} Deed;

MemoryContext own_context;

/* to be done when the batch is through, not before */
static bool mangle = false;
static bool lose_context = false;

/*
 * Wait, and let interrupts through.
 */
void
wait_until(TimestampTz until)
{
	while (GetCurrentTimestamp() < until)
	{
		CHECK_FOR_INTERRUPTS();
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 Max(1, TimestampDifferenceMilliseconds(GetCurrentTimestamp(), until)),
						 PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
	}
}

/* word "transaction" */
static void
leave_transaction(int number)
{
	StartTransactionCommand();
	MemoryContextSwitchTo(TopMemoryContext);
}

/* word "broken" */
static void
leave_broken_transaction(int number)
{
	StartTransactionCommand();
	BeginTransactionBlock();
	CommitTransactionCommand();
	AbortCurrentTransaction();
	MemoryContextSwitchTo(TopMemoryContext);
}

/* word "lwlock" */
static void
leave_lwlock(int number)
{
	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
}

/* word "lock" */
static void
leave_lock(int number)
{
	LOCKTAG		tag;

	SET_LOCKTAG_ADVISORY(tag, MyDatabaseId, 0, 42, 2);
	(void) LockAcquire(&tag, ExclusiveLock, false, false);
}

/* word "hold" */
static void
leave_interrupts_off(int number)
{
	HOLD_INTERRUPTS();
	HOLD_CANCEL_INTERRUPTS();
}

/* word "critical" */
static void
leave_critical_section(int number)
{
	CritSectionCount++;
}

/* word "context" */
static void
leave_no_context(int number)
{
	lose_context = true;
}

/* word "owner" */
static void
leave_no_owner(int number)
{
	CurrentResourceOwner = NULL;
}

/* word "user" */
static void
leave_user(int number)
{
	SetUserIdAndSecContext(ROLE_PG_MONITOR, SECURITY_RESTRICTED_OPERATION);
}

/* word "stack" */
static void
leave_stacks(int number)
{
	sigjmp_buf	buf;
	ErrorContextCallback callback = {.previous = error_context_stack};

	memset(&buf, 0, sizeof(buf));
#if defined(__GNUC__) && __GNUC__ >= 12
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wdangling-pointer"
#endif
	PG_exception_stack = &buf;
	error_context_stack = &callback;
#if defined(__GNUC__) && __GNUC__ >= 12
#pragma GCC diagnostic pop
#endif
}

/* word "block" */
static void
leave_signals_blocked(int number)
{
	sigset_t	all;

	sigfillset(&all);
	sigprocmask(SIG_SETMASK, &all, NULL);
}

/* word "ignore" */
static void
leave_signals_ignored(int number)
{
	pqsignal(SIGTERM, SIG_IGN);
	pqsignal(SIGUSR1, SIG_IGN);
	pqsignal(SIGURG, SIG_IGN);
	pqsignal(SIGHUP, SIG_DFL);
	pqsignal(SIGPIPE, SIG_DFL);
}

/* word "wait" */
static void
leave_waits(int number)
{
	static ConditionVariable variable;

	ConditionVariableInit(&variable);
	ConditionVariablePrepareToSleep(&variable);
	pgstat_report_wait_start(PG_WAIT_EXTENSION);
}

/* word "mangle" */
static void
mangle_events(int number)
{
	mangle = true;
}

/* word "leak" */
static void
leak(int number)
{
	memset(MemoryContextAlloc(own_context, number * MB), 1, number * MB);
}

/* word "spill" */
static void
spill(int number)
{
	memset(MemoryContextAlloc(TopMemoryContext, number * MB), 1, number * MB);
}

/* word "exit" */
static void
leave_process(int number)
{
	exit(number);
}

/* word "overrun" */
static void
overrun(int number)
{
	wait_until(DT_NOEND);
}

/* word "deaf" */
static void
be_deaf(int number)
{
	int			fds[2];
	char		byte;

	if (pipe(fds) != 0 || read(fds[0], &byte, 1) >= 0)
		ereport(PANIC, (errmsg("the pipe is not silent")));
}

/* word "busy" */
static void
be_busy(int number)
{
	volatile uint64 count = 0;

	for (;;)
		count++;
}

/* word "swallow" */
static void
swallow(int number)
{
	MemoryContext context = CurrentMemoryContext;

	for (;;)
	{
		PG_TRY();
		{
			wait_until(DT_NOEND);
		}
		PG_CATCH();
		{
			MemoryContextSwitchTo(context);
			FlushErrorState();
		}
		PG_END_TRY();
	}
}

static const Deed deeds[] = {
	{"transaction", leave_transaction},
	{"broken", leave_broken_transaction},
	{"lwlock", leave_lwlock},
	{"lock", leave_lock},
	{"hold", leave_interrupts_off},
	{"critical", leave_critical_section},
	{"context", leave_no_context},
	{"owner", leave_no_owner},
	{"user", leave_user},
	{"stack", leave_stacks},
	{"block", leave_signals_blocked},
	{"ignore", leave_signals_ignored},
	{"wait", leave_waits},
	{"mangle", mangle_events},
	{"leak", leak},
	{"spill", spill},
	{"exit", leave_process},
	{"overrun", overrun},
	{"deaf", be_deaf},
	{"busy", be_busy},
	{"swallow", swallow},
};

/*
 * Do what a word says, if it says something.
 */
bool
misbehave(const char *word, int number)
{
	for (int i = 0; i < (int) lengthof(deeds); i++)
	{
		if (strcmp(deeds[i].word, word) == 0)
		{
			deeds[i].act(number);
			return true;
		}
	}
	return false;
}

/*
 * What can only be done when nothing else is to be.
 */
void
misbehave_at_end(OiSinkEvent *events, int n)
{
	if (mangle)
	{
		for (int i = 0; i < n; i++)
		{
			OiSinkOutcome outcome = events[i].outcome;

			memset(&events[i], 0x7f, sizeof(OiSinkEvent));
			events[i].outcome = outcome;
			events[i].reason = NULL;
		}
		mangle = false;
	}
	if (lose_context)
	{
		MemoryContext lost = AllocSetContextCreate(TopMemoryContext, "lost", ALLOCSET_SMALL_SIZES);

		MemoryContextSwitchTo(lost);
		MemoryContextDelete(lost);
		lose_context = false;
	}
}
