/*-------------------------------------------------------------------------
 *
 * numbered.c
 *		A sink whose receiver refuses repeats by number, for tests.
 *
 * The receiver is a file, server option "log".  Its lines are
 *
 *		E	number	index	event id	version	key
 *		C	number	timeline
 *
 * with option "mode" as "refuse" only E: the receiver takes no event whose number
 * and index are not above all that it has.  With "commit" all lines of a
 * delivery and its C are added at once; startup tells the last C.
 *
 * Member "do" of the payload has a word for each attempt at the event that the
 * receiver does not have; behind their end it is "deliver".  A single
 * "reject" is for all.  Attempts are counted in a file beside the log,
 * so across crashes.  With "commit" it is the first event's word that counts, but
 * for "reject".
 *
 *		deliver		the receiver takes it
 *		retry		it does not, and says so
 *		reject		it never will
 *		forget		it does not get it, which nobody is told
 *		lost		it takes it, which nobody is told
 *		error		an ERROR before
 *		after		an ERROR after it took it
 *		crash		a signal that kills the process, before
 *		gone		and after
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <signal.h>
#include <unistd.h>

#include "fmgr.h"
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

/* an event that the receiver has */
typedef struct Taken
{
	int64		number;			/* first two: the key */
	int64		index;
	char		id[40];
} Taken;

typedef struct NumberedSink
{
	bool		commits;
	FILE	   *log;
	FILE	   *tries;
	HTAB	   *attempts;
	HTAB	   *taken;
	Taken		top;			/* the highest number and index */
} NumberedSink;

/*
 * Open a file, to be read from its start and added to.
 */
static FILE *
open_file(const char *path)
{
	FILE	   *file = fopen(path, "a+");

	if (file == NULL)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not open file \"%s\": %m", path)));
	rewind(file);
	return file;
}

/*
 * Count one more attempt at an event.
 */
static int
count_attempt(NumberedSink *sink, const char *id)
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
 * The receiver has an event.
 */
static void
note_taken(NumberedSink *sink, int64 number, int64 index, const char *id)
{
	Taken		key = {.number = number,.index = index};
	Taken	   *entry = hash_search(sink->taken, &key, HASH_ENTER, NULL);

	strlcpy(entry->id, id, sizeof(entry->id));
	if (number > sink->top.number || (number == sink->top.number && index > sink->top.index))
		sink->top = *entry;
}

/*
 * A table in the sink's memory.
 */
static HTAB *
make_table(OiSinkState *state, Size keysize, Size entrysize)
{
	HASHCTL		ctl = {.keysize = keysize,.entrysize = entrysize,.hcxt = state->context};

	return hash_create("numbered", 256, &ctl, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
}

/*
 * Read what the receiver has.
 */
static void
read_log(OiSinkState *state, NumberedSink *sink)
{
	char		line[4096];
	char		id[40];
	long long	number;
	long long	index;
	unsigned int timeline;

	while (fgets(line, sizeof(line), sink->log) != NULL)
	{
		if (sscanf(line, "E\t%lld\t%lld\t%39s", &number, &index, id) == 3)
			note_taken(sink, number, index, id);
		else if (sscanf(line, "C\t%lld\t%u", &number, &timeline) == 2)
		{
			state->receiver.number = number;
			state->receiver.timeline = timeline;
		}
	}
	while (fgets(line, sizeof(line), sink->tries) != NULL)
		if (sscanf(line, "%39s", id) == 1)
			(void) count_attempt(sink, id);
	state->knows_receiver = sink->commits;
}

/*
 * Callback: open the files.
 */
static void
numbered_startup(OiSinkState *state)
{
	MemoryContext old = MemoryContextSwitchTo(state->context);
	NumberedSink *sink = palloc0(sizeof(NumberedSink));
	const char *path = oi_sink_option(state->options, "log");
	const char *mode = oi_sink_option(state->options, "mode");

	state->private_data = sink;
	sink->commits = mode != NULL && strcmp(mode, "commit") == 0;
	sink->attempts = make_table(state, 40, sizeof(Attempts));
	sink->taken = make_table(state, 2 * sizeof(int64), sizeof(Taken));
	sink->log = open_file(path);
	sink->tries = open_file(psprintf("%s.tries", path));
	read_log(state, sink);
	MemoryContextSwitchTo(old);
}

/*
 * The word for this attempt at an event.
 */
static char *
next_word(NumberedSink *sink, const OiSinkEvent *event)
{
	int			attempt = count_attempt(sink, event->event_id_text);
	const char *at = event->payload ? strstr(event->payload, "\"do\": \"") : NULL;
	char	   *words;
	char	   *word;

	fprintf(sink->tries, "%s\n", event->event_id_text);
	fflush(sink->tries);
	if (at == NULL)
		return pstrdup("deliver");
	words = pstrdup(at + strlen("\"do\": \""));
	words[strcspn(words, "\"")] = '\0';
	if (strcmp(words, "reject") == 0)
		return words;
	word = strtok(words, " ");
	while (word != NULL && --attempt > 0)
		word = strtok(NULL, " ");
	return word ? word : pstrdup("deliver");
}

/*
 * Does the receiver have an event under its number?
 */
static bool
has(OiSinkState *state, const OiSinkEvent *event)
{
	NumberedSink *sink = state->private_data;
	Taken		key = {.number = state->token.number,.index = event->index};
	Taken	   *entry = hash_search(sink->taken, &key, HASH_FIND, NULL);

	return entry != NULL && strcmp(entry->id, event->event_id_text) == 0;
}

/*
 * Have the receiver take an event.  False: it refuses the number.
 */
static bool
put(OiSinkState *state, const OiSinkEvent *event)
{
	NumberedSink *sink = state->private_data;
	Taken		key = {.number = state->token.number,.index = event->index};

	if (key.number < sink->top.number ||
		(key.number == sink->top.number && key.index <= sink->top.index && sink->top.id[0] != '\0'))
		return false;
	fprintf(sink->log, "E\t%lld\t%d\t%s\t%d\t%s\n", (long long) state->token.number,
			event->index, event->event_id_text, event->version, event->key);
	fflush(sink->log);
	note_taken(sink, key.number, key.index, event->event_id_text);
	return true;
}

/*
 * What a word says before anything is done.
 */
static void
obey_before(const char *word)
{
	if (strcmp(word, "error") == 0)
		ereport(ERROR, (errmsg("the event wants an error")));
	if (strcmp(word, "crash") == 0)
		kill(MyProcPid, SIGKILL);
}

/*
 * And after that.
 */
static void
obey_after(const char *word)
{
	if (strcmp(word, "after") == 0)
		ereport(ERROR, (errmsg("the event wants an error after it was taken")));
	if (strcmp(word, "gone") == 0)
		kill(MyProcPid, SIGKILL);
}

/*
 * Serve an event by itself.
 */
static void
serve(OiSinkState *state, OiSinkEvent *event)
{
	const char *word = next_word(state->private_data, event);

	obey_before(word);
	if (has(state, event))
		event->outcome = OI_SINK_DELIVERED;
	else if (strcmp(word, "retry") == 0)
		event->reason = "the event wants to be tried again";
	else if (strcmp(word, "reject") == 0)
	{
		event->outcome = OI_SINK_REJECTED;
		event->reason = "the event wants to be rejected";
	}
	else if (strcmp(word, "forget") != 0)
	{
		bool		taken = put(state, event);

		obey_after(word);
		if (!taken)
			event->reason = "the receiver refused the number";
		else if (strcmp(word, "lost") != 0)
			event->outcome = OI_SINK_DELIVERED;
	}
}

/*
 * Did an earlier event of the same key fail?
 */
static bool
is_behind_failed(const OiSinkEvent *events, int which)
{
	for (int i = 0; i < which; i++)
		if (events[i].outcome != OI_SINK_DELIVERED && strcmp(events[i].key, events[which].key) == 0)
			return true;
	return false;
}

/*
 * Have the receiver take all events of a delivery at once.
 */
static void
commit(OiSinkState *state, OiSinkEvent *events, int n)
{
	NumberedSink *sink = state->private_data;
	StringInfoData lines;

	initStringInfo(&lines);
	for (int i = 0; i < n; i++)
		appendStringInfo(&lines, "E\t%lld\t%d\t%s\t%d\t%s\n", (long long) state->token.number,
						 events[i].index, events[i].event_id_text, events[i].version, events[i].key);
	appendStringInfo(&lines, "C\t%lld\t%u\n", (long long) state->token.number,
					 state->token.timeline);
	if (write(fileno(sink->log), lines.data, lines.len) != lines.len)
		ereport(ERROR, (errmsg("could not write to the log: %m")));
}

/*
 * Serve all of a delivery, as the words of its events say.
 */
static void
serve_all(OiSinkState *state, OiSinkEvent *events, int n)
{
	const char *word = next_word(state->private_data, &events[0]);
	bool		rejected = strcmp(word, "reject") == 0;

	obey_before(word);
	if (rejected)
	{
		events[0].outcome = OI_SINK_REJECTED;
		events[0].reason = "the event wants to be rejected";
	}
	for (int i = 0; i < n && strcmp(word, "retry") == 0; i++)
		events[i].reason = "the event wants to be tried again";
	if (rejected || strcmp(word, "retry") == 0 || strcmp(word, "forget") == 0)
		return;

	commit(state, events, n);
	obey_after(word);
	for (int i = 0; i < n && strcmp(word, "lost") != 0; i++)
		events[i].outcome = OI_SINK_DELIVERED;
}

/*
 * Callback: serve each event.
 */
static void
numbered_deliver(OiSinkState *state, OiSinkEvent *events, int n, TimestampTz deadline)
{
	NumberedSink *sink = state->private_data;

	if (sink->commits)
	{
		serve_all(state, events, n);
		return;
	}
	for (int i = 0; i < n; i++)
	{
		CHECK_FOR_INTERRUPTS();
		if (!is_behind_failed(events, i))
			serve(state, &events[i]);
	}
}

/*
 * Callback: close the files.
 */
static void
numbered_shutdown(OiSinkState *state)
{
	NumberedSink *sink = state->private_data;

	if (sink != NULL && sink->log != NULL)
		fclose(sink->log);
	if (sink != NULL && sink->tries != NULL)
		fclose(sink->tries);
	state->private_data = NULL;
}

static const OiSinkCallbacks numbered_callbacks = {
	.magic = OI_SINK_MAGIC,
	.startup = numbered_startup,
	.deliver = numbered_deliver,
	.shutdown = numbered_shutdown,
	.numbered = true
};

/*
 * What the loader looks up.
 */
const OiSinkCallbacks *
_PG_order_sink_init(void)
{
	return &numbered_callbacks;
}
