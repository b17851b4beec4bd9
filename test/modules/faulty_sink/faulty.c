/*-------------------------------------------------------------------------
 *
 * faulty.c
 *		A sink that does what the event asks for, for tests.
 *
 * Server option "log" names a file.  Each attempt at an event becomes a line in
 * it before anything else is done:
 *
 *		attempt, what is done, event id, position, version, key
 *
 * separated by tabs; the key comes last.  Member "do" of the payload is a string
 * of words, the n-th for the n-th attempt; behind its end, and without it, the
 * event is delivered.  Attempts are counted in the log, so across crashes.
 *
 *		deliver			a line "delivered" with its id is added; so is the outcome
 *		retry[:MS]		outcome retry, to be tried again after that time
 *		reject			outcome rejected
 *		forget			no outcome at all
 *		error			an ERROR for the whole batch
 *		fatal			a FATAL error
 *		crash			a signal that kills the process
 *		after			delivered, then an ERROR: the worker does not know
 *		gone			delivered, then a crash
 *		hang			until the deadline, with interrupts looked at
 *		slow:MS			delivered after that time
 *
 * Option "down" is a file name: while there is such a file, every batch fails
 * with an ERROR before anything is written.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fmgr.h"
#include "miscadmin.h"
#include "order_sink.h"
#include "pgstat.h"
#include "storage/latch.h"
#include "utils/builtins.h"
#include "utils/hsearch.h"
#include "utils/timestamp.h"
#include "utils/wait_event.h"

PG_MODULE_MAGIC;

/* how often an event came */
typedef struct Attempts
{
	char		id[40];
	int			count;
} Attempts;

typedef struct FaultySink
{
	FILE	   *log;
	HTAB	   *attempts;
} FaultySink;

/*
 * Count one more attempt at an event.
 */
static int
count_attempt(FaultySink *sink, const char *id)
{
	char		key[40] = {0};
	bool		found;
	Attempts   *entry;

	strlcpy(key, id, sizeof(key));
	entry = hash_search(sink->attempts, key, HASH_ENTER, &found);
	if (!found)
		entry->count = 0;
	return ++entry->count;
}

/*
 * Callback: open the log, and count what it has.
 */
static void
faulty_startup(OiSinkState *state)
{
	MemoryContext old = MemoryContextSwitchTo(state->context);
	FaultySink *sink = palloc0(sizeof(FaultySink));
	const char *path = oi_sink_option(state->options, "log");
	HASHCTL		ctl = {.keysize = 40,.entrysize = sizeof(Attempts),.hcxt = state->context};
	char		line[4096];
	char		id[40];

	state->private_data = sink;
	sink->attempts = hash_create("faulty", 256, &ctl, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	MemoryContextSwitchTo(old);
	sink->log = fopen(path, "a+");
	if (sink->log == NULL)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not open file \"%s\": %m", path)));
	rewind(sink->log);
	while (fgets(line, sizeof(line), sink->log) != NULL)
		if (sscanf(line, "%*d\t%*s\t%39s", id) == 1)
			(void) count_attempt(sink, id);
}

/*
 * The word of the payload's member "do" for an attempt, or "deliver".
 */
static char *
word_for(const OiSinkEvent *event, int attempt)
{
	const char *at = event->payload ? strstr(event->payload, "\"do\": \"") : NULL;
	char	   *words;
	char	   *word;

	if (at == NULL)
		return pstrdup("deliver");
	words = pstrdup(at + strlen("\"do\": \""));
	words[strcspn(words, "\"")] = '\0';
	word = strtok(words, " ");
	while (word != NULL && --attempt > 0)
		word = strtok(NULL, " ");
	return word ? word : pstrdup("deliver");
}

/*
 * Add a line to the log, for others to see at once.
 */
static void
note(FaultySink *sink, const char *what, int attempt, const OiSinkEvent *event)
{
	fprintf(sink->log, "%d\t%s\t%s\t" INT64_FORMAT "\t%d\t%s\n", attempt, what,
			event->event_id_text, event->position, event->version, event->key);
	fflush(sink->log);
}

/*
 * Wait, and let interrupts through.
 */
static void
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

/*
 * Do what an event asks for.  False: go on with no other of its key.
 */
static bool
serve(FaultySink *sink, OiSinkEvent *event, TimestampTz deadline)
{
	int			attempt = count_attempt(sink, event->event_id_text);
	char	   *word = word_for(event, attempt);
	char	   *colon = strchr(word, ':');
	int			number = colon ? atoi(colon + 1) : 0;

	if (colon)
		*colon = '\0';
	note(sink, word, attempt, event);
	if (strcmp(word, "slow") == 0)
		wait_until(TimestampTzPlusMilliseconds(GetCurrentTimestamp(), number));
	if (strcmp(word, "hang") == 0)
		wait_until(deadline);
	if (strcmp(word, "error") == 0)
		ereport(ERROR, (errmsg("the event wants an error")));
	if (strcmp(word, "fatal") == 0)
		ereport(FATAL, (errmsg("the event wants a fatal error")));
	if (strcmp(word, "crash") == 0)
		kill(MyProcPid, SIGKILL);

	event->reason = psprintf("the event wants: %s", word);
	event->retry_after = number;
	if (strcmp(word, "reject") == 0)
		event->outcome = OI_SINK_REJECTED;
	if (strcmp(word, "deliver") != 0 && strcmp(word, "slow") != 0 &&
		strcmp(word, "after") != 0 && strcmp(word, "gone") != 0)
		return false;

	fprintf(sink->log, "%d\tdelivered\t \t" INT64_FORMAT "\t%d\t%s\t%s\n", attempt,
			event->position, event->version, event->key, event->event_id_text);
	fflush(sink->log);
	if (strcmp(word, "after") == 0)
		ereport(ERROR, (errmsg("the event wants an error after it was delivered")));
	if (strcmp(word, "gone") == 0)
		kill(MyProcPid, SIGKILL);
	event->outcome = OI_SINK_DELIVERED;
	return true;
}

/*
 * Did an earlier event of the same key fail in this batch?
 */
static bool
held(const OiSinkEvent *events, int which)
{
	for (int i = 0; i < which; i++)
		if (events[i].outcome != OI_SINK_DELIVERED &&
			strcmp(events[i].key, events[which].key) == 0)
			return true;
	return false;
}

/*
 * Callback: serve each event whose key did not fail before.
 */
static void
faulty_deliver(OiSinkState *state, OiSinkEvent *events, int n, TimestampTz deadline)
{
	const char *down = oi_sink_option(state->options, "down");
	struct stat st;
	bool		failed = false;

	if (down != NULL && stat(down, &st) == 0)
		ereport(ERROR, (errmsg("the receiver is down")));
	for (int i = 0; i < n; i++)
	{
		CHECK_FOR_INTERRUPTS();
		if (!failed || !held(events, i))
			failed |= !serve(state->private_data, &events[i], deadline);
	}
}

/*
 * Callback: close the log.
 */
static void
faulty_shutdown(OiSinkState *state)
{
	FaultySink *sink = state->private_data;

	if (sink != NULL && sink->log != NULL)
		fclose(sink->log);
	state->private_data = NULL;
}

static const OiSinkCallbacks faulty_callbacks = {
	.magic = OI_SINK_MAGIC,
	.startup = faulty_startup,
	.deliver = faulty_deliver,
	.shutdown = faulty_shutdown
};

/*
 * What the loader looks up.
 */
const OiSinkCallbacks *
_PG_order_sink_init(void)
{
	return &faulty_callbacks;
}
