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

#include <curl/curl.h>
#include <signal.h>
#include <sys/socket.h>

#include "compat.h"
#include "fmgr.h"
#include "http_address.h"
#include "http_signature.h"
#include "miscadmin.h"
#include "order_sink.h"
#include "pgstat.h"
#include "shared_headers.h"
#include "shared_keys.h"
#include "shared_options.h"
#include "utils/timestamp.h"

PG_MODULE_MAGIC;

/* what is read of a response, headers and body each, before it is given up */
#define MAX_RESPONSE (64 * 1024)

/* ms until interrupts are looked at, while nothing comes in */
#define POLL_INTERVAL 200

/* defaults of server options */
#define DEFAULT_IN_FLIGHT 8
#define DEFAULT_TIMEOUT 10000

typedef struct HttpSink HttpSink;

/* one connection's worth of work: a request under way, or an idle handle */
typedef struct Request
{
	HttpSink   *sink;
	CURL	   *easy;
	struct curl_slist *headers;
	int			event;			/* which of the batch; -1: idle */
	size_t		received;		/* bytes of the response so far */
	bool		too_long;
	bool		whole_header;	/* the empty line behind it was there */
	bool		forbidden;		/* the address is not allowed */
	char		error[CURL_ERROR_SIZE];
} Request;

struct HttpSink
{
	CURLM	   *multi;
	Request    *requests;
	int			max_in_flight;
	long		timeout;		/* ms for one request */
	char	   *url;
	const char *authorization;	/* header line, or NULL */
	HttpSecret *secret;			/* NULL: do not sign */
	HttpNetworks *allowed;
	char	   *ca_file;		/* NULL: the system's */
	sigset_t	outer_mask;		/* of signals, while libcurl runs */
};

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
 * libcurl callback: count what comes, keep nothing, and stop at the limit.
 */
static size_t
receive(char *data, size_t size, size_t n, void *arg)
{
	Request    *request = arg;

	request->received += size * n;
	request->too_long = request->received > MAX_RESPONSE;
	return request->too_long ? 0 : size * n;
}

/*
 * libcurl callback, for each line of a header: a connection that ends within it
 * is no error to libcurl.
 */
static size_t
receive_header(char *line, size_t size, size_t n, void *arg)
{
	Request    *request = arg;
	size_t		len = size * n;

	request->whole_header = len > 0 && (line[0] == '\r' || line[0] == '\n');
	return receive(line, size, n, arg);
}

/*
 * libcurl callback: open a socket to an address that a name led to, if that
 * address is allowed.  Here nothing can come between check and use.
 */
static curl_socket_t
open_socket(void *arg, curlsocktype purpose, struct curl_sockaddr *address)
{
	Request    *request = arg;

	if (!http_address_allowed(request->sink->allowed, &address->addr))
	{
		request->forbidden = true;
		return CURL_SOCKET_BAD;
	}
	return socket(address->family, address->socktype, address->protocol);
}

/*
 * The URL that an event is sent to: that of the server, and the topic as a path
 * below it where there is one.
 */
static char *
make_url(const HttpSink *sink, const OiSinkEvent *event)
{
	size_t		len = strlen(sink->url);

	if (event->topic[0] == '\0')
		return pstrdup(sink->url);
	while (len > 0 && sink->url[len - 1] == '/')
		len--;
	return psprintf("%.*s/%s", (int) len, sink->url, event->topic);
}

/*
 * What all requests of a handle have in common.  No proxy, no redirect, no
 * file of credentials, no other protocol: nothing that the environment of the
 * server could bring in.
 */
static void
set_up_handle(HttpSink *sink, Request *request)
{
	CURL	   *easy = request->easy;
	bool		secure = pg_strncasecmp(sink->url, "https:", 6) == 0;

	curl_easy_setopt(easy, CURLOPT_PROTOCOLS_STR, secure ? "https" : "http");
	curl_easy_setopt(easy, CURLOPT_HTTP_VERSION, CURL_HTTP_VERSION_1_1);
	curl_easy_setopt(easy, CURLOPT_FOLLOWLOCATION, 0L);
	curl_easy_setopt(easy, CURLOPT_PROXY, "");
	curl_easy_setopt(easy, CURLOPT_NETRC, (long) CURL_NETRC_IGNORED);
	curl_easy_setopt(easy, CURLOPT_SSL_VERIFYPEER, 1L);
	curl_easy_setopt(easy, CURLOPT_SSL_VERIFYHOST, 2L);
	if (sink->ca_file != NULL)
		curl_easy_setopt(easy, CURLOPT_CAINFO, sink->ca_file);
	curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 1L);
	curl_easy_setopt(easy, CURLOPT_QUICK_EXIT, 1L);
	curl_easy_setopt(easy, CURLOPT_TIMEOUT_MS, sink->timeout);
	curl_easy_setopt(easy, CURLOPT_CONNECTTIMEOUT_MS, sink->timeout);
	curl_easy_setopt(easy, CURLOPT_POST, 1L);
	curl_easy_setopt(easy, CURLOPT_USERAGENT, "order_idempotency");
	curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, receive);
	curl_easy_setopt(easy, CURLOPT_WRITEDATA, request);
	curl_easy_setopt(easy, CURLOPT_HEADERFUNCTION, receive_header);
	curl_easy_setopt(easy, CURLOPT_HEADERDATA, request);
	curl_easy_setopt(easy, CURLOPT_OPENSOCKETFUNCTION, open_socket);
	curl_easy_setopt(easy, CURLOPT_OPENSOCKETDATA, request);
	curl_easy_setopt(easy, CURLOPT_ERRORBUFFER, request->error);
	curl_easy_setopt(easy, CURLOPT_PRIVATE, request);
}

/*
 * Take over the options of server and user mapping.
 */
static void
read_options(HttpSink *sink, const OiSinkState *state)
{
	const char *ca_file = oi_sink_option(state->options, "ca_file");
	const char *token = oi_sink_option(state->user_options, "token");
	const char *secret = oi_sink_option(state->user_options, "secret");

	sink->url = pstrdup(oi_sink_option(state->options, "url"));
	sink->max_in_flight = oi_option_number(state->options, "max_in_flight", DEFAULT_IN_FLIGHT);
	sink->timeout = oi_option_number(state->options, "timeout", DEFAULT_TIMEOUT);
	sink->ca_file = ca_file ? pstrdup(ca_file) : NULL;
	sink->authorization = token ? psprintf("Authorization: Bearer %s", token) : NULL;
	sink->secret = secret ? http_secret_parse(secret) : NULL;
	sink->allowed = http_networks_parse(oi_sink_option(state->options, "allow_addresses"));
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
	sink->requests = palloc0(sizeof(Request) * sink->max_in_flight);
	MemoryContextSwitchTo(old);

	enter_library(sink);
	(void) curl_global_init(CURL_GLOBAL_DEFAULT);
	sink->multi = curl_multi_init();
	for (int i = 0; i < sink->max_in_flight && sink->multi != NULL; i++)
	{
		Request    *request = &sink->requests[i];

		request->sink = sink;
		request->event = -1;
		request->easy = curl_easy_init();
		if (request->easy != NULL)
			set_up_handle(sink, request);
	}
	leave_library(sink);
	if (sink->multi == NULL || sink->requests[sink->max_in_flight - 1].easy == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OUT_OF_MEMORY),
				 errmsg("could not initialize libcurl")));
	curl_multi_setopt(sink->multi, CURLMOPT_MAXCONNECTS, (long) sink->max_in_flight);
}

/*
 * Append a header line.
 */
static struct curl_slist *
append_header(struct curl_slist *list, const char *prefix, const char *name, const char *value)
{
	StringInfoData line;

	initStringInfo(&line);
	appendStringInfoString(&line, prefix);
	appendStringInfoString(&line, name);
	appendStringInfoString(&line, ": ");
	oi_headers_append_value(&line, value);
	list = curl_slist_append(list, line.data);
	pfree(line.data);
	return list;
}

/*
 * The headers of an event: its attributes; trace context besides under the
 * names that W3C gives it.
 */
static struct curl_slist *
make_headers(HttpSink *sink, const OiSinkState *state, const OiSinkEvent *event)
{
	struct curl_slist *list = NULL;
	int			n;
	OiSinkHeader *attributes = oi_cloudevent_attributes(state, event, &n);

	for (int i = 0; i < n; i++)
	{
		if (strcmp(attributes[i].name, "datacontenttype") == 0)
			continue;
		list = append_header(list, "ce-", attributes[i].name, attributes[i].value);
		if (strcmp(attributes[i].name, "traceparent") == 0 ||
			strcmp(attributes[i].name, "tracestate") == 0)
			list = append_header(list, "", attributes[i].name, attributes[i].value);
	}
	list = curl_slist_append(list, event->payload ? "Content-Type: application/json" : "Content-Type:");
	list = append_header(list, "", "Idempotency-Key", event->event_id_text);
	list = curl_slist_append(list, "Expect:");
	if (sink->authorization != NULL)
		list = curl_slist_append(list, sink->authorization);
	if (sink->secret != NULL)
	{
		HttpSignature signature;

		http_sign(sink->secret, event->event_id_text, event->payload ? event->payload : "",
				  &signature);
		list = append_header(list, "", "webhook-id", event->event_id_text);
		list = append_header(list, "", "webhook-timestamp", signature.timestamp);
		list = append_header(list, "", "webhook-signature", signature.value);
	}
	pfree(attributes);
	return list;
}

/*
 * Send an event by an idle handle.
 */
static void
send_event(Delivery *delivery, Request *request, int which)
{
	HttpSink   *sink = request->sink;
	const OiSinkEvent *event = &delivery->events[which];
	const char *body = event->payload ? event->payload : "";
	char	   *url = make_url(sink, event);

	request->headers = make_headers(sink, delivery->state, event);
	request->event = which;
	request->received = 0;
	request->too_long = request->whole_header = request->forbidden = false;
	request->error[0] = '\0';
	curl_easy_setopt(request->easy, CURLOPT_URL, url);
	pfree(url);
	curl_easy_setopt(request->easy, CURLOPT_HTTPHEADER, request->headers);
	curl_easy_setopt(request->easy, CURLOPT_POSTFIELDS, body);
	curl_easy_setopt(request->easy, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t) strlen(body));
	curl_multi_add_handle(sink->multi, request->easy);
	delivery->in_flight++;
}

/*
 * Let go of a request, finished or not.
 */
static void
end_request(Request *request)
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
note_status(Request *request, OiSinkEvent *event)
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
note_failure(Request *request, CURLcode code, OiSinkEvent *event)
{
	event->outcome = OI_SINK_RETRY;
	if (request->forbidden)
		event->reason = "address of the receiver is not among those in option \"allow_addresses\"";
	else if (request->too_long)
		event->reason = psprintf("response is longer than %d bytes", MAX_RESPONSE);
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
		Request    *request = NULL;
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
