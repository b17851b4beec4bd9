/*-------------------------------------------------------------------------
 *
 * http.c
 *		The sink "http": one POST for each event.
 *
 * An event goes out as a CloudEvent in binary mode: attributes as ce- headers,
 * the payload as the body.  Idempotency-Key and webhook-id are the event's id,
 * the same on every attempt.  With a secret in the user mapping it is signed as
 * Standard Webhooks has it.
 *
 * Up to max_in_flight requests are under way at once, never two of one key: an
 * event is sent when the one before it of its key was delivered, and not at
 * all in this call where that one was not.
 *
 * libcurl does the protocol.  It resolves names in threads of its own, which
 * inherit the mask of signals from us: all are blocked while it runs.  They are
 * not waited for when a request is given up (a name server that is silent would
 * hold up the worker), and touch nothing of the server's.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "compat.h"
#include "fmgr.h"
#include "http_sink.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "shared_keys.h"
#include "shared_options.h"
#include "utils/timestamp.h"

PG_MODULE_MAGIC;

/* ms until interrupts are looked at, while nothing comes in */
#define POLL_INTERVAL 200

/* defaults of server options */
#define DEFAULT_IN_FLIGHT 8
#define DEFAULT_TIMEOUT 10000

/* one call of deliver */
typedef struct Delivery
{
	OiSinkState *state;
	OiSinkEvent *events;
	int			n;
	OiKeyQueue	queue;
	int			in_flight;
} Delivery;

/*
 * Callback: is everything there?
 */
static const char *
http_check_configured(OiSinkState *state)
{
	if (oi_sink_option(state->options, "url") == NULL)
		return "option \"url\" is missing";
	return NULL;
}

/*
 * Around every call of libcurl: its threads must not take our signals.
 */
static void
enter_library(HttpSink *sink)
{
	sigset_t	all;

	sigfillset(&all);
	sigprocmask(SIG_SETMASK, &all, &sink->outer_mask);
}

static void
leave_library(HttpSink *sink)
{
	sigprocmask(SIG_SETMASK, &sink->outer_mask, NULL);
}

/*
 * Take over the options of server and user mapping.
 */
static void
read_options(HttpSink *sink, const OiSinkState *state)
{
	const char *allowed = oi_sink_option(state->options, "allow_addresses");
	const char *ca_file = oi_sink_option(state->options, "ca_file");
	const char *token = oi_sink_option(state->user_options, "token");
	const char *secret = oi_sink_option(state->user_options, "secret");

	sink->url = pstrdup(oi_sink_option(state->options, "url"));
	sink->max_in_flight = oi_option_number(state->options, "max_in_flight", DEFAULT_IN_FLIGHT);
	sink->timeout = oi_option_number(state->options, "timeout", DEFAULT_TIMEOUT);
	sink->ca_file = ca_file ? pstrdup(ca_file) : NULL;
	sink->authorization = token ? psprintf("Authorization: Bearer %s", token) : NULL;
	sink->secret = secret ? http_secret_parse(secret) : NULL;
	sink->allowed = allowed ? oi_networks_parse(allowed) : oi_networks_public();
}

/*
 * Callback: make the handles.  Nothing is connected before the first event.
 */
static void
http_startup(OiSinkState *state)
{
	MemoryContext old = MemoryContextSwitchTo(state->context);
	HttpSink   *sink = palloc0(sizeof(HttpSink));

	state->private_data = sink;
	read_options(sink, state);
	sink->requests = palloc0(sizeof(HttpRequest) * sink->max_in_flight);
	MemoryContextSwitchTo(old);

	enter_library(sink);
	(void) curl_global_init(CURL_GLOBAL_DEFAULT);
	sink->multi = curl_multi_init();
	for (int i = 0; i < sink->max_in_flight && sink->multi != NULL; i++)
	{
		HttpRequest *request = &sink->requests[i];

		request->sink = sink;
		request->event = -1;
		request->easy = curl_easy_init();
		if (request->easy != NULL)
			http_request_init(sink, request);
	}
	leave_library(sink);
	if (sink->multi == NULL || sink->requests[sink->max_in_flight - 1].easy == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OUT_OF_MEMORY),
				 errmsg("could not initialize libcurl")));
	curl_multi_setopt(sink->multi, CURLMOPT_MAXCONNECTS, (long) sink->max_in_flight);
}

/*
 * Send an event by an idle handle.
 */
static void
send_event(Delivery *delivery, HttpRequest *request, int which)
{
	http_request_fill(request, delivery->state, &delivery->events[which]);
	request->event = which;
	curl_multi_add_handle(request->sink->multi, request->easy);
	delivery->in_flight++;
}

/*
 * Let go of a request, finished or not.
 */
static void
end_request(HttpRequest *request)
{
	if (request->event < 0)
		return;
	curl_multi_remove_handle(request->sink->multi, request->easy);
	curl_slist_free_all(request->headers);
	request->headers = NULL;
	request->event = -1;
}

/*
 * Send as many events as there are idle handles.
 */
static void
send_ready(HttpSink *sink, Delivery *delivery)
{
	for (int i = 0; i < sink->max_in_flight && oi_keys_ready(&delivery->queue); i++)
		if (sink->requests[i].event < 0)
			send_event(delivery, &sink->requests[i], oi_keys_take(&delivery->queue));
}

/*
 * What an HTTP status means for an event.  A redirect is not followed, and is no
 * acknowledgement.
 */
static OiSinkOutcome
status_outcome(long status)
{
	if (status >= 200 && status < 300)
		return OI_SINK_DELIVERED;
	if (status >= 400 && status < 500 && status != 408 && status != 425 && status != 429)
		return OI_SINK_REJECTED;
	return OI_SINK_RETRY;
}

/*
 * Take down what became of a request whose exchange was whole.
 */
static void
note_status(HttpRequest *request, OiSinkEvent *event)
{
	long		status = 0;
	curl_off_t	wait = 0;

	curl_easy_getinfo(request->easy, CURLINFO_RESPONSE_CODE, &status);
	event->outcome = status_outcome(status);
	if (event->outcome == OI_SINK_DELIVERED)
		return;
	event->reason = psprintf("receiver answered with status %ld", status);
	curl_easy_getinfo(request->easy, CURLINFO_RETRY_AFTER, &wait);
	if (event->outcome == OI_SINK_RETRY && wait > 0)
		event->retry_after = (int) Min(wait, PG_INT32_MAX / 1000) * 1000;
}

/*
 * Take down what became of one that failed on the way.  Whether the receiver has
 * the event is unknown, whatever status it began to send.
 */
static void
note_failure(HttpRequest *request, CURLcode code, OiSinkEvent *event)
{
	event->outcome = OI_SINK_RETRY;
	if (request->forbidden)
		event->reason = OI_ADDRESS_REFUSED;
	else if (request->too_long)
		event->reason = psprintf("response is longer than %d bytes", HTTP_MAX_RESPONSE);
	else if (code == CURLE_OK)
		event->reason = "connection was closed within the response";
	else
		event->reason = pstrdup(request->error[0] ? request->error : curl_easy_strerror(code));
}

/*
 * Deal with the requests that have come to their end.
 */
static void
collect(HttpSink *sink, Delivery *delivery)
{
	CURLMsg    *message;
	int			left;

	while ((message = curl_multi_info_read(sink->multi, &left)) != NULL)
	{
		CURLcode	code = message->data.result;
		HttpRequest *request = NULL;
		OiSinkEvent *event;
		int			which;

		if (message->msg != CURLMSG_DONE)
			continue;
		curl_easy_getinfo(message->easy_handle, CURLINFO_PRIVATE, (char **) &request);
		which = request->event;
		event = &delivery->events[which];
		if (code == CURLE_OK && request->whole_header)
			note_status(request, event);
		else
			note_failure(request, code, event);
		end_request(request);
		delivery->in_flight--;
		if (event->outcome == OI_SINK_DELIVERED)
			oi_keys_delivered(&delivery->queue, which);
	}
}

/*
 * Let libcurl work until something happened, or for a short time.
 */
static void
exchange(HttpSink *sink, Delivery *delivery)
{
	static uint32 event = 0;
	int			running;

	enter_library(sink);
	send_ready(sink, delivery);
	curl_multi_perform(sink->multi, &running);
	leave_library(sink);
	collect(sink, delivery);
	if (running == 0 ||
		(oi_keys_ready(&delivery->queue) && delivery->in_flight < sink->max_in_flight))
		return;

	/* signals come through here; what they ask for is done by the caller */
	pgstat_report_wait_start(oi_compat_wait_event(&event, "OrderIdempotencyHttp"));
	curl_multi_poll(sink->multi, NULL, 0, POLL_INTERVAL, NULL);
	pgstat_report_wait_end();
}

/*
 * Give up what is under way.
 */
static void
abandon(HttpSink *sink)
{
	enter_library(sink);
	for (int i = 0; i < sink->max_in_flight; i++)
		end_request(&sink->requests[i]);
	leave_library(sink);
}

/*
 * Callback: send the events, those of different keys beside each other.
 */
static void
http_deliver(OiSinkState *state, OiSinkEvent *events, int n, TimestampTz deadline)
{
	HttpSink   *sink = state->private_data;
	Delivery	delivery = {.state = state,.events = events,.n = n};

	abandon(sink);				/* what an error left */
	oi_keys_queue(&delivery.queue, events, n);
	while (delivery.in_flight > 0 || oi_keys_ready(&delivery.queue))
	{
		CHECK_FOR_INTERRUPTS();
		if (GetCurrentTimestamp() >= deadline)
			break;
		exchange(sink, &delivery);
	}
	for (int i = 0; i < sink->max_in_flight; i++)
		if (sink->requests[i].event >= 0)
			events[sink->requests[i].event].reason = "no answer in the time for the batch";
	abandon(sink);
}

/*
 * Callback: close the connections.
 */
static void
http_shutdown(OiSinkState *state)
{
	HttpSink   *sink = state->private_data;

	if (sink == NULL || sink->multi == NULL)
		return;
	abandon(sink);
	enter_library(sink);
	for (int i = 0; i < sink->max_in_flight; i++)
		if (sink->requests[i].easy != NULL)
			curl_easy_cleanup(sink->requests[i].easy);
	curl_multi_cleanup(sink->multi);
	leave_library(sink);
	sink->multi = NULL;
}

static const OiSinkCallbacks http_callbacks = {
	.magic = OI_SINK_MAGIC,
	.check_configured = http_check_configured,
	.startup = http_startup,
	.deliver = http_deliver,
	.shutdown = http_shutdown
};

/*
 * What the loader looks up.
 */
const OiSinkCallbacks *
_PG_order_sink_init(void)
{
	return &http_callbacks;
}
