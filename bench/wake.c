/*-------------------------------------------------------------------------
 *
 * wake.c
 *		How long after its commit an event is in a file.
 *
 *		wake [options] CONNINFO FILE STATEMENT
 *
 * Calls the statement, which commits by itself, again and again, each with a key of
 * its own, and waits each time until FILE has a line, with its newline, that
 * has the key in it.  $1 is the key.
 *
 *		-n EVENTS	how often (100)
 *		-g MS		pauses of that length on average, by chance (20)
 *		-p VALUE	the next parameter
 *
 * One thread calls and notes when the answer was there, after PQexecPrepared() has
 * returned; the other one sleeps in inotify and notes when the line was.  The
 * first event is not counted: the file need not be there before it.  Prints the
 * differences in microseconds, a line each; 0 where the line was there first.
 *
 *-------------------------------------------------------------------------
 */
#define _GNU_SOURCE

#include <errno.h>
#include <fcntl.h>
#include <libpq-fe.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <sys/inotify.h>
#include <unistd.h>

#include "common.h"

#define MAX_PARAMS	6
#define KEY_SIZE	64
#define LINES_SIZE	65536
#define PATIENCE	60			/* seconds that one event may take */

typedef struct Options
{
	int			events;
	double		gap;			/* seconds */
	const char *params[MAX_PARAMS];
	int			nparams;		/* the key included */
	const char *conninfo;
	const char *file;
	const char *statement;
} Options;

static Options options = {.events = 100,.gap = 0.020,.nparams = 1};

/* what the threads share: the key that is waited for, and when it was seen */
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t seen = PTHREAD_COND_INITIALIZER;
static char awaited[KEY_SIZE];
static double seen_at;			/* 0: not yet */

/* Looks for the awaited key in a line that ended at that time. */
static void
look_at(const char *line, double when)
{
	pthread_mutex_lock(&mutex);
	if (seen_at == 0 && awaited[0] != '\0' && strstr(line, awaited) != NULL)
	{
		seen_at = when;
		pthread_cond_signal(&seen);
	}
	pthread_mutex_unlock(&mutex);
}

/* Reads what was added to the file, and looks at the lines that are whole. */
static void
read_lines(int file)
{
	static char lines[LINES_SIZE];
	static size_t have = 0;
	ssize_t		got;

	while ((got = read(file, lines + have, sizeof(lines) - 1 - have)) > 0)
	{
		double		now = seconds_of(CLOCK_MONOTONIC);
		char	   *line = lines;
		char	   *end;

		have += got;
		lines[have] = '\0';
		while ((end = strchr(line, '\n')) != NULL)
		{
			*end = '\0';
			look_at(line, now);
			line = end + 1;
		}
		have -= line - lines;
		memmove(lines, line, have);
		if (have == sizeof(lines) - 1)
			die("a line is too long");
	}
}

/* The second thread: watches the file from when it is there. */
static void *
watch(void *arg)
{
	char		changes[4096];
	int			notify = inotify_init1(IN_CLOEXEC);
	int			file;

	while ((file = open(options.file, O_RDONLY)) < 0)
	{
		if (errno != ENOENT)
			die("could not open \"%s\": %s", options.file, strerror(errno));
		sleep_until(seconds_of(CLOCK_MONOTONIC) + 0.001);
	}
	if (notify < 0 || inotify_add_watch(notify, options.file, IN_MODIFY) < 0)
		die("could not watch \"%s\": %s", options.file, strerror(errno));
	for (;;)
	{
		read_lines(file);
		if (read(notify, changes, sizeof(changes)) < 0)
			die("could not wait for \"%s\": %s", options.file, strerror(errno));
	}
	return arg;
}

/* Waits until the awaited key was seen; when that was. */
static double
wait_until_seen(void)
{
	struct timespec until;
	double		when;

	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_sec += PATIENCE;
	pthread_mutex_lock(&mutex);
	while (seen_at == 0)
		if (pthread_cond_timedwait(&seen, &mutex, &until) == ETIMEDOUT)
			die("no line with \"%s\" in \"%s\"", awaited, options.file);
	when = seen_at;
	pthread_mutex_unlock(&mutex);
	return when;
}

/* Makes the next key the one that is waited for. */
static void
next_key(char *key, int number)
{
	snprintf(key, KEY_SIZE, "wake-%lld-%lld-%06d", (long long) time(NULL),
			 (long long) getpid(), number);
	pthread_mutex_lock(&mutex);
	strcpy(awaited, key);
	seen_at = 0;
	pthread_mutex_unlock(&mutex);
}

/* One event; how many microseconds it took from its commit to the file. */
static double
send_event(PGconn *connection, int number)
{
	char		key[KEY_SIZE];
	double		committed;
	double		delivered;
	PGresult   *result;

	next_key(key, number);
	options.params[0] = key;
	result = PQexecPrepared(connection, "event", options.nparams, options.params, NULL, NULL, 0);
	committed = seconds_of(CLOCK_MONOTONIC);
	if (PQresultStatus(result) != PGRES_TUPLES_OK && PQresultStatus(result) != PGRES_COMMAND_OK)
		die("%s", PQerrorMessage(connection));
	PQclear(result);
	delivered = wait_until_seen();
	return delivered > committed ? (delivered - committed) * 1e6 : 0;
}

/* Sends all of them, with pauses. */
static void
send_events(void)
{
	PGconn	   *connection = PQconnectdb(options.conninfo);
	PGresult   *result;

	if (PQstatus(connection) != CONNECTION_OK)
		die("%s", PQerrorMessage(connection));
	result = PQprepare(connection, "event", options.statement, options.nparams, NULL);
	if (PQresultStatus(result) != PGRES_COMMAND_OK)
		die("%s", PQerrorMessage(connection));
	PQclear(result);
	srand48(getpid());
	for (int i = 0; i <= options.events; i++)
	{
		double		took;

		sleep_until(seconds_of(CLOCK_MONOTONIC) + 2 * drand48() * options.gap);
		took = send_event(connection, i);
		if (i > 0)
			printf("%.0f\n", took);
	}
	PQfinish(connection);
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
			die("see the head of wake.c");
	}
	if (argc - optind != 3)
		die("see the head of wake.c");
	options.conninfo = argv[optind];
	options.file = argv[optind + 1];
	options.statement = argv[optind + 2];
}

int
main(int argc, char **argv)
{
	pthread_t	watcher;

	read_arguments(argc, argv);
	if (pthread_create(&watcher, NULL, watch, NULL) != 0)
		die("could not start a thread");
	send_events();
	return 0;
}
