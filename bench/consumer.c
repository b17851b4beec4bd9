/*-------------------------------------------------------------------------
 *
 * consumer.c
 *		Workers to compare with: what one writes, or takes, to carry events from
 *		tables to somewhere else.
 *
 *		consumer [options] KIND CONNINFO
 *
 *		update		takes 100 rows with FOR UPDATE SKIP LOCKED and marks them, in one
 *					statement; handles them; commits
 *		delete		the same, but removes them
 *		pgq			takes the next batch of a PgQ queue
 *
 * Each is one process with one connection and prepared statements; statements
 * that need not wait for each other's answers share a round trip.  "Handles" is:
 * looks at each column of each event, and
 *
 *		-f FILE		appends each event to it as a line, by one write for all
 *		-q QUEUE	(pgq) the queue
 *		-c NAME		(pgq) the consumer, registered
 *		-l CHANNEL	where there is nothing to do, waits for a notification
 *		-i MS		where there is nothing to do, sleeps that long
 *		-s SECONDS	ends after that time; else when there is nothing to do, unless one of
 *					the two before says to wait
 *
 * Prints events, seconds, and the seconds of CPU of itself and of its backend.
 *
 *-------------------------------------------------------------------------
 */
#define _GNU_SOURCE

#include <errno.h>
#include <fcntl.h>
#include <libpq-fe.h>
#include <poll.h>
#include <stdbool.h>
#include <string.h>
#include <unistd.h>

#include "common.h"

#define EVENT "event_id, key, version, type, payload, headers, created_at"

/* the rows to take: the oldest, as an array, so that they are looked up by key */
#define TAKEN(table, condition) \
	" WHERE id = ANY (ARRAY(SELECT id FROM " table condition \
	" ORDER BY id LIMIT 100 FOR UPDATE SKIP LOCKED)) RETURNING " EVENT

static const char *const update_rows =
"UPDATE queue.events SET processed_at = now()"
TAKEN("queue.events", " WHERE processed_at IS NULL");

static const char *const delete_rows =
"DELETE FROM queue.jobs" TAKEN("queue.jobs", "");

typedef struct Options
{
	const char *kind;
	const char *file;
	const char *queue;
	const char *consumer;
	const char *channel;
	int			idle;			/* ms; -1: does not wait */
	double		seconds;		/* 0: no limit */
} Options;

static Options options = {.idle = -1};
static PGconn *connection;
static int	output = -1;
static long handled;			/* bytes: so that nothing can be left out */

/* Ends with what the server said. */
static void
fail(void)
{
	die("%s: %s", options.kind, PQerrorMessage(connection));
}

/* Prepares a statement. */
static void
prepare(const char *name, const char *statement)
{
	PGresult   *result = PQprepare(connection, name, statement, 0, NULL);

	if (PQresultStatus(result) != PGRES_COMMAND_OK)
		fail();
	PQclear(result);
}

/* Queues a prepared statement in the present round trip. */
static void
send_prepared(const char *name, int n, const char *const *values)
{
	if (!PQsendQueryPrepared(connection, name, n, values, NULL, NULL, 0))
		fail();
}

/* The next answer of a round trip. */
static PGresult *
receive(void)
{
	PGresult   *result = PQgetResult(connection);
	PGresult   *end = PQgetResult(connection);

	if (end != NULL || (PQresultStatus(result) != PGRES_COMMAND_OK &&
						PQresultStatus(result) != PGRES_TUPLES_OK))
		fail();
	return result;
}

/* Ends a round trip. */
static void
finish_trip(void)
{
	PGresult   *result = PQgetResult(connection);

	if (PQresultStatus(result) != PGRES_PIPELINE_SYNC)
		fail();
	PQclear(result);
}

/* A round trip of BEGIN and a statement; the statement's answer. */
static PGresult *
begin_with(const char *name, int n, const char *const *values)
{
	PGresult   *result;

	send_prepared("begin", 0, NULL);
	send_prepared(name, n, values);
	PQpipelineSync(connection);
	PQclear(receive());
	result = receive();
	finish_trip();
	return result;
}

/* A round trip of a statement (NULL: none) and COMMIT. */
static void
commit_with(const char *name, int n, const char *const *values)
{
	if (name)
		send_prepared(name, n, values);
	send_prepared("commit", 0, NULL);
	PQpipelineSync(connection);
	if (name)
		PQclear(receive());
	PQclear(receive());
	finish_trip();
}

/* Appends the events to the file, a line each. */
static void
write_events(const PGresult *events)
{
	char	   *text;
	size_t		size;
	FILE	   *memory = open_memstream(&text, &size);

	for (int i = 0; i < PQntuples(events); i++)
		for (int j = 0; j < PQnfields(events); j++)
			fprintf(memory, "%s%c", PQgetvalue(events, i, j),
					j < PQnfields(events) - 1 ? '\t' : '\n');
	fclose(memory);
	if (write(output, text, size) != (ssize_t) size)
		die("could not write to \"%s\": %s", options.file, strerror(errno));
	free(text);
}

/* Handles events. */
static int
handle(const PGresult *events)
{
	for (int i = 0; i < PQntuples(events); i++)
		for (int j = 0; j < PQnfields(events); j++)
			handled += PQgetlength(events, i, j);
	if (output >= 0 && PQntuples(events) > 0)
		write_events(events);
	return PQntuples(events);
}

/* One batch of rows. */
static int
take_rows(void)
{
	PGresult   *events = begin_with("take", 0, NULL);
	int			n = handle(events);

	commit_with(NULL, 0, NULL);
	PQclear(events);
	return n;
}

/* One batch of a queue, -1: there is none. */
static int
take_batch(void)
{
	const char *who[] = {options.queue, options.consumer};
	PGresult   *batch = begin_with("next", 2, who);
	const char *number = PQgetvalue(batch, 0, 0);
	int			n = -1;

	if (PQgetisnull(batch, 0, 0))
		commit_with(NULL, 0, NULL);
	else
	{
		PGresult   *events;

		send_prepared("take", 1, &number);
		PQpipelineSync(connection);
		events = receive();
		finish_trip();
		n = handle(events);
		PQclear(events);
		commit_with("finish", 1, &number);
	}
	PQclear(batch);
	return n;
}

/* Connects and prepares what the kind needs. */
static void
start(const char *conninfo)
{
	connection = PQconnectdb(conninfo);
	if (PQstatus(connection) != CONNECTION_OK)
		fail();
	prepare("begin", "BEGIN");
	prepare("commit", "COMMIT");
	if (strcmp(options.kind, "pgq") == 0)
	{
		prepare("next", "SELECT pgq.next_batch($1, $2)");
		prepare("take", "SELECT ev_id, ev_time, ev_type, ev_data, ev_extra1, ev_extra2, ev_extra3"
				" FROM pgq.get_batch_events($1::text::bigint)");
		prepare("finish", "SELECT pgq.finish_batch($1::text::bigint)");
	}
	else if (strcmp(options.kind, "delete") == 0)
		prepare("take", delete_rows);
	else if (strcmp(options.kind, "update") == 0)
		prepare("take", update_rows);
	else
		die("no such kind: %s", options.kind);
	if (options.channel)
	{
		char	   *name = PQescapeIdentifier(connection, options.channel, strlen(options.channel));
		char		command[200];

		snprintf(command, sizeof(command), "LISTEN %s", name);
		PQclear(PQexec(connection, command));
		PQfreemem(name);
	}
	if (options.file)
	{
		output = open(options.file, O_WRONLY | O_APPEND | O_CREAT, 0600);
		if (output < 0)
			die("could not open \"%s\": %s", options.file, strerror(errno));
	}
	if (!PQenterPipelineMode(connection))
		fail();
}

/* Takes the notifications that have come.  True: there were some. */
static bool
take_notifications(void)
{
	bool		any = false;
	PGnotify   *notify;

	while ((notify = PQnotifies(connection)) != NULL)
	{
		any = true;
		PQfreemem(notify);
	}
	return any;
}

/* Waits until there may be something to do. */
static void
rest(void)
{
	struct pollfd wait = {.fd = PQsocket(connection),.events = POLLIN};

	if (options.channel == NULL)
	{
		sleep_until(seconds_of(CLOCK_MONOTONIC) + options.idle / 1e3);
		return;
	}
	while (!take_notifications())
	{
		(void) poll(&wait, 1, -1);
		if (!PQconsumeInput(connection))
			fail();
	}
}

/* Seconds of CPU that the backend has taken. */
static double
backend_cpu(void)
{
	char		path[64];
	char		text[1024] = "";
	long		user;
	long		system;
	FILE	   *file;

	snprintf(path, sizeof(path), "/proc/%d/stat", PQbackendPID(connection));
	file = fopen(path, "r");
	if (file == NULL || fread(text, 1, sizeof(text) - 1, file) == 0 ||
		sscanf(strrchr(text, ')'), ") %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %ld %ld",
			   &user, &system) != 2)
		die("could not read %s", path);
	fclose(file);
	return (double) (user + system) / sysconf(_SC_CLK_TCK);
}

/* Works until there is no time, or nothing to do. */
static void
work(void)
{
	bool		pgq = strcmp(options.kind, "pgq") == 0;
	double		begin = seconds_of(CLOCK_MONOTONIC);
	double		before = backend_cpu();
	long		events = 0;

	while (options.seconds == 0 || seconds_of(CLOCK_MONOTONIC) < begin + options.seconds)
	{
		int			n = pgq ? take_batch() : take_rows();

		events += n > 0 ? n : 0;
		if (n > 0 || (pgq && n == 0))
			continue;
		if (options.idle < 0 && options.channel == NULL)
			break;
		rest();
	}
	printf("%ld %.6f %.6f %.6f\n", events, seconds_of(CLOCK_MONOTONIC) - begin,
		   seconds_of(CLOCK_PROCESS_CPUTIME_ID), backend_cpu() - before);
}

/* Reads one option. */
static void
read_option(int option, const char *value)
{
	switch (option)
	{
		case 'f':
			options.file = value;
			break;
		case 'q':
			options.queue = value;
			break;
		case 'c':
			options.consumer = value;
			break;
		case 'l':
			options.channel = value;
			break;
		case 'i':
			options.idle = atoi(value);
			break;
		case 's':
			options.seconds = atof(value);
			break;
		default:
			die("see the head of consumer.c");
	}
}

int
main(int argc, char **argv)
{
	int			option;

	while ((option = getopt(argc, argv, "+f:q:c:l:i:s:")) != -1)
		read_option(option, optarg);
	if (argc - optind != 2)
		die("see the head of consumer.c");
	options.kind = argv[optind];
	start(argv[optind + 1]);
	work();
	PQfinish(connection);
	return 0;
}
