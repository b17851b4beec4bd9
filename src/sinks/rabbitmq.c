/*-------------------------------------------------------------------------
 *
 * rabbitmq.c
 *		The sink "rabbitmq": publishing to an exchange, with confirms.
 *
 * An event goes out as a CloudEvent in binary mode: attributes as headers
 * cloudEvents:..., the payload as the body, and its id as message_id, the same
 * on every attempt.  It is persistent and mandatory, and counts as delivered when
 * the broker has confirmed it and not returned it.
 *
 * librabbitmq waits within its functions, so all of them are called in a thread
 * (shared_aside.c): rabbitmq_connection.c and rabbitmq_publish.c.  Here is what
 * the worker does: it makes messages of events, waits for the thread, and makes
 * outcomes of what became of the messages.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "fmgr.h"
#include "miscadmin.h"
#include "order_sink.h"
#include "rabbitmq_sink.h"
#include "shared_headers.h"
#include "shared_options.h"
#include "utils/timestamp.h"

PG_MODULE_MAGIC;

/* defaults of server options */
#define DEFAULT_PORT 5672
#define DEFAULT_TLS_PORT 5671
#define DEFAULT_HEARTBEAT 10
#define DEFAULT_TIMEOUT 10000
#define DEFAULT_IN_FLIGHT 1000

/* ms between two visits of the thread to a connection without work */
#define IDLE_INTERVAL 1000

/* ms that the thread has to end in by itself, before its socket is shut down */
#define HURRY 500

/* exceptions of AMQP that are about one message */
#define CONTENT_TOO_LARGE 311
#define PRECONDITION_FAILED 406

/* AMQP's numbers for a persistent message */
#define PERSISTENT 2

#define PREFIX "cloudEvents:"

/* the names of the usual headers */
static const char *const names[] = OI_HEADERS_NAMES(PREFIX);

/*
 * Callback: is everything there?
 */
static const char *
rabbitmq_check_configured(OiSinkState *state)
{
	const char *auth = oi_sink_option(state->options, "auth");

	if (oi_sink_option(state->options, "host") == NULL)
		return "option \"host\" is missing";
	if ((oi_sink_option(state->options, "cert_file") == NULL) !=
		(oi_sink_option(state->options, "key_file") == NULL))
		return "options \"cert_file\" and \"key_file\" go together";
	if (auth != NULL && strcmp(auth, "external") == 0 &&
		oi_sink_option(state->options, "cert_file") == NULL)
		return "external authentication takes options \"cert_file\" and \"key_file\"";
	if ((oi_sink_option(state->user_options, "user") == NULL) !=
		(oi_sink_option(state->user_options, "password") == NULL))
		return "options \"user\" and \"password\" of the user mapping go together";

	/* there the routing key is the name of any queue at all */
	if (oi_sink_option(state->options, "exchange") == NULL && state->topic[0] == '{')
		return "a topic that begins with a placeholder takes option \"exchange\"";
	return NULL;
}

/*
 * Take over the options of server and user mapping.
 */
static void
read_options(RabbitSink *sink, const OiSinkState *state)
{
	List	   *options = state->options;

	sink->tls = oi_option_boolean(options, "tls", false);
	sink->host = oi_option_text(options, "host", NULL);
	sink->port = oi_option_number(options, "port", sink->tls ? DEFAULT_TLS_PORT : DEFAULT_PORT);
	sink->allowed = oi_networks_parse(oi_sink_option(options, "allow_addresses"));
	sink->virtual_host = oi_option_text(options, "virtual_host", "/");
	sink->exchange = oi_option_text(options, "exchange", "");
	sink->external = strcmp(oi_option_text(options, "auth", "plain"), "external") == 0;
	sink->ca_file = oi_option_text(options, "ca_file", NULL);
	sink->cert_file = oi_option_text(options, "cert_file", NULL);
	sink->key_file = oi_option_text(options, "key_file", NULL);
	sink->heartbeat = oi_option_number(options, "heartbeat", DEFAULT_HEARTBEAT);
	sink->timeout = oi_option_number(options, "timeout", DEFAULT_TIMEOUT);
	sink->max_in_flight = oi_option_number(options, "max_in_flight", DEFAULT_IN_FLIGHT);
	sink->user = oi_option_text(state->user_options, "user", "guest");
	sink->password = oi_option_text(state->user_options, "password", "guest");
	sink->name = psprintf("order_idempotency %s", state->subscription);
}

/*
 * Callback: start the thread.  It connects when there is something to deliver.
 */
static void
rabbitmq_startup(OiSinkState *state)
{
	MemoryContext old = MemoryContextSwitchTo(state->context);
	RabbitSink *sink = palloc0(sizeof(RabbitSink));

	read_options(sink, state);
	MemoryContextSwitchTo(old);
	sink->fd = -1;
	pthread_mutex_init(&sink->mutex, NULL);
	state->private_data = sink;
	sink->aside = oi_aside_start(rabbit_idle, IDLE_INTERVAL, sink, "OrderIdempotencyRabbitmq");
}

/*
 * A text of ours as the library has it.
 */
static amqp_bytes_t
bytes_of(const char *text)
{
	return amqp_cstring_bytes(text);
}

/*
 * Add a header to those of a message.
 */
static void
add_header(RabbitMessage *message, const char *name, const char *value)
{
	amqp_table_t *headers = &message->properties.headers;
	amqp_table_entry_t *entry = &headers->entries[headers->num_entries++];

	entry->key = bytes_of(name);
	entry->value.kind = AMQP_FIELD_KIND_UTF8;
	entry->value.value.bytes = bytes_of(value);
	message->size += entry->key.len + entry->value.value.bytes.len + 8;
	message->unfit |= entry->key.len > RABBIT_SHORT;
}

/*
 * The headers of an event: its attributes; trace context besides under the
 * names that W3C gives it.  The content type is a property of its own.
 */
static void
make_headers(RabbitMessage *message, const OiSinkState *state, const OiSinkEvent *event)
{
	int			n;
	OiSinkHeader *attributes = oi_cloudevent_attributes(state, event, &n);

	message->properties.headers.entries = palloc0(sizeof(amqp_table_entry_t) * (n + 2));
	for (int i = 0; i < n; i++)
	{
		const char *name = attributes[i].name;

		if (strcmp(name, "datacontenttype") == 0)
			continue;
		add_header(message, oi_headers_name(names, PREFIX, name), attributes[i].value);
		if (strcmp(name, "traceparent") == 0 || strcmp(name, "tracestate") == 0)
			add_header(message, name, attributes[i].value);
	}
}

/*
 * Make a message of an event; one that is unfit is rejected at once.
 */
static void
make_message(RabbitMessage *message, const OiSinkState *state, OiSinkEvent *event)
{
	amqp_basic_properties_t *properties = &message->properties;

	make_headers(message, state, event);
	message->unfit |= message->size > RABBIT_HEADER_BYTES;
	if (message->unfit)
		event->reason = "headers are too large for AMQP";
	if (strlen(event->topic) > RABBIT_SHORT)
	{
		message->unfit = true;
		event->reason = psprintf("routing key is longer than %d bytes", RABBIT_SHORT);
	}
	if (message->unfit)
		event->outcome = OI_SINK_REJECTED;

	message->routing_key = event->topic;
	message->body = event->payload ? bytes_of(event->payload) : amqp_empty_bytes;
	message->size += message->body.len;
	properties->_flags = AMQP_BASIC_HEADERS_FLAG | AMQP_BASIC_DELIVERY_MODE_FLAG |
		AMQP_BASIC_MESSAGE_ID_FLAG | AMQP_BASIC_TIMESTAMP_FLAG | AMQP_BASIC_APP_ID_FLAG;
	properties->delivery_mode = PERSISTENT;
	properties->message_id = bytes_of(event->event_id_text);
	properties->timestamp = timestamptz_to_time_t(event->created_at);
	properties->app_id = bytes_of("order_idempotency");
	if (event->payload != NULL)
	{
		properties->_flags |= AMQP_BASIC_CONTENT_TYPE_FLAG;
		properties->content_type = bytes_of("application/json");
	}
	if (strlen(event->type) <= RABBIT_SHORT)
	{
		properties->_flags |= AMQP_BASIC_TYPE_FLAG;
		properties->type = bytes_of(event->type);
	}
}

/*
 * Say whether the thread is to come to an end.
 */
static void
set_hurry(RabbitSink *sink, bool on)
{
	pthread_mutex_lock(&sink->mutex);
	sink->hurry = on;
	pthread_mutex_unlock(&sink->mutex);
}

/*
 * Have the thread come to an end with what it is at: by itself, or for want of a
 * connection.
 */
static void
hurry(RabbitSink *sink)
{
	set_hurry(sink, true);
	while (!oi_aside_wait_quietly(sink->aside, HURRY))
		rabbit_break(sink);
}

/*
 * Have the thread do a job until a deadline.  When this returns, or raises an
 * error, the thread does not use the job any more.
 */
static void
run_job(RabbitSink *sink, RabbitJob *job, TimestampTz deadline)
{
	long		left = TimestampDifferenceMilliseconds(GetCurrentTimestamp(), deadline);

	set_hurry(sink, false);
	PG_TRY();
	{
		oi_aside_begin(sink->aside, rabbit_publish, job);
		(void) oi_aside_wait(sink->aside, (int) Max(left, 1));
	}
	PG_CATCH();
	{
		hurry(sink);
		PG_RE_THROW();
	}
	PG_END_TRY();
	hurry(sink);
}

/*
 * What became of a message is the outcome of its event.  True: that is known.
 */
static bool
note_outcome(OiSinkEvent *event, const RabbitMessage *message)
{
	switch (message->fate)
	{
		case RABBIT_CONFIRMED:
			event->outcome = OI_SINK_DELIVERED;
			return true;
		case RABBIT_UNROUTABLE:
			event->reason = psprintf("no queue is bound for routing key \"%s\": broker returned the message with %s",
									 message->routing_key, message->answer);
			return true;
		case RABBIT_REFUSED:
			event->reason = "broker refused the message (negative confirm): a queue is full or failed";
			return true;
		case RABBIT_NEW:
		case RABBIT_SENT:
		case RABBIT_RETURNED:
			break;
	}
	return message->unfit;
}

/*
 * Callback: publish the events, those of different keys without waiting for
 * each other.  Where nothing became known of any, the whole is an error: the
 * broker is away, or takes nothing.
 */
static void
rabbitmq_deliver(OiSinkState *state, OiSinkEvent *events, int n, TimestampTz deadline)
{
	RabbitSink *sink = state->private_data;
	RabbitJob	job = {.sink = sink};
	bool		known = false;

	job.messages = palloc0(sizeof(RabbitMessage) * n);
	job.sent = palloc(sizeof(int) * n);
	for (int i = 0; i < n; i++)
		make_message(&job.messages[i], state, &events[i]);
	oi_keys_queue(&job.queue, events, n);
	run_job(sink, &job, deadline);

	for (int i = 0; i < n; i++)
		known |= note_outcome(&events[i], &job.messages[i]);
	if (job.in_flight == 1 && (job.code == PRECONDITION_FAILED || job.code == CONTENT_TOO_LARGE))
	{
		OiSinkEvent *culprit = &events[job.sent[job.settled]];

		culprit->outcome = OI_SINK_REJECTED;
		culprit->reason = pstrdup(job.error);
	}
	else if (!known)
		ereport(ERROR,
				(errcode(ERRCODE_CONNECTION_FAILURE),
				 errmsg("%s", job.error[0] ? job.error : "broker gave no confirm in the time for the batch")));
}

/*
 * Callback: end the thread, and the connection.
 */
static void
rabbitmq_shutdown(OiSinkState *state)
{
	RabbitSink *sink = state->private_data;

	if (sink == NULL || sink->aside == NULL)
		return;
	hurry(sink);
	rabbit_break(sink);
	oi_aside_end(sink->aside);
	sink->aside = NULL;
	rabbit_disconnect(sink);
	pthread_mutex_destroy(&sink->mutex);
}

static const OiSinkCallbacks rabbitmq_callbacks = {
	.magic = OI_SINK_MAGIC,
	.check_configured = rabbitmq_check_configured,
	.startup = rabbitmq_startup,
	.deliver = rabbitmq_deliver,
	.shutdown = rabbitmq_shutdown
};

/*
 * What the loader looks up.
 */
const OiSinkCallbacks *
_PG_order_sink_init(void)
{
	return &rabbitmq_callbacks;
}
