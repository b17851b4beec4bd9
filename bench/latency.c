/*-------------------------------------------------------------------------
 *
 * latency.c
 *		How long after its commit an event is recorded as delivered.
 *
 *		latency [options] CONNINFO SUBSCRIPTION STATEMENT
 *
 * Calls the statement, which commits by itself and writes one event, again and again,
 * each with a key of its own, which is $1.
 *
 *		-n EVENTS	how often (100)
 *		-g MS		pauses of that length on average, by chance (20)
 *		-p VALUE	the next parameter
 *
 * The time that is noted by us is when the call has returned; the other one is
 * subscription_cursors.delivered_at, which the worker takes from the clock when it
 * records that the broker has acknowledged.  It is read when there has been time
 * enough for it, so that nothing else is going on while it is waited for.
 *
 * The first event is not counted.  Prints the differences in microseconds, a line
 * each; 0 where the event was recorded first.
 *
 *-------------------------------------------------------------------------
 */
#define _GNU_SOURCE

#include <libpq-fe.h>
#include <string.h>
#include <unistd.h>

#include "common.h"

#define MAX_PARAMS	6
#define KEY_SIZE	64
#define PATIENCE	60			/* seconds that one event may take */
#define FIRST_LOOK	0.010		/* seconds until it is looked for */
#define NEXT_LOOK	0.005

typedef struct Options
{
	int			events;
	double		gap;			/* seconds */
	const char *params[MAX_PARAMS];
	int			nparams;		/* the key included */
	const char *conninfo;
	const char *subscription;
	const char *statement;
} Options;

/* what is recorded of a subscription */
typedef struct Recorded
{
	long long	delivered;
	double		at;				/* of the last, in seconds since 1970 */
} Recorded;

static Options options = {.events = 100,.gap = 0.020,.nparams = 1};
static PGconn *connection;

static const char *const recorded_query =
"SELECT c.delivered, extract(epoch FROM c.delivered_at)::float8 "
"FROM order_idempotency.subscription_cursors c "
"JOIN order_idempotency.subscriptions s ON s.id = c.subscription WHERE s.name = $1";

/* Ends with what the server said, unless all is well. */
static void
check(PGresult *result)
{
	if (PQresultStatus(result) != PGRES_TUPLES_OK && PQresultStatus(result) != PGRES_COMMAND_OK)
		die("%s", PQerrorMessage(connection));
}

/* Prepares a statement. */
static void
prepare(const char *name, const char *statement, int nparams)
{
	PGresult   *result = PQprepare(connection, name, statement, nparams, NULL);

	check(result);
	PQclear(result);
}

/* What is recorded by now. */
static Recorded
look(void)
{
	PGresult   *result = PQexecPrepared(connection, "recorded", 1, &options.subscription, NULL, NULL, 0);
	Recorded	recorded = {0};

	check(result);
	if (PQntuples(result) != 1)
		die("there is no subscription \"%s\"", options.subscription);
	recorded.delivered = atoll(PQgetvalue(result, 0, 0));
	recorded.at = PQgetisnull(result, 0, 1) ? 0 : atof(PQgetvalue(result, 0, 1));
	PQclear(result);
	return recorded;
}

/* One event; how many microseconds it took from its commit to the record. */
static double
send_event(int number)
{
	char		key[KEY_SIZE];
	Recorded	before = look();
	Recorded	now;
	PGresult   *result;
	double		committed;
	double		next;

	snprintf(key, sizeof(key), "latency-%lld-%d-%06d", (long long) time(NULL), (int) getpid(), number);
	options.params[0] = key;
	result = PQexecPrepared(connection, "event", options.nparams, options.params, NULL, NULL, 0);
	committed = seconds_of(CLOCK_REALTIME);
	check(result);
	PQclear(result);

	next = seconds_of(CLOCK_MONOTONIC) + FIRST_LOOK;
	do
	{
		sleep_until(next);
		next += NEXT_LOOK;
		now = look();
		if (seconds_of(CLOCK_REALTIME) - committed > PATIENCE)
			die("the event of \"%s\" was not delivered", key);
	} while (now.delivered == before.delivered);
	return now.at > committed ? (now.at - committed) * 1e6 : 0;
}

/* Reads the command line. */
static void
read_arguments(int argc, char **argv)
{
	int			option;

	while ((option = getopt(argc, argv, "+n:g:p:")) != -1)
	{
		if (option == 'n')
			options.events = atoi(optarg);
		else if (option == 'g')
			options.gap = atof(optarg) / 1e3;
		else if (option == 'p' && options.nparams < MAX_PARAMS)
			options.params[options.nparams++] = optarg;
		else
			die("see the head of latency.c");
	}
	if (argc - optind != 3)
		die("see the head of latency.c");
	options.conninfo = argv[optind];
	options.subscription = argv[optind + 1];
	options.statement = argv[optind + 2];
}

int
main(int argc, char **argv)
{
	read_arguments(argc, argv);
	connection = PQconnectdb(options.conninfo);
	if (PQstatus(connection) != CONNECTION_OK)
		die("%s", PQerrorMessage(connection));
	prepare("event", options.statement, options.nparams);
	prepare("recorded", recorded_query, 1);
	srand48(getpid());
	for (int i = 0; i <= options.events; i++)
	{
		double		begin = seconds_of(CLOCK_MONOTONIC);
		double		took;

		/* a pause by chance, of which the look was a part */
		sleep_until(begin + (drand48() + 0.5) * (options.gap - FIRST_LOOK));
		took = send_event(i);
		if (i > 0)
			printf("%.0f\n", took);
	}
	PQfinish(connection);
	return 0;
}
