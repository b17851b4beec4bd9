/*-------------------------------------------------------------------------
 *
 * http_request.c
 *		The requests of the sink "http": what is sent, and taking in the response.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <sys/socket.h>

#include "http_sink.h"
#include "shared_headers.h"

/*
 * libcurl callback: count what comes, keep nothing, and stop at the limit.
 */
static size_t
receive(char *data, size_t size, size_t n, void *arg)
{
	HttpRequest *request = arg;

	request->received += size * n;
	request->too_long = request->received > HTTP_MAX_RESPONSE;
	return request->too_long ? 0 : size * n;
}

/*
 * libcurl callback, for each line of a header: a connection that ends within it
 * is no error to libcurl.
 */
static size_t
receive_header(char *line, size_t size, size_t n, void *arg)
{
	HttpRequest *request = arg;
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
	HttpRequest *request = arg;

	if (!oi_address_allowed(request->sink->allowed, &address->addr))
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
 * Give a request what all that it will be used for has in common.  No proxy, no redirect, no
 * file of credentials, no other protocol: nothing that the environment of the
 * server could bring in.
 */
void
http_request_init(HttpSink *sink, HttpRequest *request)
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
 * Have an idle request send an event, once it is added to the others.
 */
void
http_request_fill(HttpRequest *request, const OiSinkState *state, const OiSinkEvent *event)
{
	const char *body = event->payload ? event->payload : "";
	char	   *url = make_url(request->sink, event);

	request->headers = make_headers(request->sink, state, event);
	request->received = 0;
	request->too_long = request->whole_header = request->forbidden = false;
	request->error[0] = '\0';
	curl_easy_setopt(request->easy, CURLOPT_URL, url);
	pfree(url);
	curl_easy_setopt(request->easy, CURLOPT_HTTPHEADER, request->headers);
	curl_easy_setopt(request->easy, CURLOPT_POSTFIELDS, body);
	curl_easy_setopt(request->easy, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t) strlen(body));
}
