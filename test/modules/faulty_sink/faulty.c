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
 *		skip			not delivered, but those behind it of the same key are
 *		outcome:N		an outcome that there is not
 *		say:WHAT		outcome retry, with a reason that is no good: nothing,
 *						lines, bytes, long, secret
 *		shout:WHAT		the same as the message of an ERROR
 *
 * and what is delivered as by "deliver", with something besides: see misbehave.c.
 *
 * Option "down" is a file name: while there is such a file, every batch fails
 * with an ERROR before anything is written.  Options "startup" and "shutdown"
 * have the callback of that name do a word of misbehave.c, or raise an ERROR
 * ("error"); "slow" has shutdown take a second, and add ".stopped" as a file beside the log
 * when it is through.  Option "missing" is what check_configured says.  A file
 * "faulty_init" in the data directory says what _PG_order_sink_init does:
 * nothing, magic, deliver (returns none of these), error.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fmgr.h"
#include "misbehave.h"
#include "miscadmin.h"
#include "order_sink.h"
#include "utils/hsearch.h"
#include "utils/timestamp.h"

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
	bool		skipping;		/* goes on behind an event that failed */
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
 * Callback: is anything missing?
 */
static const char *
faulty_check_configured(OiSinkState *state)
{
	return oi_sink_option(state->options, "missing");
}

/*
 * Do what an option says that a callback is to do.
 */
static void
obey_option(const OiSinkState *state, const char *name)
{
	const char *word = oi_sink_option(state->options, name);

	if (word == NULL)
		return;
	if (strcmp(word, "error") == 0)
		ereport(ERROR, (errmsg("the option wants an error in %s", name)));
	misbehave(word, 0);
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
	own_context = state->context;
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
	obey_option(state, "startup");
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
 * A reason that is not fit to be shown as it is.
 */
static char *
bad_reason(const OiSinkState *state, const char *kind)
{
	StringInfoData text;
	const char *option = oi_sink_option(state->user_options, "secret");
	const char *secret = option ? option : "";

	initStringInfo(&text);
	if (strcmp(kind, "nothing") == 0)
		return NULL;
	if (strcmp(kind, "lines") == 0)
		appendStringInfoString(&text, "lines: first\nLOG:  second\r\n\tthird\x1b[31m");
	else if (strcmp(kind, "bytes") == 0)
		appendStringInfoString(&text, "bytes: \xff\xc3 \xc3\xa9 \xe2\x82");
	else if (strcmp(kind, "secret") == 0)
		appendStringInfo(&text, "secret: login by \"%s\" failed, %s", secret, secret);
	else
	{
		appendStringInfoString(&text, "long: ");
		for (int i = 0; i < 2000; i++)
			appendStringInfo(&text, "%04d \xc3\xa9 %s", i, i == 999 ? secret : "");
	}
	return text.data;
}

/*
 * Do what an event asks for before it is delivered.  False: it is not.
 */
static bool
obey(OiSinkState *state, OiSinkEvent *event, const char *word, const char *what, TimestampTz deadline)
{
	FaultySink *sink = state->private_data;
	int			number = what ? atoi(what) : 0;

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
	if (strcmp(word, "shout") == 0)
		ereport(ERROR, (errmsg("%s", bad_reason(state, what))));

	event->reason = psprintf("the event wants: %s", word);
	event->retry_after = number;
	if (strcmp(word, "say") == 0)
		event->reason = bad_reason(state, what);
	if (strcmp(word, "reject") == 0)
		event->outcome = OI_SINK_REJECTED;
	if (strcmp(word, "outcome") == 0)
		event->outcome = (OiSinkOutcome) number;
	sink->skipping |= strcmp(word, "skip") == 0;
	return strcmp(word, "deliver") == 0 || strcmp(word, "slow") == 0 ||
		strcmp(word, "after") == 0 || strcmp(word, "gone") == 0 || misbehave(word, number);
}

/*
 * Serve an event.  False: go on with no other of its key.
 */
static bool
serve(OiSinkState *state, OiSinkEvent *event, TimestampTz deadline)
{
	FaultySink *sink = state->private_data;
	int			attempt = count_attempt(sink, event->event_id_text);
	char	   *word = word_for(event, attempt);
	char	   *colon = strchr(word, ':');

	if (colon)
		*colon = '\0';
	note(sink, word, attempt, event);
	if (!obey(state, event, word, colon ? colon + 1 : NULL, deadline))
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
	FaultySink *sink = state->private_data;
	const char *down = oi_sink_option(state->options, "down");
	struct stat st;
	bool		failed = false;

	if (down != NULL && stat(down, &st) == 0)
		ereport(ERROR, (errmsg("the receiver is down")));
	sink->skipping = false;
	for (int i = 0; i < n; i++)
	{
		CHECK_FOR_INTERRUPTS();
		if (!failed || sink->skipping || !held(events, i))
			failed |= !serve(state, &events[i], deadline);
	}
	misbehave_at_end(events, n);
}

/*
 * Come to an end, but not at once.
 */
static void
stop_slowly(OiSinkState *state)
{
	FILE	   *file;

	pg_usleep(USECS_PER_SEC);
	file = fopen(psprintf("%s.stopped", oi_sink_option(state->options, "log")), "w");
	if (file != NULL)
		fclose(file);
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
	if (oi_sink_option(state->options, "shutdown") != NULL &&
		strcmp(oi_sink_option(state->options, "shutdown"), "slow") == 0)
		stop_slowly(state);
	else
		obey_option(state, "shutdown");
}

static const OiSinkCallbacks faulty_callbacks = {
	.magic = OI_SINK_MAGIC,
	.check_configured = faulty_check_configured,
	.startup = faulty_startup,
	.deliver = faulty_deliver,
	.shutdown = faulty_shutdown
};
static const OiSinkCallbacks of_another_version = {
	.magic = OI_SINK_MAGIC + 1,
	.deliver = faulty_deliver
};
static const OiSinkCallbacks without_deliver = {
	.magic = OI_SINK_MAGIC,
	.startup = faulty_startup
};

/*
 * What the loader looks up.
 */
const OiSinkCallbacks *
_PG_order_sink_init(void)
{
	char		what[32] = {0};
	FILE	   *file = fopen("faulty_init", "r");

	if (file == NULL)
		return &faulty_callbacks;
	if (fgets(what, sizeof(what), file) == NULL)
		what[0] = '\0';
	fclose(file);
	if (strncmp(what, "magic", 5) == 0)
		return &of_another_version;
	if (strncmp(what, "deliver", 7) == 0)
		return &without_deliver;
	if (strncmp(what, "error", 5) == 0)
		ereport(ERROR, (errmsg("the file wants an error")));
	return NULL;
}
