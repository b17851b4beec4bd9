/*-------------------------------------------------------------------------
 *
 * shared_aside.c
 *		Work that blocks, done aside in a thread.
 *
 * The clients of some brokers wait within their functions: for a name server, for
 * an answer, for room in a socket whose other end does not read.  The worker must
 * not.  So a sink has one thread, in which it calls such a library, and nowhere
 * else, while the worker waits for the end of that on its latch, and looks at
 * interrupts.
 *
 * What runs in the thread must not call anything of the server's: no palloc(),
 * no ereport(), no elog().  It may use memory of the worker's, as long as that
 * waits for it before it lets go of the memory, also where an error comes between.
 * All signals are blocked in it.
 *
 * Whoever wants the work to end early has to make what it waits for end: a flag
 * that it looks at, or shutdown() of its socket.  oi_aside_end() waits for that
 * without a limit: if it takes too long, the worker is ended by who watches
 * over sinks, and it is not left to run while the process lets go of what
 * it uses.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <time.h>
#include <unistd.h>

#include "compat.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "shared_aside.h"
#include "storage/fd.h"
#include "storage/latch.h"
#include "utils/timestamp.h"

struct OiAside
{
	pthread_t	thread;
	pthread_mutex_t mutex;
	pthread_cond_t wake;
	OiAsideWork work;			/* to be done, or being done; NULL: none */
	void	   *arg;
	OiAsideWork idle;			/* done now and then while there is no work */
	int			interval;		/* ms between two of these */
	void	   *idle_arg;
	bool		ending;
	const char *name;			/* of the worker's wait for it */
	uint32		event;
	int			done[2];		/* a pipe: a byte for each work that is done */
};

/*
 * In the thread, with the mutex held: wait for work, or until it is time to do
 * what is done while there is none.
 */
static void
wait_for_work(OiAside *aside)
{
	struct timespec until;
	bool		over = false;

	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_sec += aside->interval / 1000;
	until.tv_nsec += (aside->interval % 1000) * 1000000L;
	if (until.tv_nsec >= 1000000000L)
	{
		until.tv_sec++;
		until.tv_nsec -= 1000000000L;
	}
	while (aside->work == NULL && !aside->ending && !over)
		over = pthread_cond_timedwait(&aside->wake, &aside->mutex, &until) == ETIMEDOUT;
	if (over && aside->work == NULL && !aside->ending)
	{
		pthread_mutex_unlock(&aside->mutex);
		aside->idle(aside->idle_arg);
		pthread_mutex_lock(&aside->mutex);
	}
}

/*
 * The thread.
 */
static void *
run(void *arg)
{
	OiAside    *aside = arg;

	pthread_mutex_lock(&aside->mutex);
	while (!aside->ending)
	{
		ssize_t		written pg_attribute_unused();

		if (aside->work == NULL)
		{
			wait_for_work(aside);
			continue;
		}
		pthread_mutex_unlock(&aside->mutex);
		aside->work(aside->arg);
		pthread_mutex_lock(&aside->mutex);
		aside->work = NULL;
		written = write(aside->done[1], "", 1);
	}
	pthread_mutex_unlock(&aside->mutex);
	return NULL;
}

/*
 * Start a thread that calls idle(arg) every so many ms while it has no work.  The
 * worker waits for it under that name.
 */
OiAside *
oi_aside_start(OiAsideWork idle, int interval, void *arg, const char *name)
{
	OiAside    *aside = calloc(1, sizeof(OiAside));
	pthread_condattr_t monotonic;
	sigset_t	all;
	sigset_t	before;
	int			error;

	if (aside == NULL || pipe2(aside->done, O_CLOEXEC | O_NONBLOCK) != 0)
	{
		free(aside);
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_RESOURCES),
				 errmsg("could not create a pipe: %m")));
	}
	aside->idle = idle;
	aside->interval = interval;
	aside->idle_arg = arg;
	aside->name = name;
	pthread_mutex_init(&aside->mutex, NULL);
	pthread_condattr_init(&monotonic);
	pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
	pthread_cond_init(&aside->wake, &monotonic);
	pthread_condattr_destroy(&monotonic);

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	error = pthread_create(&aside->thread, NULL, run, aside);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (error != 0)
	{
		close(aside->done[0]);
		close(aside->done[1]);
		free(aside);
		errno = error;
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_RESOURCES),
				 errmsg("could not start a thread: %m")));
	}
	ReserveExternalFD();
	ReserveExternalFD();
	return aside;
}

/*
 * Have work(arg) done.  None is being done.
 */
void
oi_aside_begin(OiAside *aside, OiAsideWork work, void *arg)
{
	pthread_mutex_lock(&aside->mutex);
	Assert(aside->work == NULL);
	aside->arg = arg;
	aside->work = work;
	pthread_cond_signal(&aside->wake);
	pthread_mutex_unlock(&aside->mutex);
}

/*
 * Is no work being done?
 */
static bool
is_done(OiAside *aside)
{
	bool		done;
	char		byte;

	pthread_mutex_lock(&aside->mutex);
	done = aside->work == NULL;
	while (done && read(aside->done[0], &byte, 1) > 0)
		;
	pthread_mutex_unlock(&aside->mutex);
	return done;
}

/*
 * Wait until the work is done, for so many ms at most.  True: it is.
 */
bool
oi_aside_wait(OiAside *aside, int ms)
{
	TimestampTz end = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), ms);

	while (!is_done(aside))
	{
		long		left = TimestampDifferenceMilliseconds(GetCurrentTimestamp(), end);

		if (left <= 0)
			return false;
		(void) WaitLatchOrSocket(MyLatch, WL_LATCH_SET | WL_SOCKET_READABLE | WL_TIMEOUT |
								 WL_EXIT_ON_PM_DEATH, aside->done[0], left,
								 oi_compat_wait_event(&aside->event, aside->name));
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
	}
	return true;
}

/*
 * The same, without a look at interrupts.
 */
bool
oi_aside_wait_quietly(OiAside *aside, int ms)
{
	struct pollfd done = {.fd = aside->done[0],.events = POLLIN};
	TimestampTz end = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), ms);

	while (!is_done(aside))
	{
		long		left = TimestampDifferenceMilliseconds(GetCurrentTimestamp(), end);

		if (left <= 0)
			return false;
		(void) poll(&done, 1, (int) Min(left, 1000));
	}
	return true;
}

/*
 * End the thread, when it has done what it is at.
 */
void
oi_aside_end(OiAside *aside)
{
	pthread_mutex_lock(&aside->mutex);
	aside->ending = true;
	pthread_cond_signal(&aside->wake);
	pthread_mutex_unlock(&aside->mutex);
	pthread_join(aside->thread, NULL);
	close(aside->done[0]);
	close(aside->done[1]);
	ReleaseExternalFD();
	ReleaseExternalFD();
	pthread_cond_destroy(&aside->wake);
	pthread_mutex_destroy(&aside->mutex);
	free(aside);
}
