/*-------------------------------------------------------------------------
 *
 * http.c
 *		Publishing with libcurl's multi interface: one POST for each event.
 *
 *-------------------------------------------------------------------------
 */
#include <curl/curl.h>

#include "bare.h"

#define LINE	512

typedef struct Request
{
	CURL	   *easy;
	struct curl_slist *headers;
} Request;

static CURLM *multi;
static Request *requests;
static Request **idle;			/* those without an event */
static int	nidle;

static const char *const names[ATTRIBUTES] = {
	"ce-specversion", "ce-id", "ce-source", "ce-type", "ce-subject", "ce-time", "ce-partitionkey",
	"ce-sequence", "Content-Type"
};

/* Called by the library with parts of an answer, which nobody reads. */
static size_t
receive(char *data, size_t size, size_t n, void *arg)
{
	(void) data;
	(void) arg;
	return size * n;
}

/* Sets up what all requests of a handle have in common. */
static void
set_up(Request *request)
{
	char		url[LINE];

	snprintf(url, sizeof(url), "%s/%s", options.target, options.topic);
	request->easy = curl_easy_init();
	if (request->easy == NULL)
		die("out of memory");
	curl_easy_setopt(request->easy, CURLOPT_URL, url);
	curl_easy_setopt(request->easy, CURLOPT_HTTP_VERSION, CURL_HTTP_VERSION_1_1);
	curl_easy_setopt(request->easy, CURLOPT_PROXY, "");
	curl_easy_setopt(request->easy, CURLOPT_NOSIGNAL, 1L);
	curl_easy_setopt(request->easy, CURLOPT_POST, 1L);
	curl_easy_setopt(request->easy, CURLOPT_USERAGENT, "order_idempotency");
	curl_easy_setopt(request->easy, CURLOPT_WRITEFUNCTION, receive);
	curl_easy_setopt(request->easy, CURLOPT_PRIVATE, request);
}

void
publisher_open(void)
{
	curl_global_init(CURL_GLOBAL_DEFAULT);
	multi = curl_multi_init();
	requests = calloc(options.in_flight, sizeof(Request));
	idle = calloc(options.in_flight, sizeof(Request *));
	if (multi == NULL || requests == NULL || idle == NULL)
		die("out of memory");
	curl_multi_setopt(multi, CURLMOPT_MAXCONNECTS, (long) options.in_flight);
	for (int i = 0; i < options.in_flight; i++)
	{
		set_up(&requests[i]);
		idle[nidle++] = &requests[i];
	}
}

/* Adds a header. */
static void
add_header(Request *request, const char *name, const char *value)
{
	char		line[LINE];

	snprintf(line, sizeof(line), "%s: %s", name, value);
	request->headers = curl_slist_append(request->headers, line);
}

/* Begins to send an event. */
static void
send_one(const Event *event)
{
	Request    *request = idle[--nidle];

	request->headers = curl_slist_append(NULL, "Expect:");
	for (int i = 0; i < ATTRIBUTES; i++)
		add_header(request, names[i], event->value[i]);
	add_header(request, "Idempotency-Key", event->value[ID]);
	curl_easy_setopt(request->easy, CURLOPT_HTTPHEADER, request->headers);
	curl_easy_setopt(request->easy, CURLOPT_POSTFIELDS, event->payload);
	curl_easy_setopt(request->easy, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t) event->payload_size);
	curl_multi_add_handle(multi, request->easy);
}

/* Deals with the requests that have their answer. */
static void
collect(void)
{
	CURLMsg    *message;
	int			left;

	while ((message = curl_multi_info_read(multi, &left)) != NULL)
	{
		Request    *request;
		long		status = 0;

		curl_easy_getinfo(message->easy_handle, CURLINFO_PRIVATE, (char **) &request);
		curl_easy_getinfo(message->easy_handle, CURLINFO_RESPONSE_CODE, &status);
		if (message->data.result != CURLE_OK || status != 200)
			die("%s, status %ld", curl_easy_strerror(message->data.result), status);
		curl_multi_remove_handle(multi, request->easy);
		curl_slist_free_all(request->headers);
		idle[nidle++] = request;
	}
}

void
publish(const Event *events, int n)
{
	int			at = 0;

	while (at < n || nidle < options.in_flight)
	{
		int			running;

		while (at < n && nidle > 0)
			send_one(&events[at++]);
		curl_multi_perform(multi, &running);
		collect();
		if (running > 0 && (nidle == 0 || at == n))
			curl_multi_poll(multi, NULL, 0, 1000, NULL);
	}
}
