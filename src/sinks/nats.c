/*-------------------------------------------------------------------------
 *
 * nats.c
 *		The sink "nats": publishing to streams of NATS JetStream.
 *
 * An event goes out as a CloudEvent in binary mode: attributes as headers ce-...,
 * the payload as the data, and its id as Nats-Msg-Id, the same on every attempt: a
 * stream that has it already says so instead of storing it again, for as long as
 * it remembers.  It counts as delivered when a stream has acknowledged it.
 *
 * Functions of the library wait, so all of them are called in a thread
 * (shared_aside.c): nats_connection.c and nats_publish.c.  Here is what the
 * worker does: it makes messages of events, waits for the thread, and makes
 * outcomes of what became of the messages.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <unistd.h>

#include "fmgr.h"
#include "miscadmin.h"
#include "nats_sink.h"
#include "order_sink.h"
#include "shared_headers.h"
#include "shared_options.h"
#include "storage/ipc.h"
#include "utils/timestamp.h"

PG_MODULE_MAGIC;

/* defaults of server options */
#define DEFAULT_TIMEOUT 10000
#define DEFAULT_IN_FLIGHT 1000

/* ms between two visits of the thread to a connection without work */
#define IDLE_INTERVAL 1000

/* the names of the usual headers */
static const char *const names[] = OI_HEADERS_NAMES("ce-");

/* ms that the library's threads have to end in */
#define CLOSE_TIMEOUT 1500

/*
 * Callback: is everything there?
 */
static const char *
nats_check_configured(OiSinkState *state)
{
	const char *url = oi_sink_option(state->options, "url");
	List	   *mapping = state->user_options;

	if (url == NULL)
		return "option \"url\" is missing";
	if (strstr(url, "tls://") != NULL && strstr(url, "nats://") != NULL)
		return "option \"url\" has servers with TLS and without";
	if ((oi_sink_option(state->options, "cert_file") == NULL) !=
		(oi_sink_option(state->options, "key_file") == NULL))
		return "options \"cert_file\" and \"key_file\" go together";
	if ((oi_sink_option(mapping, "user") == NULL) != (oi_sink_option(mapping, "password") == NULL))
		return "options \"user\" and \"password\" of the user mapping go together";
	if ((oi_sink_option(mapping, "nkey") != NULL || oi_sink_option(mapping, "jwt") != NULL) !=
		(oi_sink_option(mapping, "nkey_seed") != NULL))
		return "option \"nkey_seed\" of the user mapping goes together with \"nkey\" or \"jwt\"";
	return NULL;
}

/*
 * The name or address in a URL, without port and brackets.
 */
static const char *
host_of(const char *url)
{
	char	   *host = pstrdup(strstr(url, "://") + 3);
	char	   *end = host[0] == '[' ? strchr(host, ']') : strchr(host, ':');

	if (end != NULL)
		*end = '\0';
	return host[0] == '[' ? host + 1 : host;
}

/*
 * The servers in option "url".
 */
static void
read_urls(NatsSink *sink, const char *list)
{
	char	   *copy = pstrdup(list);
	char	   *rest = NULL;
	int			n = 0;

	sink->tls = strncmp(list, "tls://", 6) == 0;
	sink->urls = palloc0(sizeof(char *) * (strlen(list) + 1));
	sink->hosts = palloc0(sizeof(char *) * (strlen(list) + 1));
	for (char *url = strtok_r(copy, ",", &rest); url != NULL; url = strtok_r(NULL, ",", &rest))
	{
		sink->urls[n] = url;
		sink->hosts[n++] = host_of(url);
	}
}

/*
 * Take over the options of server and user mapping.
 */
static void
read_options(NatsSink *sink, const OiSinkState *state)
{
	read_urls(sink, oi_sink_option(state->options, "url"));
	sink->allowed = oi_networks_parse(oi_sink_option(state->options, "allow_addresses"));
	sink->stream = oi_option_text(state->options, "stream", NULL);
	sink->ca_file = oi_option_text(state->options, "ca_file", NULL);
	sink->cert_file = oi_option_text(state->options, "cert_file", NULL);
	sink->key_file = oi_option_text(state->options, "key_file", NULL);
	sink->timeout = oi_option_number(state->options, "timeout", DEFAULT_TIMEOUT);
	sink->max_in_flight = oi_option_number(state->options, "max_in_flight", DEFAULT_IN_FLIGHT);
	sink->user = oi_option_text(state->user_options, "user", NULL);
	sink->password = oi_option_text(state->user_options, "password", NULL);
	sink->token = oi_option_text(state->user_options, "token", NULL);
	sink->nkey = oi_option_text(state->user_options, "nkey", NULL);
	sink->nkey_seed = oi_option_text(state->user_options, "nkey_seed", NULL);
	sink->jwt = oi_option_text(state->user_options, "jwt", NULL);
	sink->name = psprintf("order_idempotency %s", state->subscription);
	sink->longest_wait = state->longest_wait;
}

/*
 * on_proc_exit callback, the first to be called: all that matters to the server is
 * done, and the library has been shut down.
 */
static void
leave(int code, Datum arg)
{
	_exit(code);
}

/*
 * At the end of the process libnats 3.4 frees a list of OpenSSL's that OpenSSL itself
 * frees a second time.  A crash there would restart the server, so exit() is not
 * let to call either.
 */
static void
avoid_exit_handlers(void)
{
	static bool avoided = false;

	if (!avoided)
		on_proc_exit(leave, (Datum) 0);
	avoided = true;
}

/*
 * Callback: start the thread.  It connects when there is something to deliver.
 */
static void
nats_startup(OiSinkState *state)
{
	MemoryContext old = MemoryContextSwitchTo(state->context);
	NatsSink   *sink = palloc0(sizeof(NatsSink));
	pthread_condattr_t monotonic;

	read_options(sink, state);
	MemoryContextSwitchTo(old);
	pthread_mutex_init(&sink->mutex, NULL);
	pthread_condattr_init(&monotonic);
	pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
	pthread_cond_init(&sink->heard, &monotonic);
	pthread_condattr_destroy(&monotonic);
	state->private_data = sink;
	avoid_exit_handlers();
	sink->aside = oi_aside_start(nats_idle, IDLE_INTERVAL, sink, "OrderIdempotencyNats");
}

/*
 * Add a header to those of a message.
 */
static void
add_header(NatsMessage *message, const char *name, const char *value)
{
	NatsHeader *header = &message->headers[message->nheaders++];

	header->name = name;
	header->value = oi_headers_value(value);
	message->size += strlen(name) + strlen(header->value) + 4;
}

/*
 * Make a message of an event: attributes as headers; trace context besides under
 * the names that W3C gives it.
 */
static void
make_message(NatsMessage *message, const OiSinkState *state, const OiSinkEvent *event)
{
	int			n;
	OiSinkHeader *attributes = oi_cloudevent_attributes(state, event, &n);

	message->subject = event->topic;
	message->id = event->event_id_text;
	message->data = event->payload ? event->payload : "";
	message->length = (int) strlen(message->data);
	message->size = message->length + strlen(message->subject);
	message->headers = palloc(sizeof(NatsHeader) * (n + 2));
	for (int i = 0; i < n; i++)
	{
		const char *name = attributes[i].name;

		if (strcmp(name, "datacontenttype") == 0)
			add_header(message, "Content-Type", attributes[i].value);
		else
			add_header(message, oi_headers_name(names, "ce-", name), attributes[i].value);
		if (strcmp(name, "traceparent") == 0 || strcmp(name, "tracestate") == 0)
			add_header(message, name, attributes[i].value);
	}
}

/*
 * Say whether the thread is to come to an end with what it is at.
 */
static void
set_hurry(NatsSink *sink, bool on)
{
	pthread_mutex_lock(&sink->mutex);
	sink->hurry = on;
	pthread_cond_signal(&sink->heard);
	pthread_mutex_unlock(&sink->mutex);
}

/*
 * Have the thread do a job until a deadline.  When this returns, or raises an
 * error, neither the thread nor the library uses the job any more.
 */
static void
run_job(NatsSink *sink, NatsJob *job, TimestampTz deadline)
{
	long		left = TimestampDifferenceMilliseconds(GetCurrentTimestamp(), deadline);

	set_hurry(sink, false);
	PG_TRY();
	{
		oi_aside_begin(sink->aside, nats_publish, job);
		(void) oi_aside_wait(sink->aside, (int) Max(left, 1));
	}
	PG_CATCH();
	{
		set_hurry(sink, true);
		while (!oi_aside_wait_quietly(sink->aside, IDLE_INTERVAL))
			;
		PG_RE_THROW();
	}
	PG_END_TRY();
	set_hurry(sink, true);
	while (!oi_aside_wait_quietly(sink->aside, IDLE_INTERVAL))
		;
}

/*
 * What became of a message is the outcome of its event.  True: that is known.
 */
static bool
note_outcome(OiSinkEvent *event, NatsMessage *message)
{
	if (message->answer != NULL)
	{
		event->reason = pstrdup(message->answer);
		free(message->answer);
		message->answer = NULL;
	}
	switch (message->fate)
	{
		case NATS_FATE_STORED:
			event->outcome = OI_SINK_DELIVERED;
			return true;
		case NATS_FATE_REJECTED:
			event->outcome = OI_SINK_REJECTED;
			return true;
		case NATS_FATE_REFUSED:
			return true;
		case NATS_FATE_NEW:
		case NATS_FATE_SENT:
			break;
	}
	return false;
}

/*
 * Where a stream forgets the ids of messages sooner than the last repeat may come,
 * say so.
 */
static void
warn_of_window(const OiSinkState *state, const NatsJob *job)
{
	if (job->too_short.stream[0] == '\0')
		return;
	ereport(WARNING,
			(errcode(ERRCODE_WARNING),
			 errmsg("stream \"%s\" may store events of subscription \"%s\" twice",
					job->too_short.stream, state->subscription),
			 errdetail("It remembers the ids of messages for %lld ms, and an event may be sent again after %d ms.",
					   (long long) job->too_short.window, state->longest_wait),
			 errhint("Raise the stream's duplicate window, or lower backoff_max of the subscription.")));
}

/*
 * Callback: publish the events, those of different keys without waiting for
 * each other.  Where nothing became known of any, the whole is an error: the
 * server is away, or takes nothing.
 */
static void
nats_deliver(OiSinkState *state, OiSinkEvent *events, int n, TimestampTz deadline)
{
	NatsSink   *sink = state->private_data;
	NatsJob		job = {.sink = sink};
	bool		known = false;

	job.messages = palloc0(sizeof(NatsMessage) * n);
	job.sent = palloc(sizeof(int) * n);
	for (int i = 0; i < n; i++)
		make_message(&job.messages[i], state, &events[i]);
	oi_keys_queue(&job.queue, events, n);
	run_job(sink, &job, deadline);

	for (int i = 0; i < n; i++)
		known |= note_outcome(&events[i], &job.messages[i]);
	warn_of_window(state, &job);
	if (!known)
		ereport(ERROR,
				(errcode(ERRCODE_CONNECTION_FAILURE),
				 errmsg("%s", job.error[0] ? job.error : "no acknowledgement in the time for the batch")));
}

/*
 * Callback: end the thread, the connection, and the threads of the library.
 */
static void
nats_shutdown(OiSinkState *state)
{
	NatsSink   *sink = state->private_data;

	if (sink == NULL || sink->aside == NULL)
		return;
	set_hurry(sink, true);
	oi_aside_end(sink->aside);
	sink->aside = NULL;
	nats_disconnect(sink);
	if (sink->used)
		(void) nats_CloseAndWait(CLOSE_TIMEOUT);
	pthread_cond_destroy(&sink->heard);
	pthread_mutex_destroy(&sink->mutex);
}

static const OiSinkCallbacks nats_callbacks = {
	.magic = OI_SINK_MAGIC,
	.check_configured = nats_check_configured,
	.startup = nats_startup,
	.deliver = nats_deliver,
	.shutdown = nats_shutdown
};

/*
 * What the loader looks up.
 */
const OiSinkCallbacks *
_PG_order_sink_init(void)
{
	return &nats_callbacks;
}
