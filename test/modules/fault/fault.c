/*-------------------------------------------------------------------------
 *
 * fault.c
 *		What happens at fault points (src/fault.c), for tests.
 *
 * To be preloaded behind order_idempotency.  A file in subdirectory "faults" of
 * the data directory is an order.  Its name is that of a point, or, where it is for
 * one process only, "POINT of APPLICATION_NAME"; it has two words:
 *
 *		a number n		for the n-th time that a process comes here, counted
 *						from when it began to see the file
 *		what to do		kill		SIGKILL
 *						exit		_exit(0), with shared memory as it is
 *						terminate	SIGTERM, looked at right away
 *						error		an ERROR
 *						hang		wait, with interrupts looked at, while there is
 *									a file of that name with ".reached" behind it
 *
 * What is done is done once: the file is removed, or for "hang" renamed.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fault.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "storage/latch.h"
#include "utils/guc.h"
#include "utils/wait_event.h"

PG_MODULE_MAGIC;

/* points that a process counts at the same time, at most */
#define MAX_POINTS 32

/* an order */
typedef struct Order
{
	char		path[MAXPGPATH];
	int			n;
	char		action[16];
} Order;

/* how often this process came to a point under its present order */
typedef struct Count
{
	const char *point;
	int			count;
} Count;

static Count counts[MAX_POINTS];

/*
 * The counter of a point.
 */
static int *
counter(const char *point)
{
	int			i = 0;

	while (i < MAX_POINTS - 1 && counts[i].point != NULL && strcmp(counts[i].point, point) != 0)
		i++;
	counts[i].point = point;
	return &counts[i].count;
}

/*
 * Read the order for a point.  False: there is none for this process.
 */
static bool
read_order(const char *point, Order *order)
{
	FILE	   *file;
	int			fields;

	snprintf(order->path, sizeof(order->path), "%s/faults/%s of %s", DataDir, point, application_name);
	file = fopen(order->path, "r");
	if (file == NULL)
	{
		snprintf(order->path, sizeof(order->path), "%s/faults/%s", DataDir, point);
		file = fopen(order->path, "r");
	}
	if (file == NULL)
		return false;
	fields = fscanf(file, "%d %15s", &order->n, order->action);
	fclose(file);
	return fields == 2;
}

/*
 * Wait until the file that says so is gone.
 */
static void
hang(const Order *order)
{
	char		reached[MAXPGPATH + 16];
	struct stat st;

	snprintf(reached, sizeof(reached), "%s.reached", order->path);
	if (rename(order->path, reached) != 0)
		return;
	while (stat(reached, &st) == 0)
	{
		CHECK_FOR_INTERRUPTS();
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, 10,
						 PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
	}
}

/*
 * Do what the order says.
 */
static void
obey(const char *point, const Order *order)
{
	if (strcmp(order->action, "hang") == 0)
	{
		hang(order);
		return;
	}
	if (unlink(order->path) != 0)
		return;
	if (strcmp(order->action, "kill") == 0)
		kill(MyProcPid, SIGKILL);
	if (strcmp(order->action, "exit") == 0)
		_exit(0);
	if (strcmp(order->action, "terminate") == 0)
		kill(MyProcPid, SIGTERM);
	if (strcmp(order->action, "error") == 0)
		ereport(ERROR, (errmsg("a test wants an error at \"%s\"", point)));
	CHECK_FOR_INTERRUPTS();
}

/*
 * Called at each point.
 */
static void
at_point(const char *point)
{
	int		   *count = counter(point);
	Order		order;

	if (!read_order(point, &order))
	{
		*count = 0;
		return;
	}
	if (++*count < order.n)
		return;
	*count = 0;
	obey(point, &order);
}

void		_PG_init(void);

/*
 * Called when the library is loaded.
 */
void
_PG_init(void)
{
	oi_set_fault(at_point);
}
